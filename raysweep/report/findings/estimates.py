"""How good the networks of an arm are: every number by itself, with an interval from images and seeds.

A finding is about a difference between two arms; an estimate is about one. The variance is made up in the same way
(:mod:`raysweep.report.findings.variance`): the images are cases, the trainings readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raysweep.label_sets import MAP
from raysweep.report.findings import binary, calibration, measures
from raysweep.report.findings.arms import MOST_RANKED, Arm, Cases, Influence
from raysweep.report.findings.calibration import Bin
from raysweep.report.findings.findings import LEVEL
from raysweep.report.findings.variance import STEADY_SEEDS, ArmSummary, Pooled, own_variance, pooled

Array = np.ndarray

OF_CLASS = ("recall", "precision", "f1", "ap", "auroc")
OVERALL = ("accuracy", "macro_f1", "balanced_accuracy", "ece", "brier", "log_loss")


def overall_of(cases: Cases) -> tuple[str, ...]:
    """OVERALL; with several labels for an image mAP stands in the place of the balanced accuracy."""
    return tuple(MAP if m == "balanced_accuracy" and cases.several else m for m in OVERALL)


_HIGHEST = {"brier": 2.0, "log_loss": math.inf}  # of any other metric 1


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval: a share (0.01 is one point), the log-loss in nats. All three are NaN where nothing is known,
    as of a class without images; the ends alone where there is no interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimated:
    """What is known of one arm. ``overall``: metric of OVERALL → its estimate; ``of_class``: for each class, metric of OF_CLASS →
    its estimate. ``predicted`` float64 (K,): how often each class is predicted, the mean over the networks. ``matrix`` int64
    (K, K): row = true class, column = predicted class, the sum over the networks; of several labels see :func:`binary.together`. ``bins`` of all networks together, and
    ``ece_by_luck``: see :mod:`raysweep.report.findings.calibration`."""

    name: str
    networks: int
    overall: Mapping[str, Estimate]
    of_class: tuple[Mapping[str, Estimate], ...]
    predicted: Array
    matrix: Array
    bins: tuple[Bin, ...]
    ece_by_luck: float
    together: Array | None = None  # int64 (K, K), of several labels: images that have both, times the networks


@dataclass(frozen=True)
class _Measured:
    """All networks of an arm. The rows of ``summary`` and ``squares`` (Σ ψ̄² over the cases, (M,)) are the metrics of OF_CLASS, class
    by class, then those of OVERALL."""

    summary: ArmSummary
    squares: Array
    predicted: Array
    matrix: Array
    bins: tuple[Bin, ...]
    by_luck: float


def estimate(arms: Sequence[Arm], cases: Cases) -> list[Estimated]:
    """Every number of every arm; the variance between seeds is that of all arms together."""
    found = [_measured(arm, cases) for arm in arms]
    between = pooled([m.summary for m in found])
    return [_estimated(arm, m, between, cases) for arm, m in zip(arms, found, strict=True)]


def _measured(arm: Arm, cases: Cases) -> _Measured:
    k = cases.classes
    matrix = np.zeros((k, k), dtype=np.int64)
    values, squares, luck, logs, predicted = [], [], [], [], []
    total: Influence | None = None
    for load in arm.networks:
        log_probabilities = np.asarray(load(), dtype=np.float64)
        if cases.several:
            matrix += binary.together(cases.labels, binary.predicted(np.exp(log_probabilities)))
        else:
            guess = log_probabilities.argmax(1)
            matrix += np.bincount(cases.labels * k + guess, minlength=k * k).reshape(k, k)
        value, influence, by_luck, count = _network(log_probabilities, cases)
        predicted.append(count)
        values.append(value)
        squares.append(influence.squares())
        luck.append(by_luck)
        logs.append(log_probabilities)
        total = influence if total is None else total + influence
    assert total is not None, "an arm has at least one network"
    s = len(values)
    mean = total.times(1 / s).squares()
    summary = ArmSummary(np.stack(values), own_variance(s, mean, np.sum(squares, axis=0)))
    bins = () if cases.several else calibration.bins(logs, cases.labels)
    return _Measured(summary, mean, np.sum(predicted, axis=0) / s, matrix, bins, float(np.mean(luck)))


def _network(log_probabilities: Array, cases: Cases) -> tuple[Array, Influence, float, Array]:
    """(value of every metric, influence of every case, the calibration error by luck, how often each class is predicted)."""
    from scipy.sparse import vstack

    labels, k = cases.labels, cases.classes
    small = k * len(labels) <= MOST_RANKED
    ranked = measures.ranked(log_probabilities, cases.actual, with_influence=small)
    if cases.several:
        probabilities = np.exp(log_probabilities)
        own = binary.per_label(labels, binary.predicted(probabilities))
        exact, f1, of_all, loss, none, brier = binary.overall_of(log_probabilities, probabilities, labels, own, ranked)
        overall, by_luck = [exact, f1, of_all, none, brier, loss], float("nan")
    else:
        guess = log_probabilities.argmax(1)
        own = measures.per_class(labels, guess, k)
        trusted = calibration.calibration(log_probabilities, labels, cases.prior)
        overall = [cases.mean(guess == labels), measures.mean(own.f1), measures.mean(own.recall)]
        overall += [trusted.error, trusted.brier, trusted.log_loss]
        by_luck = trusted.by_luck
    decided, scores = [own.recall, own.precision, own.f1], [ranked.average_precision, ranked.auroc]
    influence = Influence(
        cases.by_case(vstack([binary.sparse(m.influence) for m in decided], format="csr")),
        # NaN stands for an influence that would take too much memory: such a number has no interval.
        cases.by_case(np.concatenate([m.influence for m in scores])) if small else np.full((2 * k, 1), np.nan),
        cases.by_case(np.concatenate([m.influence for m in overall])),
    )
    return np.concatenate([m.value for m in (*decided, *scores, *overall)]), influence, by_luck, own.predicted


def _estimated(arm: Arm, found: _Measured, between: Pooled, cases: Cases) -> Estimated:
    mean, half = found.summary.mean, _half(found, between, cases)
    k = cases.classes

    def at(row: int, metric: str) -> Estimate:
        # of several labels the Brier score is the mean over labels, not the sum over classes
        highest = 1.0 if cases.several and metric == "brier" else _HIGHEST.get(metric, 1.0)
        value = float(mean[row])
        low, high = value - float(half[row]), value + float(half[row])
        return Estimate(value, max(0.0, low) if low == low else low, min(highest, high) if high == high else high)

    per_class = [{m: at(i * k + c, m) for i, m in enumerate(OF_CLASS)} for c in range(k)]
    overall = {m: at(len(OF_CLASS) * k + i, m) for i, m in enumerate(overall_of(cases))}
    return Estimated(
        arm.name,
        found.summary.seeds,
        overall,
        tuple(per_class),
        found.predicted,
        found.matrix,
        found.bins,
        found.by_luck,
        found.summary.seeds * binary.together(cases.labels, cases.labels) if cases.several else None,
    )


def _half(found: _Measured, between: Pooled, cases: Cases) -> Array:
    """Half of the interval of every number, (M,): V = max[V_seed + max(Σ ψ̄² − E, 0), floor] with V_seed = max(σ², s²) / S."""
    from scipy.stats import t

    seeds = found.summary.seeds
    sizes, floor = _sizes(found, cases)
    images = np.maximum(found.squares - found.summary.own, 0.0)
    degrees = np.maximum(sizes - 1.0, 1.0)
    of_seeds: Array = np.zeros(len(images))
    if between.degrees:
        own = np.where(np.isnan(found.summary.variance), between.variance, found.summary.variance)
        of_seeds = np.maximum(between.variance, own) / seeds
        degrees = np.minimum(degrees, between.degrees)
        if seeds >= STEADY_SEEDS:
            degrees = np.minimum(degrees, seeds - 1.0)
    variance = np.maximum(of_seeds + images, floor)
    result: Array = t.ppf(1 - LEVEL / 2, degrees) * np.sqrt(variance)
    return result


def _sizes(found: _Measured, cases: Cases) -> tuple[Array, Array]:
    """(the cases that each number is taken over, the smallest variance that a number of so few cases can have). Of the precision
    these are the images that are predicted to be of the class; NaN where there are none."""
    n = cases.of_class
    predicted = np.where((found.predicted > 0) & (n > 0), np.maximum(found.predicted, 1.0), np.nan)
    of_class = np.where(n > 0, n, np.nan)
    sizes = np.concatenate([of_class, predicted, np.tile(of_class, 3), np.full(len(OVERALL), float(cases.number))])
    there = n > 0
    mean = float((1 / n[there] ** 2).sum()) / max(1, int(there.sum())) ** 2
    of_all = {"accuracy": 1 / cases.number**2, "macro_f1": mean, "balanced_accuracy": mean, MAP: mean}
    floor = np.concatenate([1 / sizes[: -len(OVERALL)] ** 2, [of_all.get(m, 0.0) for m in overall_of(cases)]])
    return sizes, floor
