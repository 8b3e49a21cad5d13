"""What is drawn for each training image: boxes, angles, factors, partners.

Every number depends on (seed, epoch, position in the epoch's order), or with fixed views on (seed, image, view), and on nothing else: not on a global generator, the number of workers,
the batches, nor the machine. So functions are computed number by number (:mod:`math`): those of arrays may round the last
bit by where in the array a number stands.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from raysweep.data.sampling import AUGMENT, VIEWS

TRIES = 10  # boxes that are drawn until one lies within the image


class Kind(IntEnum):
    """What numbers are drawn for: each has a stream of its own, so that no option changes the draws of another. Never 0: the
    stream of shifts and mirrors has no kind, and a zero at the end would give the same one."""

    CROP = 1
    AFFINE = 2
    RAND = 3
    TRIVIAL = 4
    JITTER = 5
    ERASE = 6
    NOISE = 7
    MIX = 8


@dataclass(frozen=True)
class Place:
    """Where in a training images are shown. ``positions`` int64 (n,), in the order of the epoch ``epoch``, counted from 1; with fixed
    views, ``views`` int64 (n,), the images themselves, whatever the epoch is."""

    seed: int
    epoch: int
    positions: np.ndarray
    views: np.ndarray | None = None

    def at(self, rows: np.ndarray) -> Place:
        """Some of them."""
        return Place(self.seed, self.epoch, self.positions[rows], None if self.views is None else self.views[rows])


def raw(place: Place, kind: Kind, columns: int) -> np.ndarray:
    """uint64 (n, columns): row i depends on (seed, epoch, kind, position i) alone, or on (seed, kind, image i, view i)."""
    positions, out = place.positions, np.empty((len(place.positions), columns), dtype=np.uint64)
    begins = np.diff(positions, prepend=-2) != 1
    if place.views is not None:
        begins |= np.diff(place.views, prepend=-1) != 0
    starts = np.flatnonzero(begins)  # of neighbours in the order
    for a, b in itertools.pairwise([*starts.tolist(), len(positions)]):
        of = [AUGMENT, place.epoch] if place.views is None else [VIEWS, int(place.views[a])]
        stream = np.random.PCG64(np.random.SeedSequence([place.seed, *of, int(kind)]))
        stream.advance(int(positions[a]) * columns)
        out[a:b] = stream.random_raw((b - a) * columns).reshape(b - a, columns)
    return out


def uniform(place: Place, kind: Kind, columns: int) -> np.ndarray:
    """float64 (n, columns) in [0, 1); see :func:`raw`."""
    out: np.ndarray = (raw(place, kind, columns) >> np.uint64(11)) * 2.0**-53
    return out


def each(function: Callable[[float], float], values: np.ndarray) -> np.ndarray:
    """A function of :mod:`math` for every number, float64."""
    return np.array([function(v) for v in values.ravel().tolist()], dtype=np.float64).reshape(values.shape)


def between(drawn: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers in [0, 1) as numbers from ``low`` to ``high``."""
    return low + drawn * (high - low)


def chosen(drawn: np.ndarray, p: float) -> np.ndarray:
    """bool (n,): the images that are changed, a part ``p`` of them."""
    found: np.ndarray = drawn < p
    return found


def crop_boxes(
    place: Place,
    height: int | np.ndarray,
    width: int | np.ndarray,
    scale: Sequence[float],
    ratio: Sequence[float],
    p: float = 1.0,
) -> np.ndarray:
    """The part of each image that a random resized crop keeps, drawn as torchvision's ``RandomResizedCrop`` draws it.

    Args:
        height, width: of the images in pixels, int or int64 (n,). The images may have several sizes, as they have before they are
            decoded.
        scale: smallest and largest part of the area. ratio: smallest and largest width through height.
        p: part of the images that are cropped; the box of any other is the whole image.

    Returns:
        int64 (n, 4): top, left, height and width in pixels.
    """
    n = len(place.positions)
    sizes = np.broadcast_to(np.asarray(height), n), np.broadcast_to(np.asarray(width), n)
    drawn = uniform(place, Kind.CROP, 1 + 4 * TRIES)
    boxes, found = _boxes(drawn[:, 1:], sizes, scale, ratio)
    height, width = sizes
    # What never fitted: the largest middle of an allowed form, as torchvision takes it.
    form = np.clip(width / height, ratio[0], ratio[1])
    wide = np.minimum(width, np.rint(height * form)).astype(np.int64)
    high = np.minimum(height, np.rint(width / form)).astype(np.int64)
    middle = np.stack([(height - high) // 2, (width - wide) // 2, high, wide], axis=1)
    boxes = np.where(found[:, None], boxes, middle)
    whole = np.stack([np.zeros(n, np.int64), np.zeros(n, np.int64), height, width], axis=1)
    return np.where(chosen(drawn[:, 0], p)[:, None], boxes, whole)


def erased_boxes(
    place: Place, height: int, width: int, scale: Sequence[float], ratio: Sequence[float], p: float
) -> np.ndarray:
    """The part of each image that is erased, drawn as torchvision's ``RandomErasing`` draws it: int64 (n, 4), as :func:`crop_boxes`;
    with height 0 where nothing is."""
    n = len(place.positions)
    drawn = uniform(place, Kind.ERASE, 1 + 4 * TRIES)
    sizes = np.full(n, height), np.full(n, width)
    boxes, found = _boxes(drawn[:, 1:], sizes, scale, ratio, smaller=True)
    return np.where((found & chosen(drawn[:, 0], p))[:, None], boxes, 0)


def _boxes(
    drawn: np.ndarray,
    sizes: tuple[np.ndarray, np.ndarray],
    scale: Sequence[float],
    ratio: Sequence[float],
    smaller: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(the first box of each image that lies within it, int64 (n, 4); bool (n,), where there is one).

    Args:
        drawn: float64 (n, 4 * TRIES) in [0, 1).
        smaller: whether a box must be smaller than its image in both directions.
    """
    height, width = sizes
    boxes, found = np.zeros((len(drawn), 4), dtype=np.int64), np.zeros(len(drawn), dtype=bool)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for k in range(TRIES):
        rows = np.flatnonzero(~found)
        if not len(rows):
            break
        area, form, y, x = drawn[rows, 4 * k : 4 * k + 4].T
        h, w = height[rows], width[rows]
        area = between(area, scale[0], scale[1]) * (h * w)
        form = each(math.exp, between(form, low, high))
        wide, tall = np.rint(np.sqrt(area * form)).astype(np.int64), np.rint(np.sqrt(area / form)).astype(np.int64)
        fits = (wide > 0) & (tall > 0) & (wide + smaller <= w) & (tall + smaller <= h)
        top, left = (y * (h - tall + 1)).astype(np.int64), (x * (w - wide + 1)).astype(np.int64)
        boxes[rows[fits]] = np.stack([top, left, tall, wide], axis=1)[fits]
        found[rows] = fits
    return boxes, found
