"""Every number of an evaluation agrees with scikit-learn, and its interval covers what it is an estimate of."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.stats import binomtest

from raysweep.report.findings import calibration, estimates
from raysweep.report.findings.arms import Cases
from raysweep.report.findings.estimates import OF_CLASS, OVERALL
from tests.report.findings.simulated import Images, arm
from tests.report.findings.test_findings import PERCENT, at_least, times


def normal(scores: np.ndarray) -> np.ndarray:
    """Log probabilities in double precision."""
    scores = scores.astype(np.float64)
    return scores - np.log(np.exp(scores).sum(1, keepdims=True))


@pytest.fixture(scope="module")
def one() -> tuple[np.ndarray, np.ndarray]:
    """(labels, log probabilities of one network); one of eight classes has no images, and one image is predicted to be of it."""
    images = Images(700, 1)
    scores = np.c_[images.network(), np.full(len(images.labels), -9.0)]
    scores[3, 7] = 9.0
    return images.labels, normal(scores)


def test_every_number_is_scikit_learns(one):
    from sklearn import metrics as theirs

    labels, logs = one
    there = range(7)
    (found,) = estimates.estimate([arm("a", [logs])], Cases(labels, 8))
    guess, p = logs.argmax(1), np.exp(logs)
    precision, recall, f1, _ = theirs.precision_recall_fscore_support(labels, guess, labels=there, zero_division=0)
    for c in there:
        expected = {
            "recall": recall[c],
            "precision": precision[c],
            "f1": f1[c],
            "ap": theirs.average_precision_score(labels == c, p[:, c]),
            "auroc": theirs.roc_auc_score(labels == c, p[:, c]),
        }
        assert list(expected) == list(OF_CLASS)
        assert {m: e.value for m, e in found.of_class[c].items()} == pytest.approx(expected, abs=1e-12)
    overall = {
        "accuracy": theirs.accuracy_score(labels, guess),
        "macro_f1": theirs.f1_score(labels, guess, labels=there, average="macro", zero_division=0),
        "balanced_accuracy": np.mean(recall),
        "ece": expected_calibration_error(labels, p),
        "brier": theirs.brier_score_loss(labels, p, labels=range(8), scale_by_half=False),
        "log_loss": theirs.log_loss(labels, p, labels=range(8)),
    }
    assert list(overall) == list(OVERALL)
    assert {m: e.value for m, e in found.overall.items()} == pytest.approx(overall, abs=1e-12)
    np.testing.assert_array_equal(found.matrix, theirs.confusion_matrix(labels, guess, labels=range(8)))


def expected_calibration_error(labels: np.ndarray, p: np.ndarray) -> float:
    """From scikit-learn's calibration curve of "the prediction is right"."""
    from sklearn.calibration import calibration_curve

    confidence, hit = p.max(1), p.argmax(1) == labels
    accuracy, mean = calibration_curve(hit, confidence, n_bins=calibration.BINS, strategy="uniform")
    edges = np.linspace(0, 1, calibration.BINS + 1)
    n = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=calibration.BINS)
    return float((np.abs(accuracy - mean) * n[n > 0]).sum() / n.sum())


def test_the_reliability_curve_is_scikit_learns(one):
    from sklearn.calibration import calibration_curve

    labels, logs = one
    found = calibration.bins([logs], labels)
    p = np.exp(logs)
    accuracy, mean = calibration_curve(p.argmax(1) == labels, p.max(1), n_bins=calibration.BINS, strategy="uniform")
    np.testing.assert_allclose([b.accuracy for b in found], accuracy, atol=1e-12)
    np.testing.assert_allclose([b.confidence for b in found], mean, atol=1e-12)
    assert sum(b.images for b in found) == len(labels)
    assert all(b.low < b.confidence <= b.high for b in found)
    for b in found:
        ends = binomtest(round(b.accuracy * b.images), b.images).proportion_ci(0.95, "wilson")
        assert (b.accuracy_low, b.accuracy_high) == pytest.approx((ends.low, ends.high), abs=1e-12)


