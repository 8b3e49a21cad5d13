"""Offsets fitted for a metric: what a network gets without any training, by adding a number per class to its logits. Where an image has several labels, that moves
the threshold of each label, and each is fitted by itself.

The gain is cross-fitted: each image is judged with offsets that were fitted without it, so that no image tells its own answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raysweep.label_sets import MAP
from raysweep.report.findings import binary, measures
from raysweep.report.findings.arms import Arm, Cases
from raysweep.report.findings.measures import Measured
from raysweep.report.findings.offsets import LOWEST

Array = np.ndarray

METRICS = ("macro_f1", "accuracy", "balanced_accuracy")
OF_LABELS = "macro_f1"  # what offsets are fitted for where an image has several labels
FOLDS = 5
MOST = 2_000_000  # classes × images up to which offsets are searched
_OF_CLASS = ("recall", "precision", "f1")
_ROUNDS = 20
_LEAST = 1e-9  # by which a step must improve the metric
_Z = 1.96  # standard errors in half of a 95 % interval


@dataclass(frozen=True)
class Gain:
    """One number of the networks without offsets (``before``) and with them, means over the networks. ``low`` and ``high`` are the
    ends of a 95 % interval of the difference, which is paired by network. NaN for a class without images."""

    target: int | None  # index of the class; None for all
    metric: str
    before: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fitted:
    """What offsets that were fitted for ``metric`` give, cross-fitted. ``times`` (K,): how many times as often each class is predicted;
    NaN where it never was."""

    metric: str
    gains: tuple[Gain, ...]
    times: Array


def of_arm(arm: Arm, cases: Cases, metric: str, seed: int = 0) -> Fitted:
    """What every network of an arm gets from offsets of its own, fitted for a metric of METRICS; of several labels OF_LABELS.

    Deterministic: the same numbers and seed give the same gains.
    """
    k, fold = cases.classes, _folds(cases, seed)
    before, after, influence = [], [], None
    counts = np.zeros((2, k))
    for load in arm.networks:
        scores = np.asarray(load())
        own = decided(scores, np.zeros(k), cases.several)
        moved = np.empty_like(own)
        for f in range(FOLDS):
            there = fold == f
            found = fit(scores[~there], cases.part(~there), metric)
            moved[there] = decided(scores[there], found, cases.several)
        (plain, of_plain), (better, of_better) = (_measured(p, cases) for p in (own, moved))
        before.append(plain)
        after.append(better)
        influence = of_better - of_plain if influence is None else influence + of_better - of_plain
        counts += [p.sum(0) if cases.several else np.bincount(p, minlength=k) for p in (own, moved)]
    assert influence is not None, "an arm has at least one network"
    first, second, s = np.mean(before, axis=0), np.mean(after, axis=0), len(before)
    variance = np.square(influence / s).sum(1)
    if s > 1:
        variance += np.var(np.subtract(after, before), axis=0, ddof=1) / s
    half = _Z * np.sqrt(variance)
    gain = second - first
    overall = (OF_LABELS, "accuracy") if cases.several else METRICS
    rows = [(c, m) for m in _OF_CLASS for c in range(k)] + [(None, m) for m in overall]
    values = zip(rows, first.tolist(), second.tolist(), (gain - half).tolist(), (gain + half).tolist(), strict=True)
    times = np.divide(counts[1], counts[0], out=np.full(k, np.nan), where=counts[0] > 0)
    gains = [Gain(*row, *numbers) for row, *numbers in values]
    if cases.several:
        gains.append(_mean_precision(arm, cases))
    return Fitted(metric, tuple(gains), times)


def _mean_precision(arm: Arm, cases: Cases) -> Gain:
    """Of mAP, which is the same at every threshold."""
    each = [measures.ranked(np.asarray(load()), cases.actual, with_influence=False) for load in arm.networks]
    value = float(np.mean([measures.mean(found.average_precision).value[0] for found in each]))
    return Gain(None, MAP, value, value, 0.0, 0.0)


def with_offsets(log_probabilities: Array, offsets: Array, several: bool) -> Array:
    """The log probabilities, float64 (n, K), of the same network with these offsets (K,) added to its logits.

    Args:
        several: whether each label has a probability of its own.
    """
    if several:
        result: Array = -np.logaddexp(0.0, -(_logits(log_probabilities) + offsets))
        return result
    moved = log_probabilities.astype(np.float64) + offsets
    moved -= moved.max(1, keepdims=True)
    normalised: Array = moved - np.log(np.exp(moved).sum(1, keepdims=True))
    return normalised


def decided(log_probabilities: Array, offsets: Array, several: bool) -> Array:
    """What a network with these offsets says: int64 (n,), or of several labels bool (n, K)."""
    if several:
        says: Array = _logits(log_probabilities) + offsets > 0
        return says
    best: Array = np.argmax(log_probabilities + offsets, axis=1)
    return best


def _logits(log_probabilities: Array) -> Array:
    """log p − log(1 − p), float64 and finite, of labels that have a probability each."""
    logs = np.clip(log_probabilities.astype(np.float64), LOWEST, -1e-15)
    logits: Array = logs - np.log(-np.expm1(logs))
    return logits


def _folds(cases: Cases, seed: int) -> Array:
    """int (n,): in which of FOLDS parts each image is. Every class is spread over all of them, and a group is in one."""
    rng = np.random.default_rng(seed)
    if cases.groups is not None:
        groups, of = np.unique(cases.groups, return_inverse=True)
        of_group: Array = rng.permutation(len(groups)) % FOLDS
        return of_group[of]
    order = rng.permutation(len(cases.labels))
    if cases.several:
        return order % FOLDS
    order = order[np.argsort(cases.labels[order], kind="stable")]
    fold = np.empty(len(order), dtype=np.int64)
    fold[order] = np.arange(len(order)) % FOLDS
    return fold


def _measured(predicted: Array, cases: Cases) -> tuple[Array, Array]:
    """(values, (M,); influence of every case, (M, G)) of recall, precision and F1 of each class, then of METRICS, of several labels without the balanced
    accuracy."""
    if cases.several:
        of_labels = binary.per_label(cases.labels, predicted)
        right = measures.mean_of((predicted == cases.labels).all(1))
        each = (of_labels.recall, of_labels.precision, of_labels.f1, measures.mean(of_labels.f1), right)
        return np.concatenate([p.value for p in each]), cases.by_case(np.concatenate([p.influence for p in each]))
    found = measures.per_class(cases.labels, predicted, cases.classes)
    parts: Sequence[Measured] = (
        found.recall,
        found.precision,
        found.f1,
        measures.mean(found.f1),
        cases.mean(predicted == cases.labels),
        measures.mean(found.recall),
    )
    influence = [np.asarray(getattr(p.influence, "todense", lambda p=p: p.influence)()) for p in parts]
    return np.concatenate([p.value for p in parts]), cases.by_case(np.concatenate(influence))


def fit(log_probabilities: Array, cases: Cases, metric: str) -> Array:
    """Offsets with which argmax has the largest metric. Coordinate ascent: for one class after the other the best offset is looked up
    among all that change a prediction, until none of them helps.

    Args:
        log_probabilities: (n, K).
        cases: the images.
        metric: one of METRICS; of several labels OF_LABELS.

    Returns:
        float64 (K,), with mean 0; of several labels 0 where a label has no images.
    """
    if cases.several:
        return _of_labels(_logits(log_probabilities), cases.labels)
    k, labels, real = cases.classes, cases.labels, cases.counts
    found, weights = np.zeros(k), _weights(cases, metric)
    if k < 2 or not len(labels):
        return found
    ranking = _Ranking(np.maximum(log_probabilities.astype(np.float64), LOWEST))
    best = -math.inf
    for _ in range(_ROUNDS):
        before = best
        for c in np.flatnonzero(real).tolist():
            values, margins = _along(ranking, labels, c, real, weights)
            at = int(values.argmax())
            if values[at] > best + _LEAST:
                best, step = float(values[at]), _between(margins, at)
                found[c] += step
                ranking.move(c, step)
        if best <= before + _LEAST:
            break
    result: Array = found - found.mean()
    return result


def _of_labels(logits: Array, labels: Array) -> Array:
    """For each label the offset with which its F1 is largest; both (n, K)."""
    found = np.zeros(labels.shape[1])
    for c in np.flatnonzero(labels.any(0)).tolist():
        margins = np.sort(-logits[:, c])  # the offset from which on each image is said to have the label
        hits = np.cumsum(labels[np.argsort(-logits[:, c], kind="stable"), c])
        f1 = np.r_[0.0, 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])]
        f1[1:-1][margins[1:] == margins[:-1]] = -np.inf  # images with the same score change together
        found[c] = _between(margins, int(f1.argmax()))
    return found


def _weights(cases: Cases, metric: str) -> Array | None:
    """How much a hit of each image adds to the metric, (n,); None where the metric is no mean of hits."""
    if metric == "macro_f1":
        return None
    labels = cases.labels
    if metric == "balanced_accuracy":
        share: Array = 1 / (np.count_nonzero(cases.counts) * cases.counts[labels])
        return share
    return np.full(len(labels), 1 / len(labels)) if cases.prior is None else measures.image_weights(labels, cases.prior)


class _Ranking:
    """The two best classes of every image while offsets move: ``best`` int (n, 2), the better one first."""

    def __init__(self, scores: Array) -> None:
        self.scores = scores
        self.best = self._two(np.arange(len(scores)))

    def _two(self, rows: Array) -> Array:
        scores = self.scores[rows]
        two = np.argpartition(scores, -2, axis=1)[:, -2:]
        values = np.take_along_axis(scores, two, axis=1)
        return np.where(values[:, :1] > values[:, 1:], two, two[:, ::-1])

    def move(self, c: int, step: float) -> None:
        """Add a number to the scores of class c."""
        self.scores[:, c] += step
        second = self.scores[np.arange(len(self.scores)), self.best[:, 1]]
        changed = np.flatnonzero((self.best == c).any(1) | (self.scores[:, c] >= second))
        self.best[changed] = self._two(changed)

    def rivals(self, c: int) -> tuple[Array, Array]:
        """(the best class beside c, int (n,); how much the offset of c must grow until c is better, (n,))."""
        rival = np.where(self.best[:, 0] == c, self.best[:, 1], self.best[:, 0])
        return rival, self.scores[np.arange(len(rival)), rival] - self.scores[:, c]


def _between(margins: Array, at: int) -> float:
    """The offset with which the first ``at`` images are called the class, and the next ones not."""
    low = margins[at - 1] if at else margins[0] - 1
    high = margins[at] if at < len(margins) else margins[-1] + 1
    return float((low + high) / 2)


def _along(ranking: _Ranking, labels: Array, c: int, real: Array, weights: Array | None) -> tuple[Array, Array]:
    """The metric while the offset of class c grows and the others stay: (its values once the first 0 … n images are called c, (n + 1,);
    the offsets from which on each image is, (n,), ascending)."""
    rival, margin = ranking.rivals(c)
    order = np.argsort(margin, kind="stable")
    rival, truth, margin = rival[order], labels[order], margin[order]
    gained, lost = truth == c, truth == rival
    n, classes = len(labels), np.count_nonzero(real)
    if weights is None:
        hits = np.r_[0, np.cumsum(gained)]
        values = (2 * hits / (np.arange(n + 1) + real[c]) + _f1_of_rivals(rival, lost, real)) / classes
    else:
        weight = weights[order]
        values = (weight * lost).sum() + np.r_[0.0, np.cumsum(weight * (gained.astype(np.float64) - lost))]
    values[1:-1][margin[1:] == margin[:-1]] = -np.inf  # images with the same margin change together
    return values, margin


def _f1_of_rivals(rival: Array, hit: Array, real: Array) -> Array:
    """Σ F1 of the other classes once the first 0 … n images are no longer called ``rival``, (n + 1,)."""
    called, hits = np.bincount(rival, minlength=len(real)), np.bincount(rival[hit], minlength=len(real))
    order = np.argsort(rival, kind="stable")  # the images of one rival after the other
    of, of_hit = rival[order], hit[order]
    starts = np.cumsum(called) - called
    gone = np.arange(len(of)) - starts[of]
    summed = np.cumsum(of_hit) - of_hit  # before this image
    gone_hits = summed - summed[np.minimum(starts, len(of) - 1)][of]

    def f1(right: Array, under: Array) -> Array:
        ratio: Array = np.divide(2.0 * right, under, out=np.zeros(len(right)), where=under > 0)
        return ratio

    left, under = hits[of] - gone_hits, real[of] + called[of] - gone
    steps = np.zeros(len(of))
    steps[order] = np.where(real[of] > 0, f1(left - of_hit, under - 1) - f1(left, under), 0.0)
    there = real > 0
    result: Array = f1(hits, real + called)[there].sum() + np.r_[0.0, np.cumsum(steps)]
    return result
