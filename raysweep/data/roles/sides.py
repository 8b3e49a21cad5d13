"""The two sides of a data set, training and validation: as the data say, or by a split made here; without copies if asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raysweep._text import join_names
from raysweep.data import copies
from raysweep.data.listing import Listing
from raysweep.data.roles import split, words
from raysweep.data.roles.split import Fixed
from raysweep.data.sampling import permutation
from raysweep.errors import DataError

if TYPE_CHECKING:
    from raysweep.config.settings import DataSection

_NONE_LEFT = (
    "All of these images have a role already, and none is for validation: an ancestor was trained on them. What a network was "
    "trained on says nothing about it. Keep the parent's data.val, or add new images."
)
_ALL_TOGETHER = "no image can be set aside for validation: each has an equal one, or all are of one group. Add images, or check data.group."
_ALL_NEEDED = (
    "no image can be set aside for validation: each has an equal one, or is the only one with one of its labels, or all are of one group. Add "
    "images, or check data.group."
)


@dataclass(frozen=True)
class Hashed:
    """Images in the source's order: ``labels`` int64 (n,), hashes S32 (n,) of their pixels and of their bytes, the positions of those that
    cannot be decoded, and the group of each, int64 (n,). Where an image has several labels, ``labels`` are the strata that stand for them, ``has``
    bool (n, names) is which it has, and ``names`` are theirs."""

    labels: np.ndarray
    digests: np.ndarray
    files: np.ndarray
    bad: frozenset[int]
    groups: np.ndarray | None
    has: np.ndarray | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sides:
    """``parts``: ``train`` and ``val`` → positions, sorted by (label, hash of the pixels). ``prior``: class → share in the data, where
    validation has other shares."""

    parts: dict[str, np.ndarray]
    prior: Mapping[str, float] | None


@dataclass(frozen=True)
class Known:
    """Hashes of the pixels, as :func:`short` makes them, of images that an ancestor was trained on, and of those it was validated
    on."""

    train: np.ndarray
    val: np.ndarray

    def among(self, digests: np.ndarray) -> Fixed:
        """Which of these images they are. One that is both stays for training."""
        keys = short(digests)
        trained = np.isin(keys, self.train)
        return Fixed(trained, np.isin(keys, self.val) & ~trained)


def short(digests: np.ndarray) -> np.ndarray:
    """The first 64 bits of hashes S32 (n,), uint64 (n,); 0 for an empty one."""
    text = b"".join(d.ljust(32, b"0") for d in digests.tolist()).decode()
    return np.frombuffer(bytes.fromhex(text), dtype=">u8")[::2].astype(np.uint64)


def sided(images: Hashed, listing: Listing, data: DataSection, known: Known | None) -> Sides:
    """The sides of images, those of the data or of a split that is made now.

    Raises:
        DataError: a class or a split has no images.
    """
    parts, beyond = _parts(images, listing, data, known)
    return Sides(parts, _prior(parts, beyond, images.labels, listing, data))


def _parts(
    images: Hashed, listing: Listing, data: DataSection, known: Known | None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(split → positions of its images, those of validation images beyond data.max_val)."""
    nothing, labels = np.empty(0, dtype=np.int64), images.labels
    good = np.array([i for i in range(len(labels)) if i not in images.bad], dtype=np.int64)
    order = good[np.lexsort((images.digests[good], labels[good]))]
    if listing.val is None:
        _check_classes(listing.classes, images, order, "readable")
        fixed = None if known is None else known.among(images.digests)
        parts = _own_split(order, images, listing, data, fixed)
        _check_classes(listing.classes, images, parts["train"], "training")
        if len(parts["val"]) == 0:
            together = _ALL_TOGETHER if images.has is None else _ALL_NEEDED
            raise DataError(_NONE_LEFT if fixed is not None else f"{data.path or data.source}: {together}")
        return parts, nothing
    parts = {"train": order[order < len(listing.train)], "val": order[order >= len(listing.train)]}
    _check_classes(listing.classes, images, parts["train"], "training")
    if len(parts["val"]) == 0:
        raise DataError(
            f"{data.path} has no validation images. Add some, or remove the split; raysweep then makes one itself."
        )
    if data.max_val is None:
        return parts, nothing
    val = parts["val"]
    takes = split.limited(np.bincount(labels[val], minlength=len(listing.classes)), data.max_val, data.min_val)
    drawn = [c[permutation(len(c), (data.split_seed, i))] for i in range(len(takes)) for c in [val[labels[val] == i]]]
    kept = np.isin(val, np.concatenate([c[:take] for c, take in zip(drawn, takes, strict=True)]))
    return {"train": parts["train"], "val": val[kept]}, val[~kept]