def test_of_a_class_without_images_nothing_is_known(one):
    labels, logs = one
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = estimates.estimate([arm("a", [logs])], Cases(labels, 8))
    assert all(math.isnan(v) for e in found.of_class[7].values() for v in vars(e).values())
    assert found.predicted[7] == 1
    assert not any(math.isnan(v) for e in found.overall.values() for v in vars(e).values())


def test_a_class_that_is_never_predicted_has_a_precision_of_0_without_an_interval(one):
    labels, logs = one
    never = logs.copy()
    never[:, 1] = -50.0
    (found,) = estimates.estimate([arm("a", [never])], Cases(labels, 8))
    precision, recall = found.of_class[1]["precision"], found.of_class[1]["recall"]
    assert precision.value == 0.0
    assert math.isnan(precision.low)
    assert math.isnan(precision.high)
    assert (recall.value, recall.low) == (0.0, 0.0)
    assert recall.high > 0


def test_eleven_right_of_eleven_have_an_interval():
    labels = np.repeat(np.arange(2), [11, 300])
    logs = normal(4.0 * np.eye(2)[labels])
    (found,) = estimates.estimate([arm("a", [logs])], Cases(labels, 2))
    recall = found.of_class[0]["recall"]
    assert (recall.value, recall.high) == (1.0, 1.0)
    assert 0.7 < recall.low < 0.9


def test_a_calibrated_network_has_the_error_that_it_would_have_by_luck():
    rng = np.random.default_rng(0)
    errors, luck = [], []
    for _ in range(20):
        logs = normal(2 * rng.standard_normal((1000, 4)))
        labels = (np.exp(logs).cumsum(1) < rng.random((1000, 1))).sum(1)
        (found,) = estimates.estimate([arm("a", [logs])], Cases(labels, 4))
        errors.append(found.overall["ece"].value)
        luck.append(found.ece_by_luck)
    assert np.mean(errors) == pytest.approx(np.mean(luck), rel=0.1)


def test_intervals_cover_what_the_network_does_on_very_many_images():
    """Seeds, too: three trainings whose classes are shifted against each other, as each has its own offsets. The rarest class has 31
    images; with 11 the interval of macro-F1 covers 84 %. The bias of the calibration error is told beside it."""
    n = times(200)
    for seeds, sd in ((1, 0.0), (3, 0.3)) if PERCENT >= 100 else ((1, 0.0),):
        truth, covered = _truth(sd), dict.fromkeys((*OF_CLASS, *OVERALL), 0)
        for i in range(n):
            images = Images(2000, 1000 + i, sd)
            arms = [arm(name, [normal(images.network()) for _ in range(seeds)]) for name in "ab"]
            found = estimates.estimate(arms, Cases(images.labels, 7))[0]
            for metric in covered:
                e = found.overall[metric] if metric in OVERALL else found.of_class[3][metric]
                covered[metric] += e.low <= truth[metric] <= e.high
        few = {m: c for m, c in covered.items() if c < at_least(0.93, n)}
        assert not few, (seeds, n)


def _truth(sd: float) -> dict[str, float]:
    """Means over many trainings, or over very many images where all trainings are alike."""
    images = Images(10_000 if sd else 50_000, 5, sd)
    networks = [normal(images.network()) for _ in range(25 if sd else 1)]
    (found,) = estimates.estimate([arm("a", networks)], Cases(images.labels, 7))
    return {m: e.value for m, e in {**found.of_class[3], **found.overall}.items()}


def test_more_seeds_make_an_interval_narrower_and_a_group_counts_once():
    images = Images(700, 3, sd=0.3)
    networks = [normal(images.network()) for _ in range(8)]
    few, many = (
        estimates.estimate([arm("a", networks[:s])], Cases(images.labels, 7))[0].overall["balanced_accuracy"]
        for s in (2, 8)
    )
    assert many.high - many.low < few.high - few.low
    (once,) = estimates.estimate([arm("a", networks[:1])], Cases(images.labels, 7))
    groups = np.repeat(np.arange(len(images.labels)), 4)
    copies = Cases(np.repeat(images.labels, 4), 7, groups)
    (grouped,) = estimates.estimate([arm("a", [np.repeat(networks[0], 4, axis=0)])], copies)
    for m in ("accuracy", "brier", "log_loss"):
        assert vars(grouped.overall[m]) == pytest.approx(vars(once.overall[m]), rel=1e-6)
