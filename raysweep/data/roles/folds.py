"""``data.folds``: the training images in so many parts, each of which is for validation once (k-fold cross-validation)."""

from __future__ import annotations

import numpy as np

from raysweep.data.sampling import permutation


def parts(labels: np.ndarray, units: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of every image, int64 (n,), from 0. Images of a unit are in the same fold; apart from that each class is in every
    fold equally often, within one image, and so are all images.

    Args:
        labels: int64 (n,)
        units: int64 (n,): what belongs together, such as copies and images of a group.
        seed: which of the many ways to do it.
    """
    classes = int(labels.max()) + 1
    _, unit, size = np.unique(units, return_inverse=True, return_counts=True)
    have = np.zeros((folds, classes), dtype=np.int64)
    fold = np.full(len(labels), -1, dtype=np.int64)
    walk = permutation(len(size), (seed, folds, classes))
    for u in walk[
        np.argsort(-size[walk], kind="stable")
    ].tolist():  # the largest first, while there is room to make up for them
        if size[u] == 1:
            break
        members = np.flatnonzero(unit == u)
        of_unit = np.bincount(labels[members], minlength=classes)
        best = min(range(folds), key=lambda f: (int(have[f] @ of_unit), int(have[f].sum()), f))
        fold[members] = best
        have[best] += of_unit
    for c in range(classes):
        rest = np.flatnonzero((labels == c) & (fold < 0))
        takes = _level(have[:, c], len(rest), have.sum(1))
        fold[rest[permutation(len(rest), (seed, folds, classes, c))]] = np.repeat(np.arange(folds), takes)
        have[:, c] += takes
    return fold


def _level(have: np.ndarray, more: int, total: np.ndarray) -> np.ndarray:
    """How many of ``more`` images each fold gets, so that what they have is as equal as it can be; of equals, the one that has least
    in all comes first."""
    takes = np.zeros_like(have)
    if more == 0:
        return takes
    order = np.lexsort((total, have))
    for count in range(len(have), 0, -1):  # as many as can be brought to the same level
        lowest = order[:count]
        level = (int(have[lowest].sum()) + more) // count
        if level >= have[lowest].max():
            break
    takes[lowest] = level - have[lowest]
    takes[lowest[np.lexsort((total[lowest] + takes[lowest],))][: more - int(takes.sum())]] += 1
    return takes
