"""Images of the user's own code: ``data.source=python:MODULE:NAME``.

NAME is one of these, or a function or class that returns one, called with ``path``, which is ``data.path``, if it takes it:

- ``(images, labels)``: two arrays or lists
- anything with a length, items, and ``labels`` or ``targets``; without these, items are pairs of an image and its label
- with groups, which ``data.group`` asks for: ``(images, labels, groups)``; an attribute of that name; or items of three
- a mapping from ``train``, ``val`` and ``test`` to one of these

An image is pixels as uint8 (H, W), (H, W, 1 or 3) or (1 or 3, H, W), also as a tensor; an image of Pillow; encoded bytes; or the path
of a file. A label is the name of a class, or a number, which ``classes`` names if it is there.

This room may not run code of the user by itself: the rooms above say with :func:`provide` how it is opened, after they have asked
whether it may be. What was not provided cannot be read.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raysweep._text import short_repr
from raysweep.data.listing import Found, Row, digest, label_name, split_of, stamp
from raysweep.data.roles.groups import grouped
from raysweep.errors import DataError


@dataclass(frozen=True)
class Provided:
    """How to get at images of the user's code."""

    opened: Callable[[str | None], Any]  # (data.path) → what its name stands for, or returned
    surroundings: Callable[
        [], AbstractContextManager[None]
    ]  # in which it is used; an error in them is shown as the user's
    code: str  # a hash of its source


_GROUPS = ("groups", "group")
_provided: dict[str, Provided] = {}  # MODULE:NAME → it


def provide(target: str, how: Provided) -> None:
    """Let ``data.source=python:target`` be read in this process."""
    _provided[target] = how


