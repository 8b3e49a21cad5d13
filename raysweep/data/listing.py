"""What all sources share: images before they are decoded, the words for splits, the names and the order of classes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from raysweep._text import check_class, join_names, short_repr, truncate
from raysweep.data.reading import LeftOut
from raysweep.errors import DataError

TRAIN_NAMES = ("train", "training", "trainset")
VAL_NAMES = ("val", "valid", "validation", "dev", "valset")
TEST_NAMES = ("test", "testing", "eval", "evaluation", "testset")
# Kaggle's FER-2013 has two sets of test images, which are no two names for one; class folders of the same data have one test/.
FER_TESTS = ("publictest", "privatetest")
_SPLITS = {
    **dict.fromkeys(TRAIN_NAMES, "train"),
    **dict.fromkeys(VAL_NAMES, "val"),
    **dict.fromkeys((*TEST_NAMES, *FER_TESTS), "test"),
}
_WHOLE = re.compile(r"-?[0-9]+")
_INNER_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Packed(Protocol):
    """Encoded bytes within a larger file, which are read when they are needed."""

    @property
    def size(self) -> int:
        """About how many bytes they are."""
        ...

    def read(self) -> bytes:
        """The bytes; empty where there are none. Raises OSError where the file cannot be read any more."""
        ...


Payload = (
    Path | bytes | np.ndarray
)  # of one image: a file, encoded bytes, or pixels as uint8 of shape (H, W) or (H, W, 3)


class Item(NamedTuple):
    """One image before it is decoded."""

    name: str
    label: int
    payload: Payload | Packed
    group: str | None = None

    @property
    def content(self) -> Payload:
        """The payload, where it is packed read now. Raises OSError where it cannot be read any more."""
        packed = self.payload
        return packed if isinstance(packed, (Path, bytes, np.ndarray)) else packed.read()


def unpacked(items: Iterable[Item]) -> Iterator[Item]:
    """The items in their order, whose packed bytes are read when each is asked for; what cannot be read stays packed."""
    for item in items:
        try:
            yield item._replace(payload=item.content)
        except OSError:  # decoding will say why
            yield item


def size_of(payload: Payload | Packed) -> int:
    """How many bytes an image has as it is; 0 where that cannot be told."""
    if isinstance(payload, Path):
        try:
            return payload.stat().st_size
        except OSError:
            return 0
    if isinstance(payload, np.ndarray):
        return payload.nbytes
    return len(payload) if isinstance(payload, bytes) else payload.size


class Listing(NamedTuple):
    """All images of a data set. ``val`` is None where a part of the training images is set aside; ``test`` is sealed."""

    classes: tuple[str, ...]
    train: list[Item]
    val: list[Item] | None
    left_out: Mapping[str, LeftOut] = {}
    notes: tuple[str, ...] = ()  # how the data were read, for people
    test: Sequence[Item] = ()
    on_test: bool = False  # ``val`` are test images
    sets: tuple[tuple[int, ...], ...] | None = (
        None  # of several labels for an image: an item's label is the number of its set
    )

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the label of an item is a number of: a class, or a set of labels."""
        if self.sets is None:
            return self.classes
        return tuple(set_name([self.classes[c] for c in labels]) for labels in self.sets)


class SeveralLabelsError(DataError):
    """An image seems to have several labels where one class is read; the message names the option."""


EVERY, EMPTY = RESERVED = ("(all)", "(no label)")  # what comparisons call all classes, and images without labels


def set_name(labels: Sequence[str]) -> str:
    """A set of labels in words."""
    return " + ".join(labels) or EMPTY


def check_reserved(names: Iterable[str], where: object, what: str = "class") -> None:
    """Raises DataError where a class, or ``what`` they are, has a name with a meaning of its own: its numbers would be taken for others."""
    taken = [name for name in names if name in RESERVED]
    if taken:
        remedy = "Call it something else" if what == "label" else f"Rename it: 'data.rename={{\"{taken[0]}\": NAME}}'"
        raise DataError(
            f"{where} has a {what} called {taken[0]}, which stands for {'all' if taken[0] == EVERY else 'none'} of them in results. {remedy}."
        )


class Row(NamedTuple):
    """An image with the name of its class."""

    name: str
    label: str
    payload: Payload | Packed
    group: str | None = None


@dataclass(frozen=True)
class Found:
    """What a source holds: its images with the names of their classes as they are written there, and what is to be said of it."""

    train: list[Row]
    val: list[Row] | None  # None where the source has no split of its own
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)  # kind, in the plural → what
    notes: tuple[str, ...] = ()
    test: list[Row] = field(default_factory=list)  # sealed
    on_test: bool = False  # ``val`` are test images


