"""A part of the training images that no epoch shows: a policy decides the ratio of the next epoch by them.

Whether an image belongs to it is a matter of the hash of its pixels, so equal images are on the same side, and the order
in which images are read changes nothing.
"""

from __future__ import annotations

import hashlib

import numpy as np

LEAST = 5  # images of a class, or half of it where it has fewer than twice as many


def members(digests: np.ndarray, labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Which images are held out, bool (n,): about ``fraction`` of each class, at least LEAST, and never more than half.

    Args:
        digests: a hash of each image's pixels, bytes (n,).
        labels: int64 (n,).
    """
    held = np.zeros(len(labels), dtype=bool)
    if not fraction:
        return held
    key = seed.to_bytes(16, "little")
    drawn = np.array([_uniform(bytes(d), key) for d in digests])
    for label in range(int(labels.max(initial=-1)) + 1):
        of_class = np.flatnonzero(labels == label)
        _, position, times = np.unique(drawn[of_class], return_index=True, return_counts=True)
        room, below = np.cumsum(times), drawn[of_class][position] < fraction
        wanted = below | (room <= LEAST)
        chosen = of_class[position[wanted & (room <= len(of_class) // 2)]]
        held |= (labels == label) & np.isin(drawn, drawn[chosen])
    # the same pixels under another class
    return np.asarray(held | np.isin(digests, digests[held]))


def _uniform(digest: bytes, key: bytes) -> float:
    """A number in [0, 1) that belongs to an image."""
    return int.from_bytes(hashlib.blake2b(digest, digest_size=8, key=key).digest(), "little") / 2**64
