"""The roles of images: for training, for validation (what is looked at to choose), for test (sealed).

A data set's own words say which image has which role; where it has no validation images, :mod:`raysweep.data.build` sets a
part of the training images aside. ``data.val`` says otherwise. Nobody looks at sealed images but `raysweep evaluate`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from raysweep.data.listing import FER_TESTS, Found, Row
from raysweep.data.reading import LeftOut
from raysweep.errors import DataError

AUTO, SPLIT, TEST = "auto", "split", "test"
PUBLIC, PRIVATE = FER_TESTS
ON_TEST = "The test images are used for validation: there are no validation images of their own."
UNUSED = "validation images, since data.val is split"
_FER_NAME = re.compile(r"(PublicTest|PrivateTest)_.+")


@dataclass(frozen=True)
class Roles:
    """Positions of the rows of each role. ``val`` is None where a part of the training images is to be set aside."""

    train: list[int]
    val: list[int] | None
    test: list[int]
    unused: list[int]  # validation rows where ``data.val`` is split
    on_test: bool = False  # ``val`` are test rows

    @property
    def notes(self) -> list[str]:
        """What is to be said of the roles."""
        return [ON_TEST] if self.on_test else []

    def left_out(self, place: Callable[[int], object]) -> dict[str, LeftOut]:
        """The rows that have no role, with the place of each."""
        return {UNUSED: LeftOut.of(map(place, self.unused))} if self.unused else {}

    def found(
        self, rows: Mapping[int, Row] | Sequence[Row], left_out: Mapping[str, LeftOut], notes: tuple[str, ...]
    ) -> Found:
        """The rows of each role. A sealed row may be missing: its image is not there."""
        test = [rows[i] for i in self.test if not isinstance(rows, Mapping) or i in rows]
        val = None if self.val is None else [rows[i] for i in self.val]
        return Found([rows[i] for i in self.train], val, left_out, notes, test, self.on_test)


def by_words(words: Iterable[str | None], asked: str) -> dict[str, str]:
    """Each word for a split → the role of its images: ``train``, ``val`` or ``test``.

    FER-2013's PublicTest is for validation and its PrivateTest is sealed, unless ``asked`` is test or there are other
    validation images.
    """
    named = {w for w in words if w is not None}
    public = "test" if asked == TEST or "val" in named else "val"
    roles = {w: {PUBLIC: public, PRIVATE: "test"}.get(w, w) for w in named}
    if asked == TEST and "val" not in roles.values():
        roles = {w: "val" if role == "test" else role for w, role in roles.items()}
    return roles


def choose(splits: Sequence[str | None], path: object, asked: str) -> Roles:
    """The role of every row by the word for its split; where only some rows have one, the others are for training.

    Args:
        splits: the words, as :func:`~raysweep.data.listing.written_split` returns them.
        asked: ``data.val``.

    Raises:
        DataError: there are rows for validation or test, and none for training.
    """
    roles = by_words(splits, asked)
    rows: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for i, split in enumerate(splits):
        rows["train" if split is None else roles[split]].append(i)
    if roles and not rows["train"]:
        raise DataError(
            f"{path} has images for {' and '.join(sorted(roles))}, but none for train. Add training images, or remove the "
            "split; raysweep then makes one itself."
        )
    val, unused = (rows["val"], []) if asked != SPLIT else ([], rows["val"])
    on_test = bool(val) and any(word not in ("train", "val") for word, role in roles.items() if role == "val")
    return Roles(rows["train"], val or None, rows["test"], unused, on_test and asked == TEST)


def settled(found: Found, asked: str) -> Found:
    """What a source has found, with its test images for validation where ``data.val`` says so; else by the names of FER-2013's
    files: in class folders its two sets of test images lie together, called ``PublicTest_…`` and ``PrivateTest_…``."""
    if found.val is not None or not found.test:
        return found
    if asked == TEST:
        return replace(found, val=found.test, test=[], on_test=True, notes=(*found.notes, ON_TEST))
    named = [_FER_NAME.fullmatch(PurePath(row.name).name) for row in found.test if isinstance(row.payload, Path)]
    kinds = [m[1].lower() for m in named if m]
    if len(kinds) < len(found.test) or set(kinds) != {PUBLIC, PRIVATE}:
        return found
    val, test = ([row for row, k in zip(found.test, kinds, strict=True) if k == kind] for kind in (PUBLIC, PRIVATE))
    if asked == SPLIT:
        unused = {**found.left_out, UNUSED: LeftOut.of(row.name for row in val)}
        return replace(found, test=test, left_out=unused)
    note = "By the names of the files, PublicTest is used for validation, and PrivateTest stays sealed."
    return replace(found, val=val, test=test, notes=(*found.notes, note))
