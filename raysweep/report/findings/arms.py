"""Measure the networks of an arm: every metric of every class, and what images and seeds say about each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from raysweep.label_sets import MAP
from raysweep.report.findings import binary, calibration, measures, offsets
from raysweep.report.findings.measures import Measured
from raysweep.report.findings.variance import ArmSummary, own_variance

Array = np.ndarray

LEARNED = "learned"  # the break-even point of precision and recall, where thresholds differ no more
OF_CLASS = ("recall", "precision", "f1", LEARNED, "ap", "auroc")
MOST_RANKED = 20_000_000  # classes × images up to which average precision and AUROC have an interval
OVERALL = ("accuracy", "macro_f1", "balanced_accuracy", LEARNED, "log_loss", "ece", "brier")
OVERALL_OF_LABELS = ("accuracy", "macro_f1", MAP, LEARNED, "log_loss", "ece", "brier")  # of several for an image


@dataclass(frozen=True)
class Arm:
    """All trainings of one treatment. ``networks``: for each seed a function that gives its log probabilities, (n, K)."""

    name: str
    networks: Sequence[Callable[[], Array]]


@dataclass(frozen=True)
class Cases:
    """The images that all networks were evaluated on. ``labels`` int (n,), or bool (n, K) of several labels for an image; ``groups`` int (n,) where images come in groups
    (patients, films): then the group is the case. ``prior`` float64 (K,): the shares of the classes in the data, where these images
    have others because a split gave small classes more; means over images are then weighted back to it. ``folds`` int (n,): the
    fold of each image in k-fold cross-validation, where a "network" is one network for each fold, each from a parent of its own."""

    labels: Array
    classes: int
    groups: Array | None = None
    prior: Array | None = None
    folds: Array | None = None

    @property
    def several(self) -> bool:
        """Whether an image has several labels."""
        return self.labels.ndim == 2

    @property
    def overall(self) -> tuple[str, ...]:
        """The metrics of all classes."""
        return OVERALL_OF_LABELS if self.several else OVERALL

    def part(self, which: Array) -> Cases:
        """Some of the images; ``which`` bool (n,)."""
        groups, folds = (None if a is None else a[which] for a in (self.groups, self.folds))
        return Cases(self.labels[which], self.classes, groups, self.prior, folds)

    @cached_property
    def fold_of(self) -> Any:
        """(G, F): which fold each case is in, as a sparse matrix of zeros and ones."""
        from scipy.sparse import csr_array

        assert self.folds is not None
        fold = np.unique(self.folds, return_inverse=True)[1]
        if self.groups is not None:  # a group is in one fold
            fold = fold[np.unique(self.groups, return_index=True)[1]]
        n = len(fold)
        return csr_array((np.ones(n), (np.arange(n), fold)), shape=(n, int(fold.max()) + 1))

    @cached_property
    def folds_with(self) -> Array:
        """float64 (M,): how many folds have images of each target, in the order of :func:`targets`."""
        assert self.folds is not None
        pairs = np.unique(np.stack([self.labels, self.folds]), axis=1)
        of_class = np.bincount(pairs[0], minlength=self.classes).astype(np.float64)
        return np.concatenate([np.tile(of_class, len(OF_CLASS)), np.full(len(OVERALL), float(self.fold_of.shape[1]))])

    def mean(self, scores: Array) -> Measured:
        """The mean of one number per image, ``scores`` (n,)."""
        return measures.mean_of(scores, self.labels, self.prior)

    @cached_property
    def actual(self) -> Array:
        """bool (K, n)"""
        if self.several:
            return np.asarray(self.labels.T)
        return measures.one_hot(self.labels, self.classes)

    @cached_property
    def counts(self) -> Array:
        """int (K,): images per class."""
        if self.several:
            return np.asarray(self.labels.sum(0))
        return np.bincount(self.labels, minlength=self.classes)

    @cached_property
    def of_class(self) -> Array:
        """float64 (K,): cases per class."""
        if self.groups is None:
            return self.counts.astype(np.float64)
        if self.several:
            in_group: Array = (self._groups.T @ self.labels.astype(np.float64)) > 0
            return np.asarray(in_group.sum(0), dtype=np.float64)
        pairs = np.unique(np.stack([self.labels, self.groups]), axis=1)
        return np.bincount(pairs[0], minlength=self.classes).astype(np.float64)

    @cached_property
    def number(self) -> int:
        """of cases"""
        return len(self.labels) if self.groups is None else len(np.unique(self.groups))

    @cached_property
    def _groups(self) -> Any:
        """(n, G): which case each image belongs to, as a sparse matrix of zeros and ones."""
        from scipy.sparse import csr_array

        assert self.groups is not None
        _, case = np.unique(self.groups, return_inverse=True)
        n = len(case)
        return csr_array((np.ones(n), (np.arange(n), case)), shape=(n, int(case.max()) + 1))

    def by_case(self, influence: Any) -> Any:
        """Influences (M, n) of images as those of cases, (M, G)."""
        return influence if self.groups is None else influence @ self._groups


@dataclass(frozen=True)
class Influence:
    """The influence of every case on every target, in the order of :func:`targets`: ``decided`` (4 K, G) is sparse; ``ranked``
    (2 K, G) is dense, and None where there are too many classes and images; ``overall`` float64 (7, G)."""

    decided: Any
    ranked: Array | None
    overall: Array

    def __add__(self, other: Influence) -> Influence:
        ranked = None if self.ranked is None or other.ranked is None else self.ranked + other.ranked
        return Influence(self.decided + other.decided, ranked, self.overall + other.overall)

    def times(self, factor: float) -> Influence:
        ranked = None if self.ranked is None else self.ranked * np.float32(factor)
        return Influence(self.decided * factor, ranked, self.overall * factor)

    def by_fold(self, fold_of: Any) -> Array:
        """Σ ψ over the cases of each fold, (M, F); ``fold_of`` (G, F). NaN for those of ``ranked`` if there are none."""
        of_decided = np.asarray((self.decided @ fold_of).todense())
        if self.ranked is None:
            of_ranked = np.full((len(of_decided) // 2, of_decided.shape[1]), np.nan)
        else:
            of_ranked = np.asarray(self.ranked @ fold_of, dtype=np.float64)
        return np.concatenate([of_decided, of_ranked, np.asarray(self.overall @ fold_of)])

    def squares(self) -> Array:
        """Σ ψ² of every target, (M,); NaN for those of ``ranked`` if there are none."""
        of_decided = np.asarray(self.decided.multiply(self.decided).sum(1)).ravel()
        if self.ranked is None:
            of_ranked = np.full(len(of_decided) // 2, np.nan)
        else:
            of_ranked = np.einsum("mg,mg->m", self.ranked, self.ranked, dtype=np.float64)
        return np.concatenate([of_decided, of_ranked, (self.overall**2).sum(1)])


@dataclass(frozen=True)
class MeasuredArm:
    """``summary`` and ``influence`` (the mean over the networks) have one row per target in the order of :func:`targets`.
    ``predicted`` float64 (S, K): how often each network predicts each class. ``inseparable`` bool (K,): classes for which some
    network has no break-even point."""

    summary: ArmSummary
    influence: Influence
    predicted: Array
    inseparable: Array


def targets(classes: int, overall: Sequence[str] = OVERALL) -> list[tuple[int | None, str]]:
    """(class or None for all classes, metric) of every row."""
    return [(c, metric) for metric in OF_CLASS for c in range(classes)] + [(None, metric) for metric in overall]


def measure(arm: Arm, cases: Cases) -> MeasuredArm:
    """Measure every network of an arm, one at a time, so that only one is in memory."""
    values, predicted, squares = [], [], []
    total: Influence | None = None
    inseparable = np.zeros(cases.classes, dtype=bool)
    for load in arm.networks:
        of_network = _network(np.asarray(load()), cases)
        values.append(of_network.value)
        predicted.append(of_network.predicted)
        inseparable |= of_network.inseparable
        squares.append(of_network.influence.squares())
        total = of_network.influence if total is None else total + of_network.influence
    assert total is not None, "an arm has at least one network"
    mean = total.times(1 / len(values))
    summary = ArmSummary(np.stack(values), own_variance(len(values), mean.squares(), np.sum(squares, axis=0)))
    return MeasuredArm(summary, mean, np.stack(predicted), inseparable)


@dataclass(frozen=True)
class _Network:
    value: Array
    influence: Influence
    predicted: Array
    inseparable: Array


def _network(log_probabilities: Array, cases: Cases) -> _Network:
    from scipy.sparse import vstack

    small = cases.classes * len(cases.labels) <= MOST_RANKED
    ranked = measures.ranked(log_probabilities, cases.actual, with_influence=small)
    of = (
        binary.measured(log_probabilities, cases.labels, ranked)
        if cases.several
        else _decided(log_probabilities, cases)
    )
    scores = [ranked.average_precision, ranked.auroc]
    influence = Influence(
        cases.by_case(vstack([binary.sparse(m.influence) for m in of.decided], format="csr")),
        cases.by_case(np.concatenate([m.influence for m in scores])) if small else None,
        cases.by_case(np.concatenate([m.influence for m in of.overall])),
    )
    value = np.concatenate([m.value for m in (*of.decided, *scores, *of.overall)])
    return _Network(value, influence, of.predicted, of.missed & (cases.counts > 0))


def _decided(log_probabilities: Array, cases: Cases) -> binary.OfNetwork:
    """The metrics of each class at the network's own decisions and at equal alarms, then those of OVERALL."""
    labels, k = cases.labels, cases.classes
    predicted = np.argmax(log_probabilities, axis=1)
    own = measures.per_class(labels, predicted, k)
    moved = _at_equal_alarms(log_probabilities, cases)
    even = measures.per_class(labels, moved.predicted, k).f1
    overall = [
        cases.mean(predicted == labels),
        measures.mean(own.f1),
        measures.mean(own.recall),
        measures.mean(even),
        cases.mean(moved.losses),
    ]
    trusted = calibration.calibration(_normalised(log_probabilities), labels, cases.prior)
    overall += [trusted.error, trusted.brier]
    return binary.OfNetwork([own.recall, own.precision, own.f1, even], overall, own.predicted, moved.missed)


