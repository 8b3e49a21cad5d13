"""Several labels for an image: how good predictions are, label by label, and the columns of the history for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from raysweep.label_sets import IMAGES, MAP
from raysweep.report.findings import binary, measures
from raysweep.training.metrics import Summary


def columns(classes: Sequence[str]) -> list[str]:
    """Those that only such a training has."""
    return [MAP, IMAGES, *(f"ap_{c}" for c in classes)]


def all_right(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How many images have every label right at the threshold 0.5; ``y`` bool (n, classes)."""
    return ((logits > 0) == y).all(1).sum()


def summarise(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> Summary:
    """Precision, recall and F1 of each label at the threshold 0.5, their means, and the share of images with every label right
    (``val_acc``, scikit-learn's ``accuracy_score``). ``balanced_accuracy`` is the mean over the labels of (recall + specificity) / 2.
    A label without images has None, and no part in the means.

    Args:
        labels: bool (n, classes). probabilities: float32 (n, classes).
    """
    predicted = binary.predicted(probabilities)
    own = binary.per_label(labels, predicted)
    there = own.images > 0
    right = binary.specificity(labels, predicted)
    both = [(r + s) / 2 for r, s in zip(own.recall.value[there], right[there], strict=True)]

    def known(values: np.ndarray) -> dict[str, float | None]:
        return {c: float(values[i]) if there[i] else None for i, c in enumerate(classes)}

    return {
        "val_acc": float((predicted == labels).all(1).mean()),
        "val_macro_f1": float(own.f1.value[there].mean()) if there.any() else 0.0,
        "balanced_accuracy": float(np.mean(both)) if both else 0.0,
        "recall": known(own.recall.value),
        "precision": known(own.precision.value),
        "f1": known(own.f1.value),
    }


def ranked(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, float | None]:
    """The average precision of each label, and its mean over those that have images."""
    each = measures.ranked(probabilities, labels.T, with_influence=False).average_precision.value
    known = [float(v) if v == v else None for v in each]
    there = [v for v in known if v is not None]
    of_all = float(np.mean(there)) if there else 0.0
    return {MAP: of_all, **{f"ap_{c}": v for c, v in zip(classes, known, strict=True)}}
