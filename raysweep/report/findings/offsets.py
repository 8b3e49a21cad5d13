"""Offsets on log probabilities: how often a network predicts each class is a choice that needs no training.

With offsets a network can be compared at equal alarms: where it predicts every class as often as it occurs, recall, precision
and F1 of the class are one number, the break-even point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

STEPS = 200
LOWEST = -1e4  # stands for log 0, which would stay −∞ whatever is added
_CLOSE = 1e-3  # the least that offsets are let move before all images are looked at again
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
    n = len(log_probabilities)
    scores = np.maximum(log_probabilities.astype(np.float32), np.float32(LOWEST))
    wanted = np.asarray(wanted, dtype=np.float64)
    there = wanted > 0
    target = wanted + 0.5
    current = np.where(there, 0.0, -np.inf)
    near = _Near(scores, current)
    best, best_miss, best_counts = current, np.inf, near.counts
    eta, before = 1.0, np.inf
    for _ in range(STEPS):
        counts = near.counted(current)
        miss = float(np.abs(counts - wanted).sum())
        if miss < best_miss:
            best, best_miss, best_counts = current, miss, counts
        if miss == 0:
            break
        eta = min(eta * 1.2, 8.0) if miss < before else max(eta * 0.5, 0.02)  # sharp networks need larger steps
        before = miss
        step = eta * np.log(target[there] / (counts[there] + 0.5))
        moved = current.copy()
        moved[there] += step - (current[there] + step).mean()
        current = moved
    missed = np.abs(best_counts - wanted) > np.maximum(1.0 + _FEW * n, 0.02 * wanted)
    return Moved(best, np.argmax(scores + best.astype(np.float32), axis=1), missed)


class _Near:
    """Counts predictions while offsets move. Images whose two best classes are far apart keep theirs while no offset has moved
    further than half of that, so only the others are looked at again: the counts are those of all images."""

    def __init__(self, scores: Array, offsets: Array) -> None:
        self.scores = scores
        self.classes = scores.shape[1]
        self.reach = 1.0
        self.last = offsets
        self.counts = self._look(offsets)

    def _look(self, offsets: Array) -> Array:
        """Look at every image, and remember those that may change soon."""
        full = self.scores + offsets.astype(np.float32)
        predicted = np.argmax(full, axis=1)
        rows = np.arange(len(full))
        best = full[rows, predicted]
        full[rows, predicted] = -np.inf
        near = best - full.max(axis=1) <= 2 * self.reach
        self.at = offsets
        self.fixed = np.bincount(predicted[~near], minlength=self.classes)
        self.changing = self.scores[near]
        counts: Array = np.bincount(predicted, minlength=self.classes)
        return counts

    def counted(self, offsets: Array) -> Array:
        """How often each class is predicted with these offsets, int (K,)."""
        there = np.isfinite(offsets)
        far = float(np.abs(offsets[there] - self.at[there]).max(initial=0.0))
        step = float(np.abs(offsets[there] - self.last[there]).max(initial=0.0))
        self.last = offsets
        if far >= self.reach or 16 * step < self.reach > _CLOSE:
            self.reach = max(_CLOSE, 4 * step)
            return self._look(offsets)
        predicted = np.argmax(self.changing + offsets.astype(np.float32), axis=1)
        counts: Array = self.fixed + np.bincount(predicted, minlength=self.classes)
        return counts


def losses(log_probabilities: Array, moved: Array, labels: Array) -> Array:
    """−log p(true class) of each image after the offsets, normalised again: float64 (n,)."""
    from scipy.special import logsumexp

    scores = np.maximum(log_probabilities.astype(np.float64), LOWEST) + moved
    result: Array = logsumexp(scores, axis=1) - scores[np.arange(len(labels)), labels]
    return result