@dataclass(frozen=True)
class _Even:
    """``predicted`` int (n,), ``losses`` float64 (n,) and ``missed`` bool (K,) where every class is predicted as often as it occurs."""

    predicted: Array
    losses: Array
    missed: Array


def _at_equal_alarms(log_probabilities: Array, cases: Cases) -> _Even:
    """Each trained network has offsets of its own, so with folds that of every fold."""
    labels, folds = cases.labels, np.zeros(len(cases.labels)) if cases.folds is None else cases.folds
    found = _Even(np.zeros(len(labels), dtype=np.int64), np.zeros(len(labels)), np.zeros(cases.classes, dtype=bool))
    for fold in np.unique(folds):
        mine = folds == fold
        scores = log_probabilities[mine]
        moved = offsets.to_counts(scores, np.bincount(labels[mine], minlength=cases.classes))
        found.predicted[mine] = moved.predicted
        found.losses[mine] = offsets.losses(scores, moved.offsets, labels[mine])
        found.missed[:] |= moved.missed
    return found


def _normalised(log_probabilities: Array) -> Array:
    """float64, so that the probabilities of each image have the sum 1; log 0 stays −∞."""
    from scipy.special import logsumexp

    scores = log_probabilities.astype(np.float64)
    result: Array = scores - logsumexp(scores, axis=1, keepdims=True)
    return result


