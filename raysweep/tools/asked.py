"""Which images ``predict`` is asked about: files and all that lies in folders, and the class that a folder's name says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from raysweep._text import counted, join_names
from raysweep.data.listing import Item
from raysweep.data.order import matched
from raysweep.data.reading import LeftOut
from raysweep.data.roles.record import ImageRoles
from raysweep.data.roles.seal import file_digest
from raysweep.data.roles.sides import short
from raysweep.data.tree import Folder, Rest, walk


@dataclass(frozen=True)
class Image:
    """One image, and the class of the network that a folder's name says; or why a path cannot be used."""

    path: Path
    truth: str | None = None
    fault: str | None = None


@dataclass(frozen=True)
class Asked:
    """All images, in the order given; those of a folder in the order of their names, numbers by size.

    Attributes:
        left_out: what lies in the folders beside them, by kind.
    """

    images: tuple[Image, ...]
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """A key by which ``img9`` comes before ``img10``."""
    return tuple(
        (0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text) if part
    )


def gather(given: Sequence[Path], classes: Sequence[str]) -> Asked:
    """The images at these paths, for a network with these classes."""
    names, rest = _Names(classes), Rest()
    images: list[Image] = []
    for path in given:
        images += (
            _of_folder(path, names, rest) if path.is_dir() else [Image(path, names.of(path.parent.absolute().name))]
        )
    return Asked(tuple(images), rest.left_out())


def strange(images: Sequence[Image], usable: Sequence[bool]) -> dict[str, int]:
    """Names of folders that are no class → usable images in them, where other folders are classes."""
    if all(image.truth is None for image in images):
        return {}
    known = zip(images, usable, strict=True)
    found = Counter(image.path.parent.absolute().name for image, good in known if good and image.truth is None)
    return dict(found.most_common())


def _of_folder(path: Path, names: _Names, rest: Rest) -> Iterator[Image]:
    try:
        folder = walk(path, rest)
    except OSError as error:
        where = "" if error.filename in (None, str(path)) else f"{error.filename}: "
        yield Image(path, fault=f"{where}{error.strerror or error}")
        return
    if not folder.total:
        others = folder.every_other()
        beside = ", ".join(f"{n:,} {suffix}" for suffix, n in others.most_common(6))
        yield Image(path, fault=f"it holds no images{f', but {beside}' if beside else ''}")
    yield from _inside(folder, names, names.of(path.absolute().name))


def _inside(folder: Folder, names: _Names, truth: str | None) -> Iterator[Image]:
    """Every image; the nearest folder whose name is a class says its class."""
    for path in sorted(folder.images, key=lambda p: natural(p.name)):
        yield Image(path, truth)
    for inner in sorted(folder.folders, key=lambda f: natural(f.name)):
        yield from _inside(inner, names, names.of(inner.name) or truth)


class _Names:
    """The classes of a network by the names of folders, which may differ in case, form and separators."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = [c for c in classes if sum(matched([c], [d]) is not None for d in classes) == 1]
        self._known: dict[str, str | None] = {c: c for c in classes}

    def of(self, name: str) -> str | None:
        if name not in self._known:
            self._known[name] = next((c for c in self._classes if matched([name], [c])), None)
        return self._known[name]


# --- what is known of them --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """How many of the images whose class is known are named correctly.

    ``right`` and ``images`` have a count for each class. ``trained``: those of them that the network was trained on;
    ``right_unseen`` of the others are right. None where that is not known. ``sealed``: images that are left out, because they are
    sealed test images of the experiment, and looks at these are counted.
    """

    images: Mapping[str, int]
    right: Mapping[str, int]
    trained: int | None
    right_unseen: int | None
    sealed: int


def score(
    images: Sequence[Image], predicted: Sequence[str | None], classes: Sequence[str], roles: ImageRoles | None
) -> Score | None:
    """The score of predictions; None where no folder says a class.

    Args:
        predicted: the class of each image; None where it cannot be used.
        roles: what the network's experiment knows of its images; None if it was made by an earlier version.
    """
    known = [i for i, image in enumerate(images) if image.truth is not None and predicted[i] is not None]
    if not known:
        return None
    hashes = np.zeros(len(known), dtype=np.uint64)
    if roles is not None:
        files = [file_digest(Item(str(images[i].path), 0, images[i].path)) for i in known]
        hashes = short(np.array(files, dtype="S32"))
    there = hashes != 0
    sealed = there & np.isin(hashes, [] if roles is None else roles.sealed[:, 1])
    trained = there & np.isin(hashes, [] if roles is None else roles.trained[:, 1])
    right = np.array([images[i].truth == predicted[i] for i in known])
    truth = np.array([classes.index(str(images[i].truth)) for i in known])
    counts = np.bincount(truth[~sealed], minlength=len(classes))
    hits = np.bincount(truth[~sealed & right], minlength=len(classes))
    seen = trained & ~sealed
    return Score(
        {c: int(n) for c, n in zip(classes, counts, strict=True) if n},
        {c: int(hits[i]) for i, c in enumerate(classes) if counts[i]},
        None if roles is None else int(seen.sum()),
        None if roles is None else int((right & ~seen & ~sealed).sum()),
        int(sealed.sum()),
    )


def told(found: Score, reference: str) -> list[str]:
    """What people are told of a score, a sentence each."""
    lines = []
    total, right = sum(found.images.values()), sum(found.right.values())
    if total:
        lines.append(
            f"Accuracy {right / total:.1%}: {right:,} of {counted(total, 'image')} whose folder is a class are named so."
        )
        each = [f"{c} {found.right[c]:,} of {n:,}" for c, n in found.images.items()]
        lines.append(f"By class: {join_names(each)}.")
    if found.trained and found.right_unseen is not None:
        others = total - found.trained
        without = (
            f"; of the other {others:,}, {found.right_unseen:,} ({found.right_unseen / others:.1%})" if others else ""
        )
        lines.append(
            f"The network was trained on {found.trained:,} of these images, of which it knows the answers{without}."
        )
    if total and found.trained is None:
        lines.append("Whether the network was trained on some of these images is not recorded.")
    if found.sealed:
        lines.append(
            f"{counted(found.sealed, 'image')} of them {'is a' if found.sealed == 1 else 'are'} sealed test image{'s' * (found.sealed != 1)} "
            f"of this experiment and counted in no accuracy here: `raysweep evaluate {reference}` scores them, and records that somebody has looked."
        )
    return lines
