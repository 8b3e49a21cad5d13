"""Offsets on log probabilities: how often a network predicts each class is a choice that needs no training.

With offsets a network can be compared at equal alarms: where it predicts every class as often as it occurs, recall, precision
and F1 of the class are one number, the break-even point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

STEPS = 200
_LOWEST = -1e4  # stands for log 0, which would stay −∞ whatever is added
_FEW = 1e-3  # share of the images by which a class may be missed after the last step


@dataclass(frozen=True)
class Moved:
    """``offsets`` float64 (K,); ``predicted`` int (n,): the classes after them; ``missed`` (K,): whether the wanted count
    of a class could not be reached, because the network does not separate it."""

    offsets: Array
    predicted: Array
    missed: Array


def to_counts(log_probabilities: Array, wanted: Array) -> Moved:
    """Offsets with which argmax predicts each class as often as wanted.

    Damped steps b += η log(wanted / predicted), with η halved when the misses grow; needs no labels. Classes that are wanted
    0 times get −∞.

    Args:
        log_probabilities: (n, K).
        wanted: (K,), images per class; their sum is n.
    """
    n, k = log_probabilities.shape
    scores = np.maximum(log_probabilities.astype(np.float32), np.float32(_LOWEST))
    wanted = np.asarray(wanted, dtype=np.float64)
    target = wanted + 0.5
    offsets = np.where(wanted > 0, 0.0, -np.inf)
    best, best_miss, best_predicted = offsets, np.inf, np.argmax(scores, axis=1)
    eta, before = 1.0, np.inf
    current = offsets.copy()
    for _ in range(STEPS):
        predicted = np.argmax(scores + current.astype(np.float32), axis=1)
        counts = np.bincount(predicted, minlength=k)
        miss = float(np.abs(counts - wanted).sum())
        if miss < best_miss:
            best, best_miss, best_predicted = current.copy(), miss, predicted
        if miss == 0:
            break
        if miss >= before:
            eta = max(eta * 0.7, 0.02)
        before = miss
        current = np.where(wanted > 0, current + eta * np.log(target / (counts + 0.5)), -np.inf)
        current -= current[wanted > 0].mean()
    counts = np.bincount(best_predicted, minlength=k)
    missed = np.abs(counts - wanted) > np.maximum(1.0 + _FEW * n, 0.02 * wanted)
    return Moved(best, best_predicted, missed)


def losses(log_probabilities: Array, moved: Array, labels: Array) -> Array:
    """−log p(true class) of each image after the offsets, normalised again: float64 (n,)."""
    from scipy.special import logsumexp

    scores = np.maximum(log_probabilities.astype(np.float64), _LOWEST) + moved
    result: Array = logsumexp(scores, axis=1) - scores[np.arange(len(labels)), labels]
    return result
