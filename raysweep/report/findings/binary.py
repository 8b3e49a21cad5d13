"""Several labels for an image: each label is a yes or no of its own, with a threshold of its own.

The metrics are those of classes, label by label. What a ratio does first is to move thresholds; at a label's *break-even* threshold,
where it is predicted as often as it occurs, precision, recall and F1 are one number, in which moved thresholds do not show.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from raysweep.report.findings import measures
from raysweep.report.findings.measures import Measured, PerClass, Ranked
from raysweep.report.findings.offsets import LOWEST

Array = np.ndarray

THRESHOLD = 0.5  # above which a network says that an image has a label
_LEAST = 2.0**-25  # as far below 1 is a probability that was rounded to 1 in float32, at most
_FEW = 0.02  # share of a label's images by which the wanted number may be missed at its break-even threshold


def predicted(probabilities: Array) -> Array:
    """bool (n, K): which labels a network predicts, at the threshold 0.5."""
    found: Array = np.asarray(probabilities) > THRESHOLD
    return found


def losses(log_probabilities: Array, labels: Array) -> Array:
    """The binary cross-entropy of each image, float64 (n,), the mean over the labels; both arguments (n, K)."""
    logs = log_probabilities.astype(np.float64)
    logs = np.maximum(np.where(logs == 0, -_LEAST, logs), LOWEST)
    each = -np.where(labels, logs, np.log(-np.expm1(logs)))
    result: Array = each.mean(1)
    return result


def per_label(labels: Array, guess: Array) -> PerClass:
    """Recall, precision and F1 of every label from what is there and what is predicted, bool (n, K) each; the influences are arrays.
    0 / 0 is 0, as in scikit-learn; of a label without images all three are NaN."""
    hit = labels & guess
    hits, real, guessed = (table.sum(0).astype(np.float64) for table in (hit, labels, guess))
    recall, precision, f1 = (
        measures.ratio(*pair) for pair in ((hits, real), (hits, guessed), (2 * hits, real + guessed))
    )
    absent = real == 0

    def measured(value: Array, influence: Array, under: Array) -> Measured:
        usable = ~absent & (under > 0)
        return Measured(
            np.where(absent, np.nan, value),
            np.where(usable[:, None], influence.T / np.maximum(under, 1.0)[:, None], 0.0),
        )

    return PerClass(
        measured(recall, labels * (hit - recall), real),
        measured(precision, guess * (hit - precision), guessed),
        measured(f1, 2.0 * hit - f1 * (labels.astype(np.float64) + guess), real + guessed),
        real,
        guessed,
    )


def specificity(labels: Array, guess: Array) -> Array:
    """float64 (K,): the share of the images without a label on which it is not predicted; 1 where every image has it."""
    without = (~labels).sum(0)
    right = (~labels & ~guess).sum(0)
    result: Array = np.divide(right, without, out=np.ones(labels.shape[1]), where=without > 0)
    return result


class Even(NamedTuple):
    """``predicted`` bool (n, K); ``missed`` bool (K,): whether the wanted number could not be reached, because scores are equal."""

    predicted: Array
    missed: Array


def to_counts(scores: Array, wanted: Array) -> Even:
    """Thresholds with which every label is predicted as often as ``wanted`` (K,); ``scores`` (n, K), larger means more likely."""
    guess = np.zeros(scores.shape, dtype=bool)
    for c in range(scores.shape[1]):
        most = round(float(wanted[c]))
        if most:
            least = -np.partition(-scores[:, c], most - 1)[most - 1]
            ways = (scores[:, c] > least, scores[:, c] >= least)  # without and with the images of the same score
            guess[:, c] = min(ways, key=lambda way: abs(int(way.sum()) - most))
    missed = np.abs(guess.sum(0) - wanted) > np.maximum(1.0, _FEW * np.asarray(wanted))
    return Even(guess, missed)


class OfNetwork(NamedTuple):
    """What is measured of a network: metrics of each label, then of all; ``predicted`` float64 (K,) and ``missed`` bool (K,)."""

    decided: list[Measured]
    overall: list[Measured]
    predicted: Array
    missed: Array


def measured(log_probabilities: Array, labels: Array, ranked: Ranked) -> OfNetwork:
    """Recall, precision, F1 and the break-even point of every label; exact match, macro-F1, mAP, the mean break-even point, log-loss,
    nothing in the place of a calibration error, and the Brier score."""
    probabilities = np.exp(log_probabilities.astype(np.float64))
    guess = predicted(probabilities)
    own, moved = per_label(labels, guess), to_counts(log_probabilities, labels.sum(0))
    even = per_label(labels, moved.predicted).f1
    overall = overall_of(log_probabilities, probabilities, labels, own, ranked)
    overall.insert(3, measures.mean(even))
    return OfNetwork([own.recall, own.precision, own.f1, even], overall, own.predicted, moved.missed)


def overall_of(
    log_probabilities: Array, probabilities: Array, labels: Array, own: PerClass, ranked: Ranked
) -> list[Measured]:
    """Exact match, macro-F1, mAP, log-loss, nothing, Brier score."""
    right = (predicted(probabilities) == labels).all(1)
    scores = ranked.average_precision
    if not scores.influence.shape[1]:  # too many labels and images
        scores = Measured(scores.value, np.zeros((len(scores.value), len(labels))))
    return [
        measures.mean_of(right),
        measures.mean(own.f1),
        measures.mean(scores),
        measures.mean_of(losses(log_probabilities, labels)),
        Measured(np.array([np.nan]), np.zeros((1, len(labels)))),
        measures.mean_of(((probabilities - labels) ** 2).mean(1)),
    ]


def together(labels: Array, guess: Array) -> Array:
    """int64 (K, K): images with label r (row) on which label c (column) is predicted; with ``labels`` twice, that have both."""
    table: Array = labels.T.astype(np.int64) @ guess.astype(np.int64)
    return table


def sparse(influence: Any) -> Any:
    """An influence as a sparse matrix."""
    from scipy.sparse import csr_array

    return csr_array(influence)