def moved(arm: Arm, wanted: Array, cases: Cases) -> Array:
    """Recall, precision and F1, float64 (3, K), of an arm whose networks predict each class as often as ``wanted`` (K,), by
    offsets and without training. The mean over its networks."""
    found = []
    for load in arm.networks:
        scores = np.asarray(load())
        if cases.several:
            of_label = binary.per_label(cases.labels, binary.to_counts(scores, wanted).predicted)
            found.append([of_label.recall.value, of_label.precision.value, of_label.f1.value])
            continue
        predicted = offsets.to_counts(scores, wanted).predicted
        of_class = measures.per_class(cases.labels, predicted, cases.classes)
        found.append([of_class.recall.value, of_class.precision.value, of_class.f1.value])
    result: Array = np.mean(found, axis=0)
    return result


def floors(cases: Cases) -> Array:
    """The smallest variance of each target, in the order of :func:`targets`: 1/n² for a proportion over n cases, (1/K²) Σ 1/n_c²
    for a mean over K classes, none for the log-loss."""
    n = cases.of_class
    of_class = np.where(n > 0, 1 / np.maximum(n, 1) ** 2, np.nan)
    there = n > 0
    mean = float((1 / n[there] ** 2).sum()) / max(1, int(there.sum())) ** 2
    overall = {"accuracy": 1 / cases.number**2, "log_loss": 0.0, "ece": 0.0, "brier": 0.0}
    return np.concatenate([np.tile(of_class, len(OF_CLASS)), [overall.get(m, mean) for m in cases.overall]])


def sizes(cases: Cases) -> Array:
    """The cases that each target is taken over, in the order of :func:`targets`."""
    return np.concatenate([np.tile(cases.of_class, len(OF_CLASS)), np.full(len(OVERALL), float(cases.number))])
