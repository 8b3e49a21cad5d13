"""Metrics agree with scikit-learn, influences with the jackknife."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from raysweep.report.findings import measures, offsets
from tests.report.findings.simulated import Images


@pytest.fixture(scope="module")
def small() -> tuple[np.ndarray, np.ndarray]:
    """(labels, log probabilities rounded so that there are ties)"""
    images = Images(300, 1)
    return images.labels, np.round(images.network(), 1).astype(np.float64)


def test_every_number_is_scikit_learns(small):
    from sklearn import metrics as theirs

    labels, scores = small
    actual, guess = measures.one_hot(labels, 7), scores.argmax(1)
    found = measures.per_class(labels, guess, 7)
    precision, recall, f1, _ = theirs.precision_recall_fscore_support(labels, guess, labels=range(7), zero_division=0)
    for mine, other in ((found.precision, precision), (found.recall, recall), (found.f1, f1)):
        np.testing.assert_allclose(mine.value, other, atol=1e-12)
    assert measures.mean(found.f1).value[0] == pytest.approx(theirs.f1_score(labels, guess, average="macro"), abs=1e-12)
    assert measures.mean(found.recall).value[0] == pytest.approx(
        theirs.balanced_accuracy_score(labels, guess), abs=1e-12
    )
    assert measures.mean_of(guess == labels).value[0] == pytest.approx(theirs.accuracy_score(labels, guess), abs=1e-12)
    ranked = measures.ranked(scores, actual)
    for c in range(7):
        area, precision = (
            theirs.roc_auc_score(actual[c], scores[:, c]),
            theirs.average_precision_score(actual[c], scores[:, c]),
        )
        assert ranked.auroc.value[c] == pytest.approx(area, abs=1e-12)
        assert ranked.average_precision.value[c] == pytest.approx(precision, abs=1e-12)
    normal = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    losses = offsets.losses(scores, np.zeros(7), labels)
    assert losses.mean() == pytest.approx(theirs.log_loss(labels, np.exp(normal), labels=range(7)), abs=1e-12)


def _every(labels: np.ndarray, scores: np.ndarray) -> measures.Measured:
    actual = measures.one_hot(labels, 7)
    of_class = measures.per_class(labels, scores.argmax(1), 7)
    ranked = measures.ranked(scores, actual)
    parts = [of_class.recall, of_class.precision, of_class.f1, ranked.average_precision, ranked.auroc]
    parts += [measures.mean(of_class.f1), measures.mean_of(scores.argmax(1) == labels)]
    return measures.Measured(
        np.concatenate([p.value for p in parts]), np.concatenate([_dense(p.influence) for p in parts])
    )


def _dense(influence):
    return influence.toarray() if hasattr(influence, "toarray") else influence


def _weighted(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The same metrics by scikit-learn, with weighted images."""
    from sklearn import metrics as theirs

    guess, k = scores.argmax(1), range(7)
    precision, recall, f1, _ = theirs.precision_recall_fscore_support(
        labels, guess, labels=k, zero_division=0, sample_weight=weights
    )
    ap = [theirs.average_precision_score(labels == c, scores[:, c], sample_weight=weights) for c in k]
    area = [theirs.roc_auc_score(labels == c, scores[:, c], sample_weight=weights) for c in k]
    hit = np.average(guess == labels, weights=weights)
    return np.concatenate([recall, precision, f1, ap, area, [np.mean(f1), hit]])


def test_influences_are_the_derivatives_by_the_images_weights(small):
    labels, scores = small
    found = _every(labels, scores)
    np.testing.assert_allclose(found.influence.sum(1), 0, atol=1e-6)
    step = 1e-5
    for image in range(0, len(labels), 23):
        up, down = (np.ones(len(labels)) for _ in range(2))
        up[image], down[image] = 1 + step, 1 - step
        slope = (_weighted(labels, scores, up) - _weighted(labels, scores, down)) / (2 * step)
        np.testing.assert_allclose(found.influence[:, image], slope, atol=1e-7)


def test_the_standard_error_is_the_jackknifes(small):
    labels, scores = small
    found = _every(labels, scores)
    n = len(labels)
    without = np.stack([_every(np.delete(labels, i), np.delete(scores, i, axis=0)).value for i in range(n)], axis=1)
    theirs = np.sqrt((n - 1) / n * ((without - without.mean(1, keepdims=True)) ** 2).sum(1))
    mine = np.sqrt((found.influence**2).sum(1))
    enough = np.arange(len(mine)) % 7 != 1  # five images of a class are too few for a derivative
    enough[-2:] = False, True  # macro-F1 holds that class, too
    np.testing.assert_allclose(mine[enough], theirs[enough], rtol=0.05)


def test_a_class_without_images_is_left_out_of_means():
    labels = np.array([0, 0, 1, 1])
    guess = np.array([0, 2, 1, 1])
    found = measures.per_class(labels, guess, 3)
    assert np.isnan(found.f1.value[2])
    assert measures.mean(found.f1).value[0] == pytest.approx((2 / 3 + 1) / 2)
    assert measures.mean(found.recall).value[0] == pytest.approx((1 / 2 + 1) / 2)


def test_metrics_of_nothing_are_nothing_and_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranked = measures.ranked(np.zeros((2, 2)), measures.one_hot(np.array([0, 0]), 2))
    assert np.isnan(ranked.auroc.value).all()
    assert np.isnan(ranked.average_precision.value[1])
