"""Offsets fitted for a metric: the best ones are found, and their gain is what other images get, not what the fit claims."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.report.findings import binary, fitted, measures
from raysweep.report.findings.arms import Cases
from tests.report.findings.simulated import Images, arm

K = 7


def metric_of(labels, predicted, metric, k=K):
    found = measures.per_class(labels, predicted, k)
    values = {"accuracy": (labels == predicted).mean()}
    values |= {"macro_f1": measures.mean(found.f1).value[0], "balanced_accuracy": measures.mean(found.recall).value[0]}
    return values[metric]


@pytest.mark.parametrize("metric", fitted.METRICS)
def test_every_value_along_a_class_is_that_of_its_predictions(metric):
    images = Images(300, 0)
    scores = images.network().astype(np.float64)
    labels = np.where(images.labels == 4, 5, images.labels)  # class 4 has no images, but is predicted
    real = np.bincount(labels, minlength=K)
    ranking = fitted._Ranking(scores.copy())
    for c, step in ((2, 0.0), (0, 0.7), (1, -0.4), (6, 1.1)):
        ranking.move(c, step)
        values, margins = fitted._along(ranking, labels, c, real, fitted._weights(Cases(labels, K), metric))
        for at in (0, 1, 7, 150, 299, 300):
            moved = ranking.scores.copy()
            moved[:, c] += fitted._between(margins, at)
            assert values[at] == pytest.approx(metric_of(labels, moved.argmax(1), metric), abs=1e-12)


@pytest.mark.parametrize("metric", fitted.METRICS)
def test_no_offset_of_one_class_is_better_than_those_found(metric):
    images = Images(400, 1)
    scores = images.network(moved=np.array([0, 1.0, -0.5, 0, 0, 0.3, 0]))
    found = fitted.fit(scores, Cases(images.labels, K), metric)
    assert found.mean() == pytest.approx(0, abs=1e-12)
    reached = metric_of(images.labels, (scores + found).argmax(1), metric)
    assert reached > metric_of(images.labels, scores.argmax(1), metric)
    for c in range(K):
        for step in np.linspace(-3, 3, 61):
            other = found + step * np.eye(K)[c]
            assert metric_of(images.labels, (scores + other).argmax(1), metric) <= reached + 1e-9


def test_equal_scores_change_together():
    """Where a network gives many images the same scores, no offset can tell them apart, so none may be claimed to."""
    labels = np.repeat([0, 1], [30, 70])
    scores = np.log(np.tile([0.6, 0.4], (100, 1)))
    found = fitted.fit(scores, Cases(labels, 2), "accuracy")
    assert set((scores + found).argmax(1)) == {1}


@pytest.mark.parametrize("metric", fitted.METRICS)
def test_the_gain_is_what_other_images_get(metric):
    """Thresholds that are off by known amounts: the cross-fitted gain is that of fresh images, where the fit itself claims more."""
    moved = np.array([0.6, -0.8, 0.0, 0.5, -0.4, 0.3, 0.0])
    fresh, claimed, told, true = Images(8000, 10**6), [], [], []
    for i in range(8):
        images = Images(700, i)
        scores = images.network(moved=moved)
        found = fitted.fit(scores, Cases(images.labels, K), metric)
        before = metric_of(images.labels, scores.argmax(1), metric)
        claimed.append(metric_of(images.labels, (scores + found).argmax(1), metric) - before)
        gains = fitted.of_arm(arm("control", [scores]), Cases(images.labels, K), metric)
        (gain,) = [g for g in gains.gains if g.target is None and g.metric == metric]
        assert gain.before == pytest.approx(before)
        assert gain.low <= gain.value - gain.before <= gain.high
        told.append(gain.value - gain.before)
        other = fresh.network(moved=moved)
        true.append(metric_of(fresh.labels, (other + found).argmax(1), metric))
        true[-1] -= metric_of(fresh.labels, other.argmax(1), metric)
    assert np.mean(claimed) > np.mean(true) + 0.015
    assert np.mean(told) == pytest.approx(np.mean(true), abs=2.5 * np.std(told) / np.sqrt(8))


def test_classes_without_images_are_left_out_and_networks_are_paired():
    images = Images(700, 3)
    labels = np.where(images.labels == 1, 0, images.labels)
    networks = [images.network() for _ in range(3)]
    found = fitted.of_arm(arm("control", networks), Cases(labels, K), "macro_f1")
    again = fitted.of_arm(arm("control", networks), Cases(labels, K), "macro_f1")
    assert repr(found) == repr(again)
    rows = {(g.target, g.metric): g for g in found.gains}
    assert len(rows) == 3 * K + 3
    assert np.isnan(rows[1, "f1"].value)
    f1 = np.nanmean([rows[c, "f1"].value for c in range(K)])
    assert rows[None, "macro_f1"].value == pytest.approx(f1)
    assert not np.isnan([rows[None, m].low for m in fitted.METRICS]).any()
    # A network that is counted three times says no more than once about the images.
    one = fitted.of_arm(arm("control", networks[:1]), Cases(labels, K), "macro_f1")
    three = fitted.of_arm(arm("control", networks[:1] * 3), Cases(labels, K), "macro_f1")
    for a, b in zip(one.gains, three.gains, strict=True):
        assert (b.value, b.low, b.high) == pytest.approx((a.value, a.low, a.high), nan_ok=True)


def test_a_group_is_in_one_fold():
    labels = np.tile(np.arange(5), 40)
    groups = np.repeat(np.arange(20), 10)
    fold = fitted._folds(Cases(labels, 5, groups), 0)
    assert all(len(set(fold[groups == g])) == 1 for g in range(20))
    assert set(fold) == set(range(fitted.FOLDS))
    spread = fitted._folds(Cases(labels, 5), 0)
    assert {len(spread[(labels == c) & (spread == f)]) for c in range(5) for f in range(5)} == {8}


def test_with_a_prior_accuracy_is_that_of_the_data(tmp_path):
    """Images that were drawn in other shares than the data has: the offsets are best for the data, and so is the gain."""
    images = Images(700, 5)
    scores = images.network()
    prior = np.array([0.02, 0.60, 0.02, 0.32, 0.02, 0.01, 0.01])
    cases = Cases(images.labels, K, prior=prior)

    def accuracy(predicted):
        recall = [np.mean(predicted[images.labels == c] == c) for c in range(K)]
        return float(np.dot(prior, recall))

    found = fitted.fit(scores, cases, "accuracy")
    plain = fitted.fit(scores, Cases(images.labels, K), "accuracy")
    assert accuracy((scores + found).argmax(1)) > accuracy((scores + plain).argmax(1)) + 0.02
    (gain,) = [
        g
        for g in fitted.of_arm(arm("c", [scores]), cases, "accuracy").gains
        if (g.target, g.metric) == (None, "accuracy")
    ]
    assert gain.before == pytest.approx(accuracy(scores.argmax(1)))
    assert gain.value > gain.before + 0.1


# --- several labels for an image ------------------------------------------------------------------------------------------


def labelled(seed, n=300, digits=1):
    """Labels, bool (n, 3), and log probabilities of them with ties."""
    rng = np.random.default_rng(seed)
    labels = rng.random((n, 3)) < [0.4, 0.1, 0.03]
    logits = (2.0 * labels + rng.standard_normal((n, 3)) - [1, 2.5, 3.5]).round(digits)
    return labels, -np.logaddexp(0, -logits)


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_each_label_has_the_threshold_with_the_largest_f1(seed):

    def f1_score(real, said):
        return 2 * (real & said).sum() / (real.sum() + said.sum())

    labels, logs = labelled(seed)
    offsets = fitted.fit(logs, Cases(labels, 3), fitted.OF_LABELS)
    said = fitted.decided(logs, offsets, several=True)
    for c in np.flatnonzero(labels.any(0)):
        every = [f1_score(labels[:, c], logs[:, c] >= cut) for cut in np.unique(logs[:, c])]
        assert f1_score(labels[:, c], said[:, c]) == pytest.approx(max(every))
    assert (offsets[~labels.any(0)] == 0).all()


def test_offsets_move_the_probabilities_that_are_told():
    _, logs = labelled(1, digits=6)
    offsets = np.array([0.7, -0.2, 3.0])
    moved = fitted.with_offsets(logs, offsets, several=True)
    p = np.exp(logs)
    assert np.exp(moved) == pytest.approx(1 / (1 + (1 - p) / p * np.exp(-offsets)))
    assert ((np.exp(moved) > 0.5) == fitted.decided(logs, offsets, several=True)).all()
    images = Images(50, 0)
    scores = images.network()
    one = fitted.with_offsets(scores, np.arange(K) / 3, several=False)
    assert np.exp(one).sum(1) == pytest.approx(1)
    assert (one.argmax(1) == (scores + np.arange(K) / 3).argmax(1)).all()


def test_the_gain_of_thresholds_is_what_other_images_get():
    """Cross-fitted: on labels that the scores know nothing of, a threshold is said to give no more than it gives elsewhere."""
    told, there = [], []
    for seed in range(12):
        labels, logs = labelled(seed, 2000)
        half = np.arange(2000) < 1000
        found = fitted.of_arm(arm("c", [logs[half]]), Cases(labels[half], 3), fitted.OF_LABELS)
        gain = next(g for g in found.gains if (g.target, g.metric) == (None, "macro_f1"))
        told.append(gain.value)
        assert gain.low < gain.value - gain.before < gain.high
        offsets = fitted.fit(logs[half], Cases(labels[half], 3), fitted.OF_LABELS)
        said = fitted.decided(logs[~half], offsets, several=True)
        there.append(measures.mean(binary.per_label(labels[~half], said).f1).value[0])
    assert np.mean(told) == pytest.approx(np.mean(there), abs=0.02)
