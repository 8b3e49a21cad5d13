"""What a set of predictions is worth, per class and overall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int64 (classes, classes): row = true class, column = predicted class."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.zeros(len(over), dtype=np.float64), where=under > 0)


def summarise(matrix: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy, macro-F1, balanced accuracy, and precision, recall and F1 per class; 0 where undefined, as in
    scikit-learn with ``zero_division=0``. Classes without validation images do not count in the means."""
    hits = np.diag(matrix).astype(np.float64)
    true, guessed = matrix.sum(1), matrix.sum(0)
    recall, precision = _ratio(hits, true), _ratio(hits, guessed)
    f1 = _ratio(2 * hits, (true + guessed).astype(np.float64))
    present = (true > 0) | (guessed > 0)
    seen = true > 0
    return {
        "val_acc": float(hits.sum() / max(1, matrix.sum())),
        "val_macro_f1": float(f1[present].mean()) if present.any() else 0.0,
        "balanced_accuracy": float(recall[seen].mean()) if seen.any() else 0.0,
        "recall": {c: float(recall[i]) for i, c in enumerate(classes)},
        "precision": {c: float(precision[i]) for i, c in enumerate(classes)},
        "f1": {c: float(f1[i]) for i, c in enumerate(classes)},
    }
