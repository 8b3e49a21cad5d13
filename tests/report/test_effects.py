"""The statistics of effects on made-up predictions: intervals cover the true effect, and noise is not called an effect."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from sklearn.metrics import f1_score, precision_score, recall_score

from raysweep.report import effects
from raysweep.report.effects import ALL, BETTER, NOISE, WORSE, Pair

CLASSES = ("rare", "some", "many")
COUNTS = (60, 150, 240)
REPEAT = int(os.environ.get("RAYSWEEP_REPEAT", "150"))


def predicted(rng: np.random.Generator, labels: np.ndarray, hard: np.ndarray, recalls: tuple[float, ...]) -> np.ndarray:
    """A network with these recalls, whose mistakes fall on the images that are hard for every network."""
    luck = norm.cdf(0.8 * hard + 0.6 * rng.standard_normal(len(labels)))
    right = luck < np.array(recalls)[labels]
    return np.where(right, labels, (labels + rng.integers(1, len(recalls), len(labels))) % len(recalls))


def pair(rng: np.random.Generator, planted: float, seeds: int = 1) -> Pair:
    labels = np.repeat(np.arange(3), COUNTS)
    hard = rng.standard_normal(len(labels))
    before, after = (0.5, 0.7, 0.8), (0.5 + planted, 0.7, 0.8)
    rows = [[predicted(rng, labels, hard, r) for _ in range(seeds)] for r in (after, before)]
    return Pair("b", labels, np.stack(rows[0]), np.stack(rows[1]))


def one(found: list[effects.Effect], target: str, metric: str) -> effects.Effect:
    (effect,) = [e for e in found if (e.target, e.metric) == (target, metric)]
    return effect


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(effects, "RESAMPLES", 1000)


def test_the_interval_covers_a_planted_effect(few_resamples):
    covered = 0
    for i in range(REPEAT):
        made = pair(np.random.default_rng(i), 0.15)
        drawn = effects._Drawn(effects._class_cells(made, 0), np.random.default_rng(i))
        measures = effects._of_class(drawn.cells, "recall")
        low, high = effects._interval(drawn, lambda c, m=measures: m[1][0](c) - m[0][0](c))
        covered += low <= 0.15 <= high
    # 95 ± 2 % in 1,000 repetitions; fewer repetitions scatter more.
    slack = 0.02 + 2 * np.sqrt(0.95 * 0.05) * max(0.0, 1 / np.sqrt(REPEAT) - 1 / np.sqrt(1000))
    assert abs(covered / REPEAT - 0.95) <= slack, covered / REPEAT


def test_without_any_effect_almost_no_difference_is_called_real(few_resamples):
    wrong = 0
    for i in range(REPEAT // 3):
        found = effects.effects([pair(np.random.default_rng(i), 0.0) for _ in range(2)], CLASSES, seed=i)
        wrong += any(e.label != NOISE for e in found)
    share = wrong / (REPEAT // 3)
    assert binomtest(wrong, REPEAT // 3, effects.LEVEL, alternative="greater").pvalue > 0.01, share


def test_a_large_effect_is_found_and_nothing_else():
    found = effects.effects([pair(np.random.default_rng(1), 0.35)], CLASSES)
    assert one(found, "rare", "recall").label == BETTER
    assert one(found, "some", "recall").label == NOISE
    backwards = effects.effects([pair(np.random.default_rng(1), -0.35)], CLASSES)
    assert one(backwards, "rare", "recall").label == WORSE
    assert one(backwards, ALL, "accuracy").difference < 0


def test_equal_networks_have_no_effect():
    made = pair(np.random.default_rng(0), 0.0)
    found = effects.effects([Pair("b", made.labels, made.reference, made.reference)], CLASSES)
    assert all(e.difference == 0 and e.label == NOISE and e.p == 1.0 for e in found)
    assert all(e.low == e.high == 0 for e in found)


def test_a_difference_within_the_seed_variance_is_noise():
    # Seeds that scatter widely: the same difference is real where they agree, and noise where they do not.
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(3), COUNTS)
    hard = rng.standard_normal(len(labels))

    def row(recall: float) -> np.ndarray:
        return predicted(np.random.default_rng(5), labels, hard, (recall, 0.7, 0.8))

    agree = Pair("b", labels, np.stack([row(0.70), row(0.72)]), np.stack([row(0.42), row(0.40)]))
    scatter = Pair("b", labels, np.stack([row(0.95), row(0.45)]), np.stack([row(0.70), row(0.12)]))
    assert one(effects.effects([agree], CLASSES), "rare", "recall").label == BETTER
    effect = one(effects.effects([scatter], CLASSES), "rare", "recall")
    assert effect.noise is not None
    assert effect.noise > effect.difference > 0.15
    assert effect.label == NOISE


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_values_are_those_of_scikit_learn_and_lie_in_their_interval(seed, seeds):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(3), 15))  # enough images of each class for an interval
    rows = rng.integers(0, 3, (2 * seeds, len(labels)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(effects, "RESAMPLES", 200)
        found = effects.effects([Pair("b", labels, rows[:seeds], rows[seeds:])], CLASSES)
    for index, name in enumerate(CLASSES):
        for metric, score in (("recall", recall_score), ("precision", precision_score), ("f1", f1_score)):
            values = [score(labels == index, row == index, zero_division=0) for row in rows[:seeds]]
            effect = one(found, name, metric)
            assert effect.value == pytest.approx(np.mean(values))
            assert effect.low <= effect.difference <= effect.high
            assert 0 < effect.p <= 1
            assert effect.q >= effect.p - 1e-12
    macro = np.mean([f1_score(labels, row, average="macro", labels=[0, 1, 2], zero_division=0) for row in rows[:seeds]])
    assert one(found, ALL, "macro_f1").value == pytest.approx(macro)
    assert one(found, ALL, "accuracy").value == pytest.approx(np.mean(labels == rows[:seeds]))


def test_accuracy_is_tested_by_mcnemar_exactly():
    labels = np.zeros(30, dtype=int)
    branch, reference = labels.copy(), labels.copy()
    reference[:9] = 1  # nine that only the branch has right
    branch[9:11] = 1  # two that only the reference has right
    found = effects.effects([Pair("b", labels, branch[None], reference[None])], CLASSES)
    assert one(found, ALL, "accuracy").p == pytest.approx(binomtest(2, 11).pvalue)


@pytest.mark.parametrize(("others", "resamples"), [(8, 400), pytest.param(90, 4000, marks=pytest.mark.slow)])
def test_among_many_comparisons_a_strong_effect_stays_significant(monkeypatch, others, resamples):
    # A lone effect among a thousand must have p < 0.05 / 1000, which four thousand resamples cannot show.
    monkeypatch.setattr(effects, "RESAMPLES", resamples)
    strong = pair(np.random.default_rng(1), 0.45, seeds=2)
    none = [Pair(f"n{i}", strong.labels, strong.reference, strong.reference) for i in range(others)]
    found = effects.effects([strong, *none], CLASSES)
    assert len(found) > 10 * others
    assert 1 / resamples > 0.05 / len(found)
    best = next(e for e in found if (e.branch, e.target, e.metric) == ("b", "rare", "recall"))
    assert best.p < 0.05 / len(found)
    assert {e.branch for e in found if e.label != NOISE} == {"b"}


def test_the_same_input_gives_the_same_numbers():
    made = pair(np.random.default_rng(0), 0.1, seeds=2)
    assert effects.effects([made], CLASSES) == effects.effects([made], CLASSES)
