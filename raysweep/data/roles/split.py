"""Set a part of the training images aside for validation, class by class; what belongs together stays on one side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raysweep.data.roles import folds
from raysweep.data.sampling import permutation
from raysweep.errors import DataError

if TYPE_CHECKING:
    from raysweep.config.settings import DataSection


@dataclass(frozen=True)
class Fixed:
    """Which images have a role already, bool (n,) each: an ancestor was trained, or validated, on them."""

    train: np.ndarray
    val: np.ndarray


def own_split(
    order: np.ndarray,
    labels: np.ndarray,
    data: DataSection,
    classes: Sequence[str],
    digests: np.ndarray,
    groups: np.ndarray | None = None,
    fixed: Fixed | None = None,
) -> dict[str, np.ndarray]:
    """Split images into ``train`` and ``val``: ``data.val_fraction`` of each class, but at least ``data.min_val`` images of it,
    or half of the class where it has fewer than twice as many. Each class keeps at least one image for training.

    Images with equal pixels, and those of a group, are always on the same side. Those with equal pixels are all for training,
    unless a class has too few others.

    Args:
        order: positions of the images to split.
        labels, digests, groups: class, hash of the pixels and group of all images, also of those that are not in ``order``.
        fixed: roles that are not to be changed, for all images.

    Raises:
        DataError: a class has a single image.
    """
    counts = np.bincount(labels[order], minlength=len(classes))
    single = [name for name, n in zip(classes, counts, strict=True) if n < 2]
    if single:
        raise DataError(
            f"Class {single[0]!r} has a single readable image, which cannot be split. Add more images of this class."
        )
    takes = _takes(counts, data)
    if data.folds is not None:
        val = _of_fold(order, labels, data, digests, groups, fixed)
    elif groups is None:
        val = _by_class(order, labels, data, takes, digests, fixed)
    else:
        val = _by_group(order, labels, data, takes, _units(order, digests, groups), fixed)
    in_val = np.isin(order, val)
    return {"train": order[~in_val], "val": order[in_val]}


def _of_fold(
    order: np.ndarray,
    labels: np.ndarray,
    data: DataSection,
    digests: np.ndarray,
    groups: np.ndarray | None,
    fixed: Fixed | None,
) -> np.ndarray:
    """Positions of the images of ``data.fold``, apart from those that have another role already."""
    assert data.folds is not None
    assert data.fold is not None
    ends = np.arange(len(labels)) if groups is None else groups
    fold = folds.parts(labels[order], _units(order, digests, ends), data.folds, data.split_seed)
    mine: np.ndarray = order[fold == data.fold - 1]
    if fixed is None:
        return mine
    kept = order[fixed.val[order]]
    return np.union1d(kept, mine[~fixed.train[mine]])


def _takes(counts: np.ndarray, data: DataSection) -> np.ndarray:
    """How many images of each class are to be for validation, int64 (classes,)."""
    share = [max(1, round(int(n) * data.val_fraction), min(data.min_val, int(n) // 2)) for n in counts]
    takes = np.minimum(counts - 1, share)
    return takes if data.max_val is None else limited(takes, data.max_val, data.min_val)


def limited(counts: np.ndarray, most: int, least: int) -> np.ndarray:
    """At most ``most`` images in all: the same part of each class, but ``least`` images of each where ``most`` allows it."""
    if counts.sum() <= most:
        return counts
    floor = np.minimum(counts, min(least, most // max(1, int((counts > 0).sum()))))
    rest = counts - floor
    exact = rest * ((most - floor.sum()) / max(1, rest.sum()))
    whole = np.floor(exact).astype(np.int64)
    more = np.argsort(whole - exact, kind="stable")[: most - int(floor.sum() + whole.sum())]
    whole[more] += 1
    return np.asarray(floor + np.minimum(whole, rest), dtype=np.int64)


def _by_class(
    order: np.ndarray,
    labels: np.ndarray,
    data: DataSection,
    takes: np.ndarray,
    digests: np.ndarray,
    fixed: Fixed | None,
) -> np.ndarray:
    """Positions of the images for validation, where only equal pixels belong together."""
    _, group, times = np.unique(digests[order], return_inverse=True, return_counts=True)
    repeated, unit = np.zeros(len(labels), dtype=bool), np.full(len(labels), -1)
    repeated[order], unit[order] = times[group] > 1, group
    val: list[np.ndarray] = []
    for label, take in enumerate(takes.tolist()):
        of_class = order[labels[order] == label]
        drawn = of_class[permutation(len(of_class), (data.split_seed, label))]
        if fixed is not None:
            val.append(drawn[fixed.val[drawn]])
            take, drawn = max(0, take - len(val[-1])), drawn[~(fixed.val | fixed.train)[drawn]]
        val.append(drawn[~repeated[drawn]][:take])
        lacking = min(take, data.min_val) - len(val[-1])
        for u in dict.fromkeys(unit[drawn[repeated[drawn]]].tolist()) if lacking > 0 else ():
            copies = drawn[unit[drawn] == u]
            if len(copies) == times[u] <= lacking:  # none of them has another class
                val.append(copies)
                lacking -= len(copies)
    return np.concatenate(val)


def _units(order: np.ndarray, digests: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """A number for each image of ``order``: the same where images have the same group or equal pixels, also by way of others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(order)
    ends = [np.unique(values[order], return_inverse=True)[1] for values in (groups, digests)]
    width = n + sum(int(e.max()) + 1 for e in ends)
    rows = np.tile(np.arange(n), 2)
    columns = np.concatenate([n + ends[0], n + int(ends[0].max()) + 1 + ends[1]])
    graph = coo_array((np.ones(2 * n, dtype=np.int8), (rows, columns)), shape=(width, width))
    found: np.ndarray = connected_components(graph, directed=False)[1][:n]
    return found


def _by_group(
    order: np.ndarray,
    labels: np.ndarray,
    data: DataSection,
    takes: np.ndarray,
    units: np.ndarray,
    fixed: Fixed | None,
) -> np.ndarray:
    """Positions of the images for validation, whole units only, in a seeded order: first those that a class needs to have
    ``data.min_val`` images, then those that bring the classes nearer to ``takes``."""
    names, index = np.unique(units, return_inverse=True)
    table = np.zeros((len(names), len(takes)), dtype=np.int64)
    np.add.at(table, (index, labels[order]), 1)
    left, need = table.sum(0), takes.copy()
    taken, free = np.zeros(len(names), dtype=bool), np.ones(len(names), dtype=bool)
    if fixed is not None:
        for position, unit in zip(order, index, strict=True):
            taken[unit] |= bool(fixed.val[position])
            free[unit] &= not (fixed.val | fixed.train)[position]
        left, need = left - table[taken].sum(0), need - table[taken].sum(0)
    walk = permutation(len(names), (data.split_seed, len(takes)))
    least = takes - np.minimum(takes, data.min_val)
    for want, floor in (
        (least, True),
        (np.zeros_like(need), False),
    ):  # what a class must have, then what brings it nearer
        for unit in walk[free[walk]].tolist():
            lacking, has = np.maximum(need - want, 0), table[unit]
            useful = np.minimum(lacking, has).sum()
            if taken[unit] or not useful or ((left - has)[has > 0] < 1).any():
                continue
            if floor or useful > np.maximum(has - lacking, 0).sum():
                taken[unit] = True
                left, need = left - has, need - has
    return order[taken[index]]