def _own_split(
    order: np.ndarray, images: Hashed, listing: Listing, data: DataSection, fixed: Fixed | None
) -> dict[str, np.ndarray]:
    """A split made here. Where it would take all images of a label, one of them is kept for training, the first in ``order``, and the
    split is made anew around it.

    Raises:
        DataError: a class cannot be split, or an ancestor was validated on all images of a label.
    """
    if images.has is not None and len(order) == 1:
        raise DataError(f"{data.path} has a single readable image, which cannot be split. Add images.")

    def made(fixed: Fixed | None) -> dict[str, np.ndarray]:
        return split.own_split(order, images.labels, data, listing.classes, images.digests, images.groups, fixed)

    parts, has = made(fixed), images.has
    if has is None:
        return parts
    nobody = np.zeros(len(images.labels), dtype=bool)
    val = nobody if fixed is None else fixed.val
    kept = nobody.copy() if fixed is None else fixed.train.copy()
    while len(lacking := np.flatnonzero(~has[parts["train"]].any(0))):
        free = parts["val"][~(val | kept)[parts["val"]]]
        for label in lacking:
            images_of = free[has[free, label]]
            if not len(images_of):
                raise DataError(
                    f"There are no training images with the label {join_names([images.names[label]])}: an ancestor was validated on all of "
                    "them, or on images of their groups, which is not for training. Add new ones, or keep the parent's data."
                )
            if not kept[images_of].any():
                kept[images_of[0]] = True
        parts = made(Fixed(kept, val))
    return parts


def _prior(
    parts: dict[str, np.ndarray], beyond: np.ndarray, labels: np.ndarray, listing: Listing, data: DataSection
) -> dict[str, float] | None:
    """Class → its share in the data, where a split of ours gives validation another one, by an image or more. Accuracy and loss
    are then weighted back. Versions before ``data.min_val`` did not do this."""
    if data.min_val == 0 or (listing.val is not None and not len(beyond)):
        return None
    whole = np.concatenate([parts["val"], parts["train"] if listing.val is None else beyond])
    counts, in_val = (np.bincount(labels[p], minlength=len(listing.classes)) for p in (whole, parts["val"]))
    share = counts / counts.sum()
    if (np.abs(in_val - share * in_val.sum()) < 1).all():
        return None
    return {name: float(p) for name, p in zip(listing.classes, share, strict=True)}


def without_copies(
    parts: dict[str, np.ndarray], images: Hashed, listing: Listing, data: DataSection, sealed: np.ndarray | None
) -> tuple[dict[str, np.ndarray], int]:
    """(the split without the copies that ``data.duplicates`` takes out, their number).

    Args:
        sealed: hashes of the bytes of sealed images, whose training copies are known by theirs; None: not looked at.

    Raises:
        DataError: a class has no images left.
    """
    train, val = parts["train"], parts["val"]
    shared = np.intersect1d(images.digests[train], images.digests[val])
    in_train, in_val = (np.isin(images.digests[index], shared) for index in (train, val))
    # with data.val=test as earlier versions, which never read test images beside validation images
    if sealed is not None and data.val != words.TEST:
        in_train |= np.isin(images.files[train], sealed[sealed != b""])
    if not in_train.any():
        return parts, 0
    if data.duplicates == copies.DROP_TRAIN:
        left = {"train": train[~in_train], "val": val}
    elif data.duplicates == copies.DROP_VAL:
        left = {"train": train, "val": val[~in_val]}
    else:
        return parts, 0
    _check_classes(listing.classes, images, left["train"], "training")
    return left, len(train) + len(val) - len(left["train"]) - len(left["val"])


def _check_classes(classes: tuple[str, ...], images: Hashed, index: np.ndarray, what: str) -> None:
    """Raises DataError where a class, or one of several labels, has none of the images at ``index``."""
    if images.has is None:
        counts, of = np.bincount(images.labels[index], minlength=len(classes)), "of class"
    else:  # a stratum may be empty while its label is not
        classes, counts, of = images.names, images.has[index].sum(0), "with the label"
    empty = [c for c, n in zip(classes, counts, strict=True) if n == 0]
    if empty:
        raise DataError(
            f"There are no {what} images {of} {join_names(empty)}. Add some, or remove the {of.split()[-1]} from the data."
        )
