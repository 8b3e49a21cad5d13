"""What every kind of source gives: images before they are decoded, the words for splits, the names and order of classes."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from raysweep._text import check_class, join_names, short_repr, truncate
from raysweep.errors import DataError

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "dev")
TEST_NAMES = ("test", "testing", "eval", "evaluation")
_SPLITS = {
    **dict.fromkeys(TRAIN_NAMES, "train"),
    **dict.fromkeys(VAL_NAMES, "val"),
    # Kaggle cut FER-2013's test images in two; as folders they are one test/.
    **dict.fromkeys((*TEST_NAMES, "publictest", "privatetest"), "test"),
}
_WHOLE = re.compile(r"-?[0-9]+")


class Item(NamedTuple):
    """One image before it is decoded: a file's path, encoded bytes, or pixels as uint8 of shape (H, W) or (H, W, 3)."""

    name: str
    label: int
    payload: Path | bytes | np.ndarray


class Listing(NamedTuple):
    """All images of a source. ``val`` is None where the source has no split of its own."""

    classes: tuple[str, ...]
    train: list[Item]
    val: list[Item] | None


class Row(NamedTuple):
    """An image with the name of its class."""

    name: str
    label: str
    payload: Path | bytes | np.ndarray


class Source(Protocol):
    def fingerprint(self) -> str:
        """Changes whenever what would be read changes; cheap."""
        ...

    def listing(self) -> Listing: ...


def listing_of(train: Iterable[Row], val: Iterable[Row] | None) -> Listing:
    """The listing of these images; its classes are those that occur."""
    parts = [list(train), None if val is None else list(val)]
    classes = ordered({row.label for part in parts for row in part or []})
    index = {c: i for i, c in enumerate(classes)}
    items = [None if part is None else [Item(r.name, index[r.label], r.payload) for r in part] for part in parts]
    return Listing(classes, items[0] or [], items[1])


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Classes in the order that every kind of file gives them: by number if all are whole numbers, else as text.

    "10" comes after "9", so that data with numbers for labels keep the order of their labels.
    """
    every = set(names)
    if all(_WHOLE.fullmatch(name) for name in every):
        return tuple(sorted(every, key=lambda name: (int(name), name)))
    return tuple(sorted(every))


def split_of(word: str) -> str | None:
    """``train``, ``val`` or ``test`` as somebody calls it, in any case; None for any other word."""
    return _SPLITS.get(word.strip().lower())


def split_value(value: Any, where: object) -> str:
    """The split that a row's own column tells.

    Raises:
        DataError: it is no word for one.
    """
    found = split_of(value) if isinstance(value, str) else None
    if found is None:
        raise DataError(
            f"{where}: the split {short_repr(value)} is none of train, val (valid, validation, dev) and test. Correct it, or "
            "remove the column so that a split is made."
        )
    return found


def split_in(name: str) -> str | None:
    """The split that a file's name tells, as the datasets library finds it: the first of its words that is one.

    ``train-00000-of-00002``, ``my_test_file`` and ``val1`` tell one; ``testimony`` and ``value`` do not.
    """
    return next((s for s in map(split_of, re.split(r"[^a-z]+", name.lower())) if s is not None), None)


def choose(splits: Sequence[str | None], path: object) -> tuple[list[int], list[int] | None]:
    """Which rows are for training and which for validation; None if no row tells its split.

    Where there are validation and test rows, the test rows are left alone: whoever kept them apart wants to look at
    them last. Rows that tell nothing beside rows that do are for training.

    Raises:
        DataError: there are rows for validation or test, and none for training.
    """
    told = {s for s in splits if s is not None}
    if not told:
        return list(range(len(splits))), None
    kept = "val" if "val" in told else "test"
    train = [i for i, s in enumerate(splits) if s in ("train", None)]
    if not train:
        raise DataError(
            f"{path} has images for {' and '.join(sorted(told))}, but none for train. Add training images, or leave the "
            "split out so that one is made."
        )
    return train, [i for i, s in enumerate(splits) if s == kept]


def label_name(value: Any, names: Sequence[str] | None, where: object) -> str:
    """The class of a label: text, or a number with or without a list of names.

    Raises:
        DataError: no label, a label of another kind, a number that has no name, or a name that no class can have.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        raise DataError(f"{where} has no label. Give every row one.")
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


def class_name(name: str, where: object) -> str:
    """``name``.

    Raises:
        DataError: a class cannot be called so.
    """
    try:
        return check_class(name)
    except ValueError as error:
        raise DataError(f"{where}: {error}.") from None


def digest(value: Any) -> str:
    """A hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()


def stamp(path: Path) -> list[Any]:
    """What changes when a file is written anew: its place, its bytes and when it was written, in nanoseconds."""
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def reason(error: BaseException) -> str:
    """What another library complains about, in one short line."""
    return truncate((str(error) or type(error).__name__).splitlines()[0], 200)
