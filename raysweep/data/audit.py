"""Copies among the images of a data set: the same picture twice, on both sides of the split, or under two classes.

An image that the network was trained on says nothing about what it learned, so every copy across the split makes a result
better than it is. Exact copies have the same pixels after decoding. Near copies have nearly the same difference hash (the
``imagehash`` library): they are listed as pairs with their distance, for a person to look at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from raysweep.data.cache import Dataset, Images

NEAR = 3  # bits of 64 by which the hashes of near copies differ at most
_BITS = 64
_CROWD = 200  # images with the same quarter of a hash: flat pictures, which are no copies of each other
TRAIN, VAL = "train", "val"


@dataclass(frozen=True)
class Place:
    """An image: its split and its position in the cache."""

    split: str
    index: int


@dataclass(frozen=True)
class Near:
    """Two images whose difference hashes differ by ``distance`` of 64 bits."""

    one: Place
    other: Place
    distance: int


@dataclass(frozen=True)
class Leaked:
    """Validation images of one class that are exact copies of training images."""

    images: int  # of the class, in validation
    copies: int  # of these, with the same pixels as a training image
    other_class: int  # of the copies, those whose training image has another class only


@dataclass(frozen=True)
class Audit:
    """``leaked``: class → what of its validation images is also in training; all classes, in their order.

    ``surplus``: class → copies within training beyond the first. ``contradictions``: groups of equal training images that
    have more than one class. ``leaks`` bool (n_val,): which validation images are copies.
    """

    leaked: dict[str, Leaked]
    surplus: dict[str, int]
    contradictions: tuple[tuple[Place, ...], ...]
    leaks: np.ndarray
    near: tuple[Near, ...] = field(default=())

    @property
    def copies(self) -> int:
        """Validation images that are also in training."""
        return sum(row.copies for row in self.leaked.values())

    @property
    def other_class(self) -> int:
        """Of these, under another class."""
        return sum(row.other_class for row in self.leaked.values())


def hashes(images: Images) -> list[bytes]:
    """128 bits of BLAKE2 over the decoded pixels of each image."""
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in images.pixels]


def exact(data: Dataset) -> Audit:
    """The exact copies of a data set."""
    train, val = hashes(data.train), hashes(data.val)
    groups: dict[bytes, list[int]] = {}
    for i, key in enumerate(train):
        groups.setdefault(key, []).append(i)
    leaks = np.array([key in groups for key in val], dtype=bool)
    labels = data.train.labels
    other = np.zeros(len(val), dtype=bool)
    for i in np.flatnonzero(leaks).tolist():
        other[i] = all(labels[j] != data.val.labels[i] for j in groups[val[i]])
    leaked = {}
    for c, name in enumerate(data.classes):
        mine = data.val.labels == c
        leaked[name] = Leaked(int(mine.sum()), int((mine & leaks).sum()), int((mine & other).sum()))
    surplus = dict.fromkeys(data.classes, 0)
    contradictions = []
    for members in groups.values():
        if len(members) == 1:
            continue
        for i in members[1:]:
            surplus[data.classes[labels[i]]] += 1
        if len({int(labels[i]) for i in members}) > 1:
            contradictions.append(tuple(Place(TRAIN, i) for i in members))
    return Audit(leaked, surplus, tuple(contradictions), leaks)


def near(data: Dataset, progress: Callable[[int, int], None] = lambda done, total: None) -> tuple[Near, ...]:
    """Pairs of images, across and within the splits, that are near but not exact copies, the nearest first.

    Args:
        progress: called with (images hashed, images in all).
    """
    places, keys, same = [], [], []
    total = len(data.train.labels) + len(data.val.labels)
    for split, images in ((TRAIN, data.train), (VAL, data.val)):
        same += hashes(images)
        for i, key in enumerate(_difference_hashes(images)):
            places.append(Place(split, i))
            keys.append(key)
            if len(keys) % 1000 == 0:
                progress(len(keys), total)
    found = {}
    values = np.array(keys, dtype=np.uint64)
    for one, other in _candidates(values):
        if same[one] != same[other]:
            distance = int(values[one] ^ values[other]).bit_count()
            if distance <= NEAR:
                found[one, other] = Near(places[one], places[other], distance)
    return tuple(
        sorted(found.values(), key=lambda n: (n.distance, n.one.split, n.one.index, n.other.split, n.other.index))
    )


def _difference_hashes(images: Images) -> Iterator[int]:
    import imagehash
    from PIL import Image

    for row in images.pixels:
        picture = Image.fromarray(row[..., 0] if row.shape[2] == 1 else row)
        bits = imagehash.dhash(picture).hash.reshape(-1)
        yield int.from_bytes(np.packbits(bits).tobytes(), "big")


def _candidates(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs that have at least one of NEAR + 1 parts of their hashes in common: all pairs within NEAR bits are among them."""
    parts = NEAR + 1
    width = np.uint64(_BITS // parts)
    for part in range(parts):
        piece = (values >> (np.uint64(part) * width)) & np.uint64((1 << int(width)) - 1)
        order = np.argsort(piece, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(piece[order]) != 0, True])
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            if 1 < end - start <= _CROWD:
                yield from _pairs(sorted(order[start:end].tolist()))


def _pairs(members: Sequence[int]) -> Iterator[tuple[int, int]]:
    for at, one in enumerate(members):
        for other in members[at + 1 :]:
            yield one, other
