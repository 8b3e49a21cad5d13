"""Copies among the images of a data set, each with its name and class; near copies, too, for a person to look at.

Near copies have nearly the same difference hash (the ``imagehash`` library): they are listed as pairs with their distance.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from raysweep.data import cache, copies
from raysweep.data.cache import Dataset, Images
from raysweep.data.copies import Groups

NEAR = 3  # bits of 64 by which the hashes of near copies differ at most
_BITS = 64
_CROWD = 200  # images with the same quarter of a hash: flat pictures, which are no copies of each other
TRAIN, VAL = "train", "val"


@dataclass(frozen=True)
class Place:
    """An image: its split, its position in the cache, its name and its class."""

    split: str
    index: int
    name: str
    of_class: str


@dataclass(frozen=True)
class Near:
    """Two images whose difference hashes differ by ``distance`` of 64 bits, but whose pixels differ."""

    one: Place
    other: Place
    distance: int


class Places:
    """The names of a data set's images."""

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self.names = {split: cache.names(data, split) for split in (TRAIN, VAL)}

    def at(self, split: str, index: int) -> Place:
        images = self.data.train if split == TRAIN else self.data.val
        return Place(split, index, self.names[split][index], self.data.classes[int(images.labels[index])])


@dataclass(frozen=True)
class Leaked:
    """A validation image that is also in training, and its copies there."""

    image: Place
    copies: Sequence[Place]


@dataclass(frozen=True)
class Audit:
    """What was found among the images of a data set. ``pairs`` are near copies, None if they were not looked for."""

    name: str  # as the user wrote it
    data: Dataset
    leaked: Sequence[Leaked]
    repeated: Sequence[Sequence[Place]]  # groups of equal training images
    pairs: Sequence[Near] | None = None

    @property
    def contradicting(self) -> list[Sequence[Place]]:
        """Groups of equal training images with several classes."""
        return [group for group in self.repeated if len({p.of_class for p in group}) > 1]

    @property
    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Class → training images, class → validation images."""
        return self.data.train.counts(self.data.classes), self.data.val.counts(self.data.classes)

    def to_json(self) -> dict[str, object]:
        """What ``raysweep audit --json`` prints."""
        reading = self.data.reading.to_json()
        train, val = self.counts
        return {
            "sha256": self.data.sha256,
            "images": {"train": train, "val": val},
            "copies": reading["copies"],
            "leaked": [
                {
                    "validation": row.image.name,
                    "class": row.image.of_class,
                    "training": [p.name for p in row.copies],
                    "training_classes": sorted({p.of_class for p in row.copies}),
                }
                for row in self.leaked
            ],
            "repeated": [[vars(p) for p in group] for group in self.repeated],
            "near": None
            if self.pairs is None
            else [{"one": vars(p.one), "other": vars(p.other), "distance": p.distance} for p in self.pairs],
            "reading": reading,
        }


def audit(
    data: Dataset, name: str, look_near: bool = True, progress: Callable[[int, int], None] = lambda done, total: None
) -> Audit:
    """Everything that can be found.

    Args:
        look_near: also look for nearly equal images.
        progress: called with (images hashed, images in all).
    """
    groups, places = exact(data), Places(data)
    leaked = [Leaked(places.at(VAL, i), [places.at(TRAIN, j) for j in rows]) for i, rows in groups.sources.items()]
    repeated = [[places.at(TRAIN, i) for i in rows] for rows in groups.repeated]
    return Audit(name, data, leaked, repeated, near(data, progress) if look_near else None)


def exact(data: Dataset) -> Groups:
    """The exact copies of a data set, from the hashes that its cache holds."""
    train, val = cache.digests(data, TRAIN), cache.digests(data, VAL)
    return copies.groups(train, data.train.labels, val, data.val.labels)


def near(data: Dataset, progress: Callable[[int, int], None] = lambda done, total: None) -> tuple[Near, ...]:
    """Pairs of images, across and within the splits, that are near but not exact copies, the nearest first.

    Args:
        progress: called with (images hashed, images in all).
    """
    places, at = [], Places(data)
    keys: list[int] = []
    same: list[bytes] = []
    total = len(data.train.labels) + len(data.val.labels)
    for split, images in ((TRAIN, data.train), (VAL, data.val)):
        same += cache.digests(data, split).tolist()
        for i, key in enumerate(_difference_hashes(images)):
            places.append((split, i))
            keys.append(key)
            if len(keys) % 1000 == 0:
                progress(len(keys), total)
    found = {}
    for one, other in _candidates(np.array(keys, dtype=np.uint64)):
        if same[one] != same[other] and (distance := (keys[one] ^ keys[other]).bit_count()) <= NEAR:
            found[one, other] = Near(at.at(*places[one]), at.at(*places[other]), distance)
    return tuple(found[pair] for pair in sorted(found, key=lambda pair: (found[pair].distance, *pair)))


def _difference_hashes(images: Images) -> Iterator[int]:
    import imagehash
    from PIL import Image

    for row in itertools.chain.from_iterable(images.blocks()):
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
