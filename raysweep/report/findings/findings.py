"""Findings: every difference between a branch and its reference, with one interval, one p-value and one label.

What a ratio does first is to move decision thresholds. So each class has two kinds of differences: those at the networks' own
decisions (recall, precision, F1), and what was *learned*, where every network predicts each class as often as it occurs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from raysweep.label_sets import MAP
from raysweep.report.findings import arms, selection
from raysweep.report.findings.arms import LEARNED, Arm, Cases, MeasuredArm
from raysweep.report.findings.selection import Winner
from raysweep.report.findings.variance import ArmSummary, OfFolds, Pooled, Tested, errors, pooled, tested

Array = np.ndarray

BETTER, WORSE, NOT_SHOWN = "better", "worse", "not shown"
LEARNED_BETTER, LEARNED_WORSE, LEARNING_NOT_SHOWN = "learned better", "learned worse", "learning not shown"
SAME_AS_MOVING = "same as moving the threshold"
ONE_SEED, NOT_TESTED, INSEPARABLE = "one seed", "not tested", "not separable"
DESCRIBED_ONLY = "described"  # of a metric that is told beside the others and gets no label
SHOWN = (BETTER, WORSE, LEARNED_BETTER, LEARNED_WORSE)

LEVEL = 0.05  # of the false-discovery rate; intervals cover 1 − LEVEL
MARGIN = 0.02  # within which two numbers count as the same
FEWEST = 10  # images of a class, or predictions of it, below which nothing is tested
CHOSEN_BY = (
    "macro_f1",
    "accuracy",
    "balanced_accuracy",
)  # metrics by which a branch is chosen; the first names the winner
CHOSEN_BY_LABELS = (MAP, "accuracy", "macro_f1")  # where an image has several labels
_TESTED = (
    "recall",
    "precision",
    "f1",
    "accuracy",
    "macro_f1",
    "balanced_accuracy",
    MAP,
)  # one family; learned is another


@dataclass(frozen=True)
class Finding:
    """One difference, branch − control, as shares (0.01 is one point) and as means over the seeds; log-loss in nats.

    ``low`` and ``high`` are the ends of its interval, ``p`` its p-value and ``q`` the same after Benjamini–Hochberg; NaN where
    nothing was tested. ``smallest`` is the smallest difference that would have been labelled. ``label`` is "" where a number
    is only described.
    """

    branch: str
    target: int | None  # index of the class; None for all
    metric: str
    control: float
    value: float
    difference: float
    low: float
    high: float
    p: float
    q: float
    smallest: float
    label: str
    images: float  # variance of the difference that comes from the images
    floor: float = 0.0  # the least variance that so few images allow, whatever the networks


@dataclass(frozen=True)
class Free:
    """What moved thresholds give without training: the control, with offsets, predicts each class as often as the branch does.

    ``times`` float64 (K,): how many times as often the branch predicts the class. ``recall``, ``precision``, ``f1`` (K,): the
    moved control's minus the control's.
    """

    branch: str
    times: Array
    recall: Array
    precision: Array
    f1: Array


@dataclass(frozen=True)
class Gains:
    """A metric over all classes: each branch's difference from the control of the sweep, also where it is compared with that of its
    cell, ``values`` (B,), and their ``covariance`` (B, B), which the shared control makes them have; NaN if no arm has two seeds."""

    values: Array
    covariance: Array
    of_seeds: Array  # (B,), the variance of each that the branch's own seeds make on any images
    shared: Array | None = None  # (B, B), the covariance for equal networks: diag(1/S_b) + 1/S_0; None: it is not known


@dataclass(frozen=True)
class Findings:
    """``gains``: metric of CHOSEN_BY, or of CHOSEN_BY_LABELS → the differences over all classes. ``compared`` is the number of tests in each family (decisions, learned). ``winner`` is the branch with the best
    macro-F1, of several labels mAP; None for a single branch or one seed."""

    findings: tuple[Finding, ...]
    free: tuple[Free, ...]
    compared: tuple[int, int]
    seeds: Pooled
    winner: Winner | None
    gains: Mapping[str, Gains]

    def chosen(self, metric: str, seed: int = 0) -> Winner:
        """The branch with the largest gain in a metric of CHOSEN_BY. Its corrected gain is NaN if no arm has two seeds; a single
        branch was not chosen, so its gain needs no correction.

        Args:
            seed: of the draws that correct the gain.
        """
        names, gains = [f.branch for f in self.free], self.gains[metric]
        if len(names) > 1 and not np.isnan(gains.covariance).any():
            return selection.corrected(names, gains.values, gains.covariance, seed)
        best = int(gains.values.argmax())
        gain = float(gains.values[best])
        return Winner(names[best], gain, gain if len(names) == 1 else math.nan, len(names))

    def luck(self, metric: str, seed: int = 0) -> float:
        """How much of the gain of :meth:`chosen` on other images is luck of its seeds, in the mean; NaN if no arm has two seeds."""
        if not self.seeds.degrees:
            return math.nan
        found = self.gains[metric]
        return selection.luck(found.values, found.covariance, found.of_seeds, seed) if len(self.free) > 1 else 0.0


@dataclass(frozen=True)
class _Compared:
    """A branch that was tested against its reference, without what is needed only while testing."""

    name: str
    summary: ArmSummary
    predicted: Array
    inseparable: Array
    of_images: Array  # V_img, (M,)
    reference: MeasuredArm
    of_folds: OfFolds | None

    @property
    def seeds(self) -> int:
        return self.summary.seeds


def find(
    control: Arm,
    branches: Sequence[Arm],
    cases: Cases,
    margin: float = MARGIN,
    seed: int = 0,
    references: Mapping[str, str] = MappingProxyType({}),
) -> Findings:
    """Compare every branch with its reference, on the same cases.

    Deterministic: the same numbers and seed give the same findings. Memory holds the influence of the references and of one branch
    at a time.

    Args:
        references: branch → the other branch that it is compared with; those not named are compared with ``control``.
        margin: two networks whose 90 % interval lies within ± margin count as the same.
        seed: of the draws that correct the winner's gain.
    """
    rows = arms.targets(cases.classes, cases.overall)
    chosen_by = CHOSEN_BY_LABELS if cases.several else CHOSEN_BY
    whole = [cases.overall.index(metric) for metric in chosen_by]
    reference = arms.measure(control, cases)
    known = {b.name: (b, arms.measure(b, cases)) for b in branches if b.name in references.values()}
    compared, free, differences = [], [], []
    for branch in branches:
        measured = known[branch.name][1] if branch.name in known else arms.measure(branch, cases)
        against, its = known[references[branch.name]] if branch.name in references else (control, reference)
        differences.append((measured.influence.overall - reference.influence.overall)[whole])
        apart = measured.influence + its.influence.times(-1)
        compared.append(
            _Compared(
                branch.name,
                measured.summary,
                measured.predicted,
                measured.inseparable,
                apart.squares(),
                its,
                None if cases.folds is None else OfFolds.of(apart.by_fold(cases.fold_of), cases.folds_with),
            )
        )
        free.append(_free(branch.name, measured, its, against, cases))
    between = pooled([reference.summary, *(c.summary for c in compared)])
    floor, sizes = arms.floors(cases), arms.sizes(cases)
    tests = [tested(c.summary, c.reference.summary, c.of_images, between, floor, sizes, c.of_folds) for c in compared]
    usable = np.array([_usable(c, cases, between, rows) for c in compared])
    found, sizes_of_families = _labelled(compared, tests, usable, rows, margin)
    gains = {
        metric: _gains(
            rows.index((None, metric)), compared, reference, np.stack([d[i] for d in differences]), between, cases
        )
        for i, metric in enumerate(chosen_by)
    }
    winner, chosen = None, gains[chosen_by[0]]
    if len(compared) > 1 and not np.isnan(chosen.covariance).any():
        winner = selection.corrected([c.name for c in compared], chosen.values, chosen.covariance, seed)
    return Findings(tuple(found), tuple(free), sizes_of_families, between, winner, gains)


def _gains(
    row: int,
    compared: Sequence[_Compared],
    control: MeasuredArm,
    differences: Array,
    between: Pooled,
    cases: Cases,
) -> Gains:
    """What every branch gains over the control in one metric, by the row of the metric; ``differences`` (B, G) is the influence of
    every case on it."""
    own = np.array([c.summary.own[row] for c in compared])
    seeds = np.array([c.seeds for c in compared])
    of_control = float(control.summary.own[row])
    variance = float(between.variance[row])
    spread = selection.covariance(differences, own, of_control, variance, seeds, control.summary.seeds)
    if cases.folds is not None:
        spread = selection.wider(spread, differences @ cases.fold_of)
    values = np.array([c.summary.mean[row] - control.summary.mean[row] for c in compared])
    shared = np.diag(1 / seeds) + 1 / control.summary.seeds
    return Gains(values, spread, np.maximum(variance / seeds - own, 0.0), shared)


def _free(name: str, branch: MeasuredArm, reference: MeasuredArm, control: Arm, cases: Cases) -> Free:
    wanted = branch.predicted.mean(0)
    now = reference.predicted.mean(0)
    times = np.divide(wanted, now, out=np.full(len(now), np.nan), where=now > 0)
    k = cases.classes
    moved = arms.moved(control, wanted, cases)
    gained = moved - reference.summary.mean[: 3 * k].reshape(3, k)
    return Free(name, times, gained[0], gained[1], gained[2])


def _usable(branch: _Compared, cases: Cases, between: Pooled, rows: Sequence[tuple[int | None, str]]) -> list[str]:
    """For every row why it is not tested, or "" where it is."""
    control = branch.reference
    predicted = np.minimum(branch.predicted.mean(0), control.predicted.mean(0))
    apart = branch.inseparable | control.inseparable
    result = []
    for c, metric in rows:
        if metric not in (*_TESTED, LEARNED):
            result.append(DESCRIBED_ONLY)
        elif c is not None and (cases.of_class[c] < FEWEST or (metric == "precision" and predicted[c] < FEWEST)):
            result.append(NOT_TESTED)
        elif metric == LEARNED and (apart[c] if c is not None else bool(apart.any())):
            result.append(INSEPARABLE)
        elif branch.of_folds is None and (branch.seeds < 2 or between.degrees == 0):
            result.append(ONE_SEED)
        else:
            result.append("")
    return result


def _labelled(
    compared: Sequence[_Compared],
    tests: Sequence[Tested],
    usable: Array,
    rows: Sequence[tuple[int | None, str]],
    margin: float,
) -> tuple[list[Finding], tuple[int, int]]:
    """Label every difference, with Benjamini–Hochberg in each of the two families."""
    p = np.stack([t.p for t in tests])
    learned = np.array([metric == LEARNED for _, metric in rows])
    there = (usable == "") & ~np.isnan(p)
    families = [_Family.of(np.where(there & kind[None], p, np.nan)) for kind in (~learned, learned)]
    found: list[Finding] = []
    for i, (branch, test) in enumerate(zip(compared, tests, strict=True)):
        low, high = _interval(test, np.where(learned, families[1].level[i], families[0].level[i]))
        near_low, near_high = _interval(test, np.full(len(rows), 2 * LEVEL))
        same = (near_low > -margin) & (near_high < margin)
        before, value = branch.reference.summary.mean, branch.summary.mean
        smallest = errors(np.where(learned, families[1].threshold, families[0].threshold), test.degrees) * test.error
        for m, (target, metric) in enumerate(rows):
            family = families[int(learned[m])]
            reason = str(usable[i, m])
            known = reason in ("", DESCRIBED_ONLY) and (branch.seeds > 1 or branch.of_folds is not None)
            difference = float(test.difference[m])
            label = reason or _label(metric, difference, bool(family.labelled[i, m]), bool(same[m]))
            found.append(
                Finding(
                    branch.name,
                    target,
                    metric,
                    float(before[m]),
                    float(value[m]),
                    difference,
                    float(low[m]) if known else math.nan,
                    float(high[m]) if known else math.nan,
                    float(p[i, m]) if reason == "" else math.nan,
                    float(family.q[i, m]),
                    float(smallest[m]) if reason == "" else math.nan,
                    "" if reason == DESCRIBED_ONLY else label,
                    float(test.images[m]),
                    float(test.floor[m]),
                )
            )
    return found, (families[0].size, families[1].size)


@dataclass(frozen=True)
class _Family:
    """Tests that are judged together. ``q``, ``labelled`` and ``level`` (of the interval) have the shape of the p-values;
    ``threshold`` is the largest p-value that gets a label."""

    size: int
    q: Array
    labelled: Array
    level: Array
    threshold: float

    @classmethod
    def of(cls, p: Array) -> _Family:
        """NaN where there is no test. Benjamini & Hochberg 1995 for the labels; a labelled effect gets the interval of Benjamini &
        Yekutieli 2005 (doi 10.1198/016214504000001907), which covers 1 − R q/N, where R of N are labelled."""
        there = ~np.isnan(p)
        size = int(there.sum())
        q = np.full(p.shape, np.nan)
        if size:
            q[there] = _adjusted(p[there])
        labelled = q <= LEVEL  # NaN is not
        share = LEVEL * max(int(labelled.sum()), 1) / max(size, 1)
        return cls(size, q, labelled, np.where(labelled, share, LEVEL), share)


def _adjusted(p: Array) -> Array:
    """p-values (N,) after Benjamini–Hochberg: the smallest N p / rank of this and all larger ones."""
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty(len(p))
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q


def _interval(test: Tested, level: Array) -> tuple[Array, Array]:
    half = errors(level, test.degrees) * test.error
    return test.difference - half, test.difference + half


def _label(metric: str, difference: float, labelled: bool, same: bool) -> str:
    if metric == LEARNED:
        if labelled:
            return LEARNED_BETTER if difference > 0 else LEARNED_WORSE
        return SAME_AS_MOVING if same else LEARNING_NOT_SHOWN
    return (BETTER if difference > 0 else WORSE) if labelled else NOT_SHOWN
