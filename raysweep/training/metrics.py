"""How good a set of predictions is, per class and overall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix, int64 (classes, classes): row = true class, column = predicted class."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


class Summary(TypedDict):
    """What :func:`summarise` returns: the keys of the history and of the manifest."""

    val_acc: float
    val_macro_f1: float
    balanced_accuracy: float
    recall: dict[str, float]
    precision: dict[str, float]
    f1: dict[str, float]


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    ratio = np.zeros(len(numerator), dtype=np.float64)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def summarise(matrix: np.ndarray, classes: Sequence[str]) -> Summary:
    """Accuracy, macro-F1, balanced accuracy, and precision, recall and F1 of each class.

    A ratio with denominator 0 is 0, as in scikit-learn with ``zero_division=0``. The macro-F1 leaves out classes that are
    neither true nor predicted anywhere; the balanced accuracy leaves out classes without images.

    Args:
        matrix: of :func:`confusion`.
    """
    hits = np.diag(matrix).astype(np.float64)
    true, predicted = matrix.sum(1), matrix.sum(0)
    recall, precision = _ratio(hits, true), _ratio(hits, predicted)
    f1 = _ratio(2 * hits, (true + predicted).astype(np.float64))
    present = (true > 0) | (predicted > 0)
    has_images = true > 0
    return {
        "val_acc": float(hits.sum() / max(1, matrix.sum())),
        "val_macro_f1": float(f1[present].mean()) if present.any() else 0.0,
        "balanced_accuracy": float(recall[has_images].mean()) if has_images.any() else 0.0,
        "recall": {c: float(recall[i]) for i, c in enumerate(classes)},
        "precision": {c: float(precision[i]) for i, c in enumerate(classes)},
        "f1": {c: float(f1[i]) for i, c in enumerate(classes)},
    }