class OwnSource:
    """What the user's code gives."""

    def __init__(self, target: str, path: str | None, group: str | None = None) -> None:
        """
        Args:
            group: what ``data.group`` calls the groups; None where it does not, or is a pattern of names.

        Raises:
            DataError: nobody has said that its code may run here.
        """
        if target not in _provided:
            raise DataError(
                f"data.source: python:{target} was not allowed to run here. Name it on the command line, or use --trust."
            )
        self.target, self.path, self.group, self.how = target, path, group, _provided[target]
        self._found: Found | None = None
        self._unasked = ""  # what is to be said of groups that nobody asked for

    def fingerprint(self) -> str:
        """Of the code, and of what it gives: its own ``fingerprint()``, else every image and label."""
        with self.how.surroundings():
            opened = self.how.opened(self.path)
            if callable(own := getattr(opened, "fingerprint", None)):
                return digest(["own", self.target, self.how.code, self.path, str(own())])
        content = hashlib.blake2b(digest_size=16)
        found = self.found()
        for split, rows in (("train", found.train), ("val", found.val or []), ("test", found.test)):
            for row in rows:
                of_group = [] if row.group is None else [["group", row.group]]
                content.update(digest([split, row.name, row.label, *_marks(row.payload), *of_group]).encode())  # type: ignore[arg-type]  # own rows are never packed
        return digest(["own", self.target, content.hexdigest()])

    def found(self) -> Found:
        """
        Raises:
            DataError: it gives no images, or no labels.
        """
        if self._found is None:
            with self.how.surroundings():
                self._found = self._read(self.how.opened(self.path))
        return self._found

    def _read(self, opened: Any) -> Found:
        parts: dict[str, list[Row]] = {}
        for word, part in (opened if isinstance(opened, Mapping) else {"train": opened}).items():
            split = split_of(str(word))
            if split is None or split in parts:
                raise self._wrong(
                    f"names {short_repr(word)}; a mapping has train, and may have val and test, each once"
                )
            parts[split] = list(self._rows(part, split))
        if not parts.get("train"):
            raise self._wrong("has no training images")
        if self.group is not None and not any(row.group is not None for rows in parts.values() for row in rows):
            raise self._wrong(
                f"has no {short_repr(self.group)}, which data.group asks for. It is an attribute of the data set with one value for each "
                "image; with data.group=groups also the third part of (images, labels, groups) or of every item"
            )
        notes = (self._unasked,) if self._unasked else ()
        return Found(parts["train"], parts.get("val"), test=parts.get("test", []), notes=notes)

    def _rows(self, part: Any, split: str) -> Iterator[Row]:
        names = getattr(part, "classes", None)
        names = None if names is None else [str(name) for name in _plain(names)]
        groups = self._named_groups(part)
        if isinstance(part, tuple) and len(part) in (2, 3):
            images, labels, *third = part
            groups = third[0] if third else groups
            is_third = bool(third)
        else:
            images, labels, is_third = part, getattr(part, "labels", getattr(part, "targets", None)), False
        if not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
            raise self._wrong(f"gives {type(images).__name__}, which has no length or no items")
        known = None if labels is None else _plain(labels)
        if known is not None and len(known) != len(images):
            raise self._wrong(f"gives {len(images):,} images and {len(known):,} labels")
        belongs = None if groups is None else _plain(groups)
        if belongs is not None and len(belongs) != len(images):
            raise self._wrong(f"gives {len(images):,} images and {len(belongs):,} groups")
        for i in range(len(images)):
            item, where = images[i], f"{split} {i}"
            pair = isinstance(item, (tuple, list)) and len(item) in (2, 3)
            if known is None and not pair:
                raise self._wrong(
                    f"has neither labels nor targets, and its item {i} is no pair of an image and a label"
                )
            label = known[i] if known is not None else _plain(item[1])
            payload = self._payload(item[0] if pair else item, where)
            name = str(payload) if isinstance(payload, Path) else where
            row = Row(name, label_name(label, names, f"python:{self.target}, {where}"), payload)
            of_item = _plain(item[2]) if pair and len(item) == 3 else None
            yield self._grouped(row, of_item if belongs is None else belongs[i], is_third or belongs is None)

    def _named_groups(self, part: Any) -> Any:
        """The groups that a data set has under the name that ``data.group`` says; ``group`` and ``groups`` are one name."""
        names = _GROUPS if self.group in (None, *_GROUPS) else (str(self.group),)
        return next((g for n in names if (g := getattr(part, n, None)) is not None and not callable(g)), None)

    def _grouped(self, row: Row, group: Any, third: bool) -> Row:
        """A row with its group, where ``data.group`` asks for groups; a ``third`` part, after image and label, has no name but groups."""
        if group is None or group != group:  # NaN, as in a table without an entry
            return row
        if self.group is None or (third and self.group not in _GROUPS):
            self._unasked = "It has groups, which are not used: data.group=groups keeps the images of a group on one side of a split."
            return row
        return grouped(row, group)

    def _payload(self, image: Any, where: str) -> Path | bytes | np.ndarray:
        if isinstance(image, (str, Path)):
            return Path(self.path or "", image).absolute()
        if isinstance(image, bytes):
            return image
        if hasattr(image, "mode") and hasattr(image, "save"):  # of Pillow
            if image.mode in ("L", "RGB"):
                return np.array(image)
            encoded = io.BytesIO()
            image.save(encoded, "PNG")
            return encoded.getvalue()
        pixels = np.asarray(image)
        if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[2] not in (1, 3):
            pixels = pixels.transpose(1, 2, 0)
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[:, :, 0]
        if (
            pixels.dtype != np.uint8
            or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3))
            or not pixels.size
        ):
            raise self._wrong(
                f"gives {pixels.dtype} {pixels.shape} for {where}; pixels are uint8, from 0 to 255, of shape (H, W), (H, W, 3) or (3, H, W)"
            )
        return np.ascontiguousarray(pixels)

    def _wrong(self, text: str) -> DataError:
        return DataError(f"data.source: python:{self.target} {text}. Correct it there.")


def _plain(values: Any) -> Any:
    """Arrays and tensors as lists, and their elements as numbers."""
    return values.tolist() if hasattr(values, "tolist") else values


def _marks(payload: Path | bytes | np.ndarray) -> list[Any]:
    """What changes when an image changes."""
    if isinstance(payload, Path):
        try:
            return stamp(payload)
        except OSError:  # decoding will report it
            return [str(payload)]
    content = payload if isinstance(payload, bytes) else payload.tobytes()
    return [len(content), hashlib.blake2b(content, digest_size=16).hexdigest(), *getattr(payload, "shape", ())]
