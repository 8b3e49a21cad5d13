"""Several labels for an image: metrics label by label, and what may be said of a difference, in simulations whose truth is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.report.effects import arm as effect_arm
from raysweep.report.effects import of_arms
from raysweep.report.findings import arms, binary, estimates, findings
from raysweep.report.findings.arms import LEARNED, Arm, Cases
from tests.report.findings.simulated import arm, shown
from tests.report.findings.test_findings import at_least, at_most, times

pytestmark = pytest.mark.timeout(3600)
RATES = np.array([0.3, 0.1, 0.05, 0.2])
CLASSES = ("a", "b", "c", "d")


def tables(rng, n=60, k=3):
    return rng.random((n, k)) < 0.4, rng.random((n, k)).round(1)  # scores with ties


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_metrics_are_those_of_scikit_learn(seed):
    from sklearn import metrics

    labels, scores = tables(np.random.default_rng(seed))
    guess = binary.predicted(scores)
    mine = binary.per_label(labels, guess)
    p, r, f, _ = metrics.precision_recall_fscore_support(labels, guess, zero_division=0)
    there = labels.any(0)
    for measured, expected in ((mine.precision, p), (mine.recall, r), (mine.f1, f)):
        assert measured.value[there] == pytest.approx(expected[there])
        assert np.isnan(measured.value[~there]).all()
    with np.errstate(divide="ignore"):
        logs = np.log(scores)
    expected = metrics.log_loss(labels.ravel(), np.clip(scores.ravel(), 1e-15, 1 - 1e-15))
    if ((scores > 0) & (scores < 1)).all():
        assert binary.losses(logs, labels).mean() == pytest.approx(expected)


def test_influences_are_those_of_the_jackknife():
    rng = np.random.default_rng(0)
    labels, scores = tables(rng, 400)
    guess = binary.predicted(scores)
    found = binary.per_label(labels, guess)
    for name in ("recall", "precision", "f1"):
        whole = getattr(found, name)
        assert np.abs(whole.influence.sum(1)).max() < 1e-9
        for i in range(0, 400, 40):
            kept = np.arange(400) != i
            without = getattr(binary.per_label(labels[kept], guess[kept]), name)
            assert whole.value - without.value == pytest.approx(whole.influence[:, i], abs=3e-5)


@given(st.integers(0, 10**6), st.integers(1, 60))
def test_a_label_is_predicted_as_often_as_wanted_or_as_near_as_equal_scores_allow(seed, n):
    rng = np.random.default_rng(seed)
    labels, scores = tables(rng, n)
    wanted = labels.sum(0)
    found = binary.to_counts(scores, wanted)
    for c in range(3):
        chosen = found.predicted[:, c]
        if chosen.any() and not chosen.all():
            assert scores[chosen, c].min() > scores[~chosen, c].max()
        reachable = [int((scores[:, c] > s).sum()) for s in (*scores[:, c], -1.0)]
        assert abs(int(chosen.sum()) - wanted[c]) == min(abs(r - wanted[c]) for r in reachable) or not wanted[c]
    exact = binary.to_counts(rng.permutation(3 * n).reshape(n, 3), wanted)
    assert np.array_equal(exact.predicted.sum(0), wanted)
    even = binary.per_label(labels, exact.predicted)
    there = wanted > 0
    assert even.precision.value[there] == pytest.approx(even.recall.value[there])


def test_labels_that_exclude_each_other_are_measured_as_classes():
    """One label for each image: average precision and AUROC, and what needs no argmax, are those of classes."""
    rng = np.random.default_rng(0)
    one = rng.integers(0, 3, 200)
    logs = np.log(rng.dirichlet(np.ones(3), 200))
    cases = [Cases(one, 3), Cases(np.eye(3, dtype=bool)[one], 3)]
    a, b = (estimates.estimate([Arm("x", [lambda: logs])], c)[0] for c in cases)
    for first, second in zip(a.of_class, b.of_class, strict=True):
        for metric in ("ap", "auroc"):
            assert vars(first[metric]) == pytest.approx(vars(second[metric]))
    assert (cases[0].counts == cases[1].counts).all()


def test_groups_are_the_cases():
    rng = np.random.default_rng(0)
    labels, scores = tables(rng, 90)
    cases = Cases(labels, 3, groups=np.arange(90) // 3)
    assert cases.number == 30
    assert (cases.of_class <= 30).all()
    by_hand = [len({i // 3 for i in np.flatnonzero(labels[:, c])}) for c in range(3)]
    assert cases.of_class.tolist() == by_hand
    found = arms.measure(arm("x", [np.log(scores + 0.01)]), cases)
    assert found.influence.overall.shape == (7, 30)


# --- what may be said of a difference ---------------------------------------------------------------------------------


class Images:
    """n images with four labels, and what all networks see in them; as ``simulated.Images``."""

    def __init__(self, n: int, seed: int, sd: float = 0.08) -> None:
        self.rng, self.sd = np.random.default_rng(seed), sd
        self.labels = self.rng.random((n, 4)) < RATES
        self.seen = 2.2 * (self.labels - 0.5) + self.rng.standard_normal((n, 4)) + np.log(RATES / (1 - RATES)) / 2

    def network(self, moved=0.0, learned=0.0, temperature=1.0):
        logits = self.seen + 0.5 * self.rng.standard_normal(self.labels.shape)
        logits = logits + self.sd * self.rng.standard_normal(4) + moved + learned * self.labels
        return -np.logaddexp(0, -logits / temperature)

    def sweep(self, branches, seeds, control_seeds):
        control = arm("control", [self.network() for _ in range(control_seeds)])
        every = [arm(f"b{i}", [self.network(**b) for _ in range(seeds)]) for i, b in enumerate(branches)]
        return findings.find(control, every, Cases(self.labels, 4))


MOVES = {
    "nothing": {},
    "log 4 on a rare label": {"moved": np.log([1, 4, 1, 1])},
    "all labels": {"moved": np.log([2, 4, 8, 2])},
    "cold": {"temperature": 0.7},
    "warm": {"temperature": 1.5},
}


def false_sweeps(n, size, branches, seeds, control, learned=None, sd=0.08):
    return sum(bool(shown(Images(size, i, sd).sweep(branches, seeds, control), learned)) for i in range(n))


def test_equal_branches_are_rarely_labelled_quickly():
    assert false_sweeps(4, 500, [{}] * 3, 2, 2) <= 1


@pytest.mark.slow  # quick twin: test_equal_branches_are_rarely_labelled_quickly
@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_branches_are_rarely_labelled(seeds):
    n = max(40, times(200))
    assert false_sweeps(n, 2000, [{}] * 6, seeds, seeds) <= at_most(0.05, n)


@pytest.mark.slow  # quick twin: test_a_moved_threshold_is_not_taken_for_learning_quickly
@pytest.mark.parametrize("sd", [0.08, 0.3])
@pytest.mark.parametrize("kind", MOVES)
def test_a_moved_threshold_is_not_taken_for_learning(kind, sd):
    n = max(40, times(200))
    assert false_sweeps(n, 2000, [MOVES[kind]], 3, 3, learned=True, sd=sd) <= at_most(0.05, n)


def test_a_moved_threshold_is_not_taken_for_learning_quickly():
    found = Images(2000, 0).sweep([MOVES["all labels"], {"learned": 0.5}], 3, 3)
    assert not [f for f in shown(found, learned=True) if f.branch == "b0"]
    assert {f.branch for f in shown(found, learned=False)} >= {"b0"}
    assert [f for f in shown(found, learned=True) if f.branch == "b1" and f.difference > 0]
    assert found.chosen("mAP").branch == "b1"
    of = {f.branch: f for f in found.findings if f.metric == "mAP"}
    assert of["b1"].label == findings.BETTER
    assert of["b0"].label == findings.NOT_SHOWN
    assert found.free[0].times[2] > 2
    moved = next(f for f in found.findings if (f.branch, f.target, f.metric) == ("b0", 2, "recall"))
    assert found.free[0].recall[2] == pytest.approx(moved.difference, abs=0.05)  # the control gets it for nothing


@pytest.mark.slow  # quick twin: test_a_moved_threshold_is_not_taken_for_learning_quickly
def test_what_was_learned_is_found_and_covered():
    """+ 0.4 on the logits of images with a label, all of them, three seeds each, 2,000 images."""
    n, found_of, covered, tests = max(20, times(60)), 0, 0, 0
    truth = _true_gain(0.4)
    for i in range(n):
        found = Images(2000, i).sweep([{"learned": 0.4}], 3, 3)
        for f in found.findings:
            if f.metric == LEARNED and f.target == 0:
                found_of += f.label == findings.LEARNED_BETTER
            if f.metric in (LEARNED, "mAP") and f.target in (0, None):
                covered += f.low <= truth[f.metric, f.target] <= f.high
                tests += 1
    assert found_of >= at_least(0.75, n)
    assert covered >= at_least(0.94, tests)


def _true_gain(learned):
    """How much more is learned, over very many images."""
    images = Images(100_000, 10**6)
    cases = Cases(images.labels, 4)
    rows = arms.targets(4, cases.overall)
    one, other = (
        arms.measure(arm("x", [images.network(**o) for _ in range(3)]), cases) for o in ({"learned": learned}, {})
    )
    gain = one.summary.mean - other.summary.mean
    return {(metric, target): gain[i] for i, (target, metric) in enumerate(rows)}


@pytest.mark.slow  # quick twin: test_a_moved_threshold_is_not_taken_for_learning_quickly
def test_the_winners_gain_is_corrected_for_having_been_chosen():
    n, bias = max(40, times(100)), []
    for i in range(n):
        bias.append(Images(700, i).sweep([{}] * 10, 2, 2).chosen("mAP").corrected)
    assert abs(np.mean(bias)) <= 0.003 + 2 * np.std(bias) / math.sqrt(n)


def test_one_seed_is_never_called_better_or_worse():
    found = Images(1000, 1).sweep([{"learned": 3.0}], 1, 8)
    assert not shown(found)
    assert {f.label for f in found.findings} <= {findings.ONE_SEED, findings.NOT_TESTED, findings.INSEPARABLE, ""}


def test_a_label_with_few_images_is_not_tested_and_one_without_has_no_numbers():
    images = Images(300, 3)
    images.labels[:, 1] = False
    images.labels[:, 2] = False
    images.labels[:6, 2] = True
    control, branch = (arm(name, [images.network() for _ in range(3)]) for name in ("control", "b"))
    effects, _ = of_arms(control, [branch], Cases(images.labels, 4), CLASSES)
    of = {(e.target, e.metric): e for e in effects}
    assert of["b", "f1"].label == "no images"
    assert of["c", "f1"].label == findings.NOT_TESTED
    assert math.isnan(of["b", "ap"].difference)
    assert not math.isnan(of["(all)", "mAP"].difference)


def test_a_saturated_answer_costs_what_float32_can_tell():
    """Kept probabilities are float32: one that was rounded to 1 is at most 2^-25 below it, and a 0 is no infinite loss."""
    p = np.array([[1.0, 0.5], [1 - 2.0**-24, 0.5], [0.0, 0.5]], dtype=np.float32)
    with np.errstate(divide="ignore"):
        logs = np.log(p)
    wrong = np.array([[False, True], [False, True], [True, True]])
    found = 2 * binary.losses(logs, wrong) - np.log(2)
    assert found[0] == pytest.approx(25 * np.log(2), rel=1e-6)
    assert found[1] == pytest.approx(24 * np.log(2), rel=1e-3)
    assert np.isfinite(found[2])
    exact = np.array([[-1e-12, np.log(0.5)]])  # of an evaluation, whose logarithms are float64
    assert 2 * binary.losses(exact, wrong[:1]) - np.log(2) == pytest.approx(12 * np.log(10), rel=1e-3)


def test_equal_scores_of_a_rare_label_cannot_be_separated():
    scores = np.zeros((20_000, 1))
    scores[:31] = 1.0  # more than the label has images
    found = binary.to_counts(scores, np.array([15.0]))
    assert found.missed.all()
    scores[:15] = 2.0
    assert not binary.to_counts(scores, np.array([15.0])).missed.any()


def shown_by_sets(logits, weights):
    """What a network knows of images, logits (n, K), if the images are drawn by the weights of their labels: each set of labels by their mean, none by that of all."""
    every = np.array(list(itertools.product((False, True), repeat=len(weights))))
    p = 1 / (1 + np.exp(-logits))
    likely = np.stack([np.where(labels, p, 1 - p).prod(1) for labels in every])
    mean = np.array([weights[labels].mean() if labels.any() else np.nan for labels in every])
    mean[0] = np.average(mean[1:], weights=likely[1:].mean(1))  # images without labels keep their share
    likely = likely * mean[:, None]
    return ((likely[:, :, None] * every[:, None, :]).sum(0) / likely.sum(0)[:, None]).astype(np.float32)


def test_weights_of_sets_are_not_taken_for_learning():
    """Networks that know the same of every label, of which one is shown other sets of labels: its labels are shifted a little differently from image to image,
    which no threshold can undo."""
    n, wrong = times(40), 0
    for seed in range(n):
        rng = np.random.default_rng(seed)
        labels = rng.random((3000, 4)) < RATES
        seen = 2.2 * (labels - 0.5) + rng.standard_normal(labels.shape)

        def network(weights, seen=seen, rng=rng):
            noisy = 2.2 * (seen + 0.5 * rng.standard_normal(seen.shape)) / 1.25
            return shown_by_sets(noisy + np.log(RATES / (1 - RATES)) + 0.08 * rng.standard_normal(4), weights)

        control, branch = (
            effect_arm(name, [network(np.array(w, dtype=float)) for _ in range(3)])
            for name, w in (("control", [1, 1, 1, 1]), ("b", [1, 4, 16, 1]))
        )
        found = [f for f in findings.find(control, [branch], Cases(labels, 4)).findings if f.metric == LEARNED]
        wrong += any(f.label in findings.SHOWN for f in found)
    assert wrong <= at_most(0.05, n)
