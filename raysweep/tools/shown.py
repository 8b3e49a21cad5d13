"""The images that networks are evaluated on: the validation images or the sealed test images of an experiment, or other data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from raysweep._text import join_names
from raysweep.config.settings import DataSection
from raysweep.data import cache
from raysweep.data import sealed as sealing
from raysweep.data.cache import Dataset, Images
from raysweep.data.listing import canonical, set_name
from raysweep.data.roles import seal
from raysweep.errors import DataError, RaysweepError
from raysweep.events import Decoding, Note, Progress

VAL, TEST, ALL = "val", "test", "all"  # ``all``: data without a split


@dataclass(frozen=True)
class Undecodable:
    """An image that is left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Shown:
    """Images to be scored. ``parts`` are read one after another; ``labels`` int64 (n,) are numbers of ``classes``; ``digests`` S32
    (n,) hashes of the pixels; ``groups`` int64 (n,) which images are one case, None where each is its own.

    ``prior`` float64 (K,): the shares of the classes in the data, where these images have others; means over images are then
    weighted back to it. ``sha256`` identifies the images and their classes; ``sealed`` says whether scoring them is a look that counts.
    """

    split: str
    parts: tuple[Images, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    digests: np.ndarray
    sha256: str
    sealed: bool
    groups: np.ndarray | None = None
    prior: np.ndarray | None = None
    undecodable: tuple[Undecodable, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """uint8 (b, H, W, C) with at most ``size`` images, in the order of the labels."""
        for part in self.parts:
            yield from part.blocks(size)


def load(section: DataSection, folder: Path, progress: Progress, least: int = 2) -> Dataset:
    """The training and validation images of these settings, decoded unless they were before.

    Args:
        least: how many classes or labels they must have.

    Raises:
        DataError: they cannot be read.
    """
    return cache.load(
        section,
        folder,
        lambda done, total: progress(Decoding(done, total)),
        lambda text: progress(Note(text)),
        least=least,
    )


def validation(data: Dataset, classes: Sequence[str]) -> Shown:
    """The validation images of a data set, for a network with these classes.

    Raises:
        DataError: the network does not know a class.
    """
    told = data.reading.prior
    prior = None if told is None else np.array([told.get(canonical(c), told.get(c, 0.0)) for c in classes])
    return replace(_shown(VAL, data, [(VAL, data.val)], classes), prior=prior)


def whole(data: Dataset, classes: Sequence[str]) -> Shown:
    """All images of data without a split of their own, of which a network with these classes saw none."""
    return _shown(ALL, data, [("train", data.train), (VAL, data.val)], classes)


def sealed(
    section: DataSection,
    folder: Path,
    form: tuple[int, int],
    classes: Sequence[str],
    recorded: str | None,
    progress: Progress,
) -> Shown:
    """The sealed test images of these settings, for a network with these classes. This opens them; nobody has scored them yet.

    Args:
        form: (side, channels) of the images that the network takes.
        recorded: the hash that they must have; None: any.

    Raises:
        DataError: there are none, or they are others, or the network does not know a class.
    """
    found = sealing.open_sealed(
        section,
        folder,
        form=form,
        recorded=recorded,
        progress=lambda done, total: progress(Decoding(done, total)),
        tell=lambda text: progress(Note(text)),
    )
    return Shown(
        TEST,
        (found.images,),
        renumbered(found.labels, found.classes, classes),
        tuple(classes),
        found.digests,
        found.sha256,
        sealed=True,
        groups=found.groups,
        undecodable=tuple(Undecodable(u.name, u.reason) for u in found.undecodable),
        notes=_lacking(found.labels, found.classes, classes),
    )


def _shown(split: str, data: Dataset, parts: list[tuple[str, Images]], classes: Sequence[str]) -> Shown:
    labels = np.concatenate([images.labels for _, images in parts])
    files = np.concatenate([cache.files(data, name) for name, _ in parts])
    of_groups = [g for name, _ in parts if (g := cache.groups(data, name)) is not None]
    undecodable = tuple(Undecodable(s["image"], s["reason"]) for s in data.skipped)
    return Shown(
        split,
        tuple(images for _, images in parts),
        renumbered(labels, data.classes, classes),
        tuple(classes),
        np.concatenate([cache.digests(data, name) for name, _ in parts]),
        _sha256(files, labels, data.classes),
        sealed=split == ALL,
        groups=np.concatenate(of_groups) if len(of_groups) == len(parts) else None,
        undecodable=undecodable,
        notes=_lacking(labels, data.classes, classes),
    )


def _sha256(files: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> str:
    """Identifies the images and their classes, as sealed images are."""
    if labels.ndim == 1:
        return seal.sha256(files.tolist(), labels.tolist(), classes)
    kinds = [set_name([c for c, yes in zip(classes, row, strict=True) if yes]) for row in labels.tolist()]
    return seal.sha256(files.tolist(), range(len(kinds)), kinds)


def renumbered(labels: np.ndarray, mine: Sequence[str], theirs: Sequence[str]) -> np.ndarray:
    """Labels that are numbers of the classes of the data as numbers of a network's classes, int64 (n,), or bool (n, classes) of several labels.

    Raises:
        DataError: the network does not know a class of the data.
    """
    number = {canonical(name): i for i, name in enumerate(theirs)}
    unknown = [name for name in mine if canonical(name) not in number]
    if unknown:
        raise DataError(
            f"The network does not know {join_names(unknown[:5])}{' …' if len(unknown) > 5 else ''} of the data; its classes are "
            f"{join_names(theirs[:20])}{' …' if len(theirs) > 20 else ''}. Rename classes with data.rename, leave some out with "
            "data.drop, or name the network's outputs in their order with --classes."
        )
    numbers = np.array([number[canonical(name)] for name in mine], dtype=np.int64)
    if labels.ndim == 1:
        return np.asarray(numbers[labels])
    found = np.zeros((len(labels), len(theirs)), dtype=bool)
    found[:, numbers] = labels
    return found


def _lacking(labels: np.ndarray, mine: Sequence[str], theirs: Sequence[str]) -> tuple[str, ...]:
    """What is to be said of labels that a network knows (``theirs``) and the data do not have: they count as absent everywhere."""
    there = {canonical(name) for name in mine}
    lacking = [name for name in theirs if canonical(name) not in there]
    if labels.ndim == 1 or not lacking:
        return ()
    several = len(lacking) > 1
    return (
        f"The data lack the label{'s' * several} {join_names(lacking)}: every image counts as one without {'them' if several else 'it'}. Where that "
        "is not so, accuracy, log-loss and Brier score say nothing, and numbers of each label only of the labels that are there.",
    )


def digests(data: Dataset, split: str) -> np.ndarray:
    """The hashes of the pixels of one split, S32 (n,)."""
    return cache.digests(data, split)


def trained_on(section: DataSection, folder: Path, progress: Progress) -> np.ndarray | str:
    """The hashes of the training images of these settings, S32; or why they are not known."""
    try:
        data = load(section, folder, progress)
    except RaysweepError as error:
        return str(error)
    return cache.digests(data, "train")


def leaked(shown: Shown, trained: np.ndarray) -> np.ndarray:
    """bool (n,): which of the images have the same pixels as an image that the network was trained on."""
    return np.isin(shown.digests, trained)