class Source(Protocol):
    """One kind of data set on disk, or a built-in one. Where the classes are known without reading the images, it also has
    ``labels()``, which returns a set of them."""

    def fingerprint(self) -> str:
        """A text that changes whenever the data change; computed without reading all images."""
        ...

    def found(self) -> Found:
        """All images, not yet decoded."""
        ...


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Classes in the order that is used for every kind of source: by value if all are whole numbers, else as text.

    So "10" comes after "9", and data whose labels are numbers keep the order of their labels.
    """
    every = set(names)
    if all(_WHOLE.fullmatch(name) for name in every):
        return tuple(sorted(every, key=lambda name: (int(name), name)))
    return tuple(sorted(every))


def split_of(word: str) -> str | None:
    """``train``, ``val`` or ``test`` for any of the usual words for it, in any case; None for any other word."""
    return _SPLITS.get(word.strip().lower())


def written_split(word: str) -> str | None:
    """As :func:`split_of`, but FER-2013's two sets of test images keep their names, in lower case."""
    plain = word.strip().lower()
    return plain if plain in FER_TESTS else split_of(plain)


def truth(value: Any) -> bool | None:
    """Whether a field says yes or no; None if it says neither."""
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(
        str(value).strip().lower()
    )


def split_value(value: Any, where: object, flag: tuple[str, str] | None = None) -> str:
    """The split that a row's own column names.

    Args:
        flag: the splits that true and false stand for, where the column says one of these.

    Raises:
        DataError: the value is none of the words for a split.
    """
    found = written_split(value) if isinstance(value, str) else None
    if flag is not None and (true := truth(value)) is not None:
        return flag[0] if true else flag[1]
    if found is None:
        raise DataError(
            f"{where}: the split {short_repr(value)} is none of train, val (valid, validation, dev) and test. Correct it, or "
            "remove the column; raysweep then makes a split itself."
        )
    return found


def split_in(name: str) -> str | None:
    """The split in a file's name, as the datasets library finds it: the first word in it that names a split.

    ``train-00000-of-00002``, ``my_test_file``, ``FER2013Train`` and ``val1`` name one; ``testimony`` and ``value`` do not.
    """
    return next(iter(_splits_in(name)), None)


def only_split_in(name: str) -> str | None:
    """The split in the name of a folder or list; None also where it names several, as ``train_test_split`` does."""
    return split_of(name) or (next(iter(found)) if len(found := set(_splits_in(name))) == 1 else None)


def _splits_in(name: str) -> list[str]:
    words = re.split(r"[^a-z]+", _INNER_CAPITAL.sub(" ", name).lower())
    return [split for split in map(split_of, words) if split is not None]


def label_name(value: Any, names: Sequence[str] | None, where: object) -> str:
    """The class of a label, which is a text, or a number with or without a list of names.

    Raises:
        DataError: there is no label, it is of another type, the number has no name, or a class cannot have this name.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        raise SeveralLabelsError(
            f"{where} has no label. Give every row a label; or say data.multi_label=true, where an image has several labels, or none."
        )
    if not isinstance(value, (str, int, float)):
        raise DataError(
            f"{where}: the label {short_repr(value)} is neither text nor a number. Give every image one class."
        )
    if names is not None and isinstance(value, int):
        if not 0 <= value < len(names):
            raise DataError(
                f"{where}: label {short_repr(value)} is not one of 0 to {len(names) - 1} ({join_names(names)}). Correct the "
                "label, or the list of names."
            )
        return class_name(names[value], where)
    if isinstance(value, int) and value.bit_length() > 200:  # Python refuses to write out very long numbers
        raise DataError(f"{where}: the label is {short_repr(value)}. Give every image one class.")
    return class_name(str(value), where)


def canonical(name: str) -> str:
    """A class's name in Unicode's normal form C, without outer spaces."""
    return unicodedata.normalize("NFC", name).strip()


def class_name(name: str, where: object) -> str:
    """``name``, checked.

    Raises:
        DataError: a class cannot have this name.
    """
    try:
        return check_class(name)
    except ValueError as error:
        raise DataError(f"{where}: {error}.") from None


def digest(value: Any) -> str:
    """A hash of any value that JSON can represent."""
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()


def stamp(path: Path) -> list[Any]:
    """What changes when a file is rewritten or replaced: its path, and :func:`marks`."""
    return [str(path.resolve()), *marks(path.stat())]


def marks(found: os.stat_result) -> list[int]:
    """What changes when a file is rewritten or replaced: its size, its times of modification and change, and its inode.

    Size and modification time alone stay the same where ``mv``, ``tar`` or ``rsync -a`` replace a file.
    """
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def reason(error: BaseException) -> str:
    """The message of another library's error, as one short line."""
    return truncate((str(error) or type(error).__name__).splitlines()[0], 200)
