"""Shift and mirror whole batches while they are gathered from the cache.

The draws of an epoch depend only on (seed, epoch, position): never on a global generator, nor on the worker that computes
a position.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from raysweep.data.sampling import AUGMENT, raw_stream
from raysweep.data.torchvision_files import KUZUSHIJI

_NUMBERS = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}


def unlike_its_mirror(classes: Iterable[str]) -> str | None:
    """Why a mirrored image may be of another class than the image, to follow "because"; None where nothing says so.

    >>> unlike_its_mirror(["0", "1", "10"]), unlike_its_mirror(["turn_left", "turn_right"]), unlike_its_mirror(["cat", "dog"])
    ('the classes are numbers or letters', 'the classes name left and right', None)
    """
    names = [name.casefold() for name in classes]
    if all(len(n) == 1 or n.isdecimal() or n in _NUMBERS for n in names) or set(names) <= set(KUZUSHIJI):
        return "the classes are numbers or letters"
    words = [set(re.findall(r"[^\W\d_]+", n)) for n in names]
    if any("left" in w for w in words) and any("right" in w for w in words):
        return "the classes name left and right"
    return None


def epoch_draws(draws: int, padding: int | np.ndarray, flip: bool | np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Shift and mirror of every position of an epoch.

    Args:
        padding: the largest shift in pixels: of all positions, or int64 (draws,) of each.
        flip: whether images are mirrored: all, or bool (draws,).

    Returns:
        int64 (draws, 3): vertical and horizontal shift in ``[-padding, padding]`` pixels, and 1 where mirrored.
        Row p is the same whatever ``draws`` is.
    """
    return moves(raw_stream((seed, AUGMENT, epoch), draws), padding, flip)


def moves(raw: np.ndarray, padding: int | np.ndarray, flip: bool | np.ndarray) -> np.ndarray:
    """As :func:`epoch_draws`, made of a random number for each position, uint64 (n,)."""
    span = np.asarray(2 * padding + 1, dtype=np.uint64)
    # Three independent fields of each 64-bit number; the bias of the modulo is below 2**-13 for any allowed padding.
    dy = (raw & np.uint64(0x1FFFFF)) % span
    dx = ((raw >> np.uint64(21)) & np.uint64(0x1FFFFF)) % span
    mirror = np.where(flip, raw >> np.uint64(63), np.uint64(0))
    return np.stack([dy.astype(np.int64) - padding, dx.astype(np.int64) - padding, mirror.astype(np.int64)], axis=1)


def gather(pixels: np.ndarray, index: np.ndarray, draws: np.ndarray | None, fill: np.ndarray) -> np.ndarray:
    """The images ``index`` of a (memory-mapped) array, shifted and mirrored while they are copied.

    Args:
        pixels: uint8 (n, H, W, C).
        index: int64 (b,).
        draws: rows of :func:`epoch_draws` for these positions, or None for the images as they are.
        fill: uint8 (C,), the value of pixels that a shift uncovers.

    Returns:
        uint8 (b, H, W, C).
    """
    pixels = np.asarray(pixels)  # a slice of a memory map costs three times as much as one of a plain array
    if draws is None or not draws.any():
        plain: np.ndarray = pixels[index]
        return plain
    _, height, width, _ = pixels.shape
    out = np.empty((len(index), *pixels.shape[1:]), dtype=np.uint8)
    out[:] = fill
    for target, i, (dy, dx, mirror) in zip(out, index.tolist(), draws.tolist(), strict=True):
        source = pixels[i]
        if mirror:
            source = source[:, ::-1]
        target[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)] = source[
            max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)
        ]
    return out
