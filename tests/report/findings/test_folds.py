"""Folds as a factor: what one parent gains and another loses is not shown, what all gain is, and one seed in each fold is enough."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from raysweep.report.findings import findings, measures
from raysweep.report.findings.arms import LEARNED, Cases
from raysweep.report.findings.findings import Findings
from raysweep.report.findings.variance import OfFolds
from tests.report.findings.simulated import Images, arm, shown

PERCENT = int(os.environ.get("RAYSWEEP_REPEAT", "10"))
FOLDS = 5


def swept(seed: int, n: int, seeds: int, branches: int, learned: float = 0.0, by_parent: float = 0.0) -> Findings:
    """A k-fold sweep whose truth is known.

    Args:
        learned: the gain of every branch in the logit of the own class, in each fold.
        by_parent: the standard deviation of what a treatment adds to that from one parent to another.
    """
    images = Images(n, seed, sd=0.15)
    folds = images.rng.integers(0, FOLDS, len(images.labels))
    parent = 0.3 * images.rng.standard_normal((FOLDS, images.classes))  # what the networks of a fold have in common
    tilt = by_parent * images.rng.standard_normal((branches + 1, FOLDS))
    tilt[0] = 0.0

    def network(branch: int) -> np.ndarray:
        found = np.empty((len(images.labels), images.classes), dtype=np.float32)
        for fold in range(FOLDS):
            own: Any = (learned if branch else 0.0) + tilt[branch, fold]
            found[folds == fold] = images.network(moved=parent[fold], learned=own)[folds == fold]
        return found

    arms = [arm(f"b{b}", [network(b) for _ in range(seeds)]) for b in range(branches + 1)]
    return findings.find(arms[0], arms[1:], Cases(images.labels, images.classes, folds=folds))


def labelled(found: Findings) -> bool:
    return bool(shown(found))


def count(runs: int, **options: Any) -> tuple[int, int]:
    """(sweeps with any label, sweeps)"""
    runs = max(4, runs * PERCENT // 100)
    return sum(labelled(swept(seed, **options)) for seed in range(runs)), runs


def most(rate: float, runs: int) -> int:
    """A count that a right method exceeds once in a hundred times."""
    from scipy.stats import binom

    return int(binom.ppf(0.99, runs, rate))


def test_the_fold_is_the_case(tmp_path):
    """V_fold of an accuracy by hand: the differences of the folds, weighted by their images."""
    rng = np.random.default_rng(0)
    n, folds = 90, np.repeat([0, 1, 2], [20, 30, 40])
    labels, one, other = (rng.integers(0, 2, n) for _ in range(3))
    of = [measures.mean_of((guess == labels).astype(float)) for guess in (one, other)]
    apart = of[0].influence - of[1].influence
    sums = np.stack([apart[:, folds == f].sum(1) for f in range(3)], axis=1)
    found = OfFolds.of(sums, np.array([3.0])).variance[0]
    hits = (one == labels).astype(float) - (other == labels)
    by_hand = [(hits[folds == f].sum() - hits.mean() * (folds == f).sum()) / n for f in range(3)]
    assert found == pytest.approx(3 / 2 * sum(d**2 for d in by_hand))
    assert np.isnan(OfFolds.of(sums, np.array([1.0])).variance[0])
    cases = Cases(labels, 2, folds=folds)
    assert cases.folds_with.tolist() == [3.0] * len(cases.folds_with)


def test_one_seed_in_each_fold_is_tested_and_alone_it_is_not():
    found = swept(1, 1400, 1, 2, learned=0.6)
    assert found.winner is not None
    assert {f.label for f in found.findings} & {findings.BETTER, findings.LEARNED_BETTER}
    assert not {f.label for f in found.findings} & {findings.ONE_SEED}
    intervals = [f for f in found.findings if f.metric == LEARNED and f.target is None]
    assert all(f.low < f.difference < f.high for f in intervals)


@pytest.mark.parametrize("seeds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sweeps_without_any_effect_are_rarely_labelled(seeds):
    false, runs = count(100, n=1400, seeds=seeds, branches=2)
    assert false <= most(0.05, runs), (false, runs)


def test_what_one_parent_gains_and_another_loses_is_not_shown():
    """Without folds as a factor two seeds would be enough to call most of these better or worse."""
    false, runs = count(60, n=3500, seeds=2, branches=2, by_parent=0.5)
    assert false <= most(0.05, runs), (false, runs)
    naive = 0
    for seed in range(4):
        images_only = swept_without_folds(seed)
        naive += labelled(images_only)
    assert naive >= 2


def swept_without_folds(seed: int) -> Findings:
    """The same sweep, with seeds and images as the only factors."""
    kept = Cases.__init__

    def without(self, labels, classes, groups=None, prior=None, folds=None):
        kept(self, labels, classes, groups, prior, None)

    Cases.__init__ = without
    try:
        return swept(seed, 3500, 2, 2, by_parent=0.5)
    finally:
        Cases.__init__ = kept


def test_what_all_parents_gain_is_shown():
    found, runs = count(40, n=3500, seeds=1, branches=2, learned=0.5)
    assert found >= 0.75 * runs, (found, runs)
