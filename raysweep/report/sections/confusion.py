"""Confusion matrices: of every branch beside that of its reference, or of one experiment alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from raysweep.errors import RaysweepError
from raysweep.report import predictions
from raysweep.report.comparison import Comparison
from raysweep.report.findings import binary
from raysweep.report.sections.records import Confused, Confusion, ConfusionLine
from raysweep.store.experiment import Experiment

MOST_CLASSES = 25  # of a matrix that is shown whole
MOST_CELLS = 30  # that are shown of a larger matrix


def compared(comparison: Comparison, branches: Sequence[str]) -> list[Confusion]:
    """The matrices of these branches, all seeds added up, with the change against their reference."""
    pairs = {p.name: p for p in comparison.pairs}
    k = len(comparison.classes)
    epochs = {b.name: b.epoch for b in comparison.branches}
    found = []
    for name in branches if pairs else ():
        pair = pairs[name]
        branch, reference = _matrix(pair.labels, pair.branch, k), _matrix(pair.labels, pair.reference, k)
        title, seeds = f"{name}, epoch {epochs[name]}", len(pair.branch)
        if comparison.several:
            there = binary.together(pair.labels, pair.labels)
            found.append(_together(title, comparison.classes, branch, there, reference / len(pair.reference), seeds))
            continue
        found.append(_confusion(title, comparison.classes, branch, reference, seeds))
    return found


def own(experiment: Experiment) -> list[Confusion]:
    """The matrix of an experiment's best epoch; empty if its predictions cannot be read."""
    try:
        found = predictions.read(experiment)
    except RaysweepError:
        return []
    title = f"{experiment.id}, epoch {found.epoch}"
    if found.several:
        return [_together(title, found.classes, found.matrix, binary.together(found.labels, found.labels), None, 1)]
    return [_confusion(title, found.classes, found.matrix, None, 1)]


def _matrix(labels: np.ndarray, predicted: np.ndarray, k: int) -> np.ndarray:
    """int (k, k): row = true class, column = predicted class, from labels (n,) and predictions (seeds, n)."""
    if labels.ndim == 2:
        return sum((binary.together(labels, guess) for guess in predicted), np.zeros((k, k), int))
    return sum((np.bincount(labels * k + row, minlength=k * k) for row in predicted), np.zeros(k * k, int)).reshape(
        k, k
    )


def _together(
    name: str,
    classes: Sequence[str],
    matrix: np.ndarray,
    there: np.ndarray,
    reference: np.ndarray | None,
    seeds: int,
) -> Confusion:
    """Which labels are predicted together; ``there`` (K, K) has those that are, ``reference`` (K, K) the mean of its networks."""
    under = np.maximum(1, there.diagonal())[:, None]
    share, true = matrix / seeds / under, there / under
    change = np.zeros_like(share) if reference is None else share - reference / under

    def cell(i: int, j: int) -> Confused:
        numbers = float(share[i, j]), int(matrix[i, j]), float(change[i, j]), float(true[i, j])
        return Confused(classes[i], classes[j], *numbers)

    k = range(len(classes))
    found = Confusion(name, seeds, reference is not None, list(classes), several=True)
    if len(classes) <= MOST_CLASSES:
        return replace(found, rows=[ConfusionLine(classes[i], int(there[i, i]), [cell(i, j) for j in k]) for i in k])
    size = np.abs(change) if reference is not None else np.abs(share - true)
    order = np.argsort(-size, axis=None, kind="stable")[:MOST_CELLS]
    return replace(found, most=[cell(*divmod(int(at), len(classes))) for at in order])


def _confusion(
    name: str, classes: Sequence[str], matrix: np.ndarray, reference: np.ndarray | None, seeds: int
) -> Confusion:
    images = matrix.sum(1)
    share = matrix / np.maximum(1, images)[:, None]
    if reference is None:
        change = np.zeros_like(share)
    else:  # it may have another number of seeds
        change = share - reference / np.maximum(1, reference.sum(1))[:, None]

    def cell(i: int, j: int) -> Confused:
        return Confused(classes[i], classes[j], float(share[i, j]), int(matrix[i, j]), float(change[i, j]))

    found = Confusion(name, seeds, reference is not None, list(classes))
    k = range(len(classes))
    if len(classes) <= MOST_CLASSES:
        rows = [ConfusionLine(classes[i], int(images[i]) // seeds, [cell(i, j) for j in k]) for i in k]
        return replace(found, rows=rows)
    # The cells that changed most; without a reference, the largest errors.
    size = np.abs(change) if reference is not None else share * (1 - np.eye(len(classes)))
    order = np.argsort(-size, axis=None, kind="stable")[:MOST_CELLS]
    return replace(found, most=[cell(*divmod(int(at), len(classes))) for at in order])
