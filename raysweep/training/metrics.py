"""How good a set of predictions is, per class and overall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix, int64 (classes, classes): row = true class, column = predicted class."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def worst_class(recall: Mapping[str, float | None]) -> tuple[str, float]:
    """The class with the lowest recall, the first of several, and its recall. Classes without images are left out."""
    known = {c: r for c, r in recall.items() if r is not None}
    worst = min(known, key=known.__getitem__)
    return worst, known[worst]


def _weighted(of_class: np.ndarray, there: np.ndarray, prior: np.ndarray) -> float:
    """The mean over the classes that have images, weighted by ``prior``; (classes,) each."""
    shares = np.where(there, prior, 0.0)
    return float((shares * of_class).sum() / max(shares.sum(), 1e-300))


class Summary(TypedDict):
    """What :func:`summarise` returns: the keys of the history and of the manifest."""

    val_acc: float
    val_macro_f1: float
    balanced_accuracy: float
    recall: dict[str, float | None]  # None: the class has no images
    precision: dict[str, float | None]
    f1: dict[str, float | None]


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    ratio = np.zeros(len(numerator), dtype=np.float64)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def summarise(matrix: np.ndarray, classes: Sequence[str], prior: np.ndarray | None = None) -> Summary:
    """Accuracy, macro-F1, balanced accuracy, and precision, recall and F1 of each class.

    Of a class without images nothing is known, so its values are None, and macro-F1 and balanced accuracy leave it out; they
    leave out nothing else. Any other ratio with denominator 0 is 0, as in scikit-learn with ``zero_division=0``.

    Args:
        matrix: of :func:`confusion`.
        prior: float64 (classes,), the shares that accuracy is weighted to; default: those of the matrix.
    """
    hits = np.diag(matrix).astype(np.float64)
    true, predicted = matrix.sum(1), matrix.sum(0)
    recall, precision = _ratio(hits, true), _ratio(hits, predicted)
    f1 = _ratio(2 * hits, (true + predicted).astype(np.float64))
    there = true > 0

    def known(values: np.ndarray) -> dict[str, float | None]:
        return {c: float(values[i]) if there[i] else None for i, c in enumerate(classes)}

    return {
        "val_acc": float(hits.sum() / max(1, matrix.sum())) if prior is None else _weighted(recall, there, prior),
        "val_macro_f1": float(f1[there].mean()) if there.any() else 0.0,
        "balanced_accuracy": float(recall[there].mean()) if there.any() else 0.0,
        "recall": known(recall),
        "precision": known(precision),
        "f1": known(f1),
    }
