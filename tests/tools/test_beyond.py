"""What the chosen branch has beyond moved thresholds, in simulations whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from raysweep.errors import StoreError
from raysweep.report import effects
from raysweep.report.findings import fitted
from raysweep.report.findings.arms import Cases
from raysweep.tools import beyond
from tests.report.findings.simulated import SHARES, Images, arm
from tests.report.findings.test_findings import at_most, size, times

pytestmark = pytest.mark.timeout(3600)
K, CLASSES = len(SHARES), tuple("abcdefg")


def against(metric, offsets, branch, control, cases, classes=CLASSES):
    """What the control with offsets is beside itself and the branch."""
    known = effects.of_arms(control, [branch], cases, classes)[0]
    plain = next(e.reference for e in known if (e.target, e.metric) == (effects.ALL, metric))
    return beyond.compared(metric, offsets, branch, control, cases, classes, plain)


def compared(seed, metric, seeds=3, **of_branch):
    """A branch and a control, whose offsets are fitted on one half of the images and which are compared on the other."""
    images = Images(size(), seed)
    for_fit = images.rng.permutation(len(images.labels)) < len(images.labels) // 2
    control = [images.network() for _ in range(seeds)]
    branch = [images.network(**of_branch) for _ in range(seeds)]
    fit_on, shown = (Cases(images.labels[rows], K) for rows in (for_fit, ~for_fit))
    offsets = [fitted.fit(found[for_fit], fit_on, metric) for found in control]
    arms = (arm(name, [found[~for_fit] for found in of]) for name, of in (("b", branch), ("control", control)))
    return against(metric, offsets, *arms, shown)


@pytest.mark.parametrize("metric", ["macro_f1", "balanced_accuracy"])
def test_a_branch_that_is_a_moved_threshold_is_rarely_said_to_be_more(metric):
    """It has the best offsets that there are, which a fit on few images does not find."""
    many = Images(20_000, 10**6)
    best = fitted.fit(many.network(), Cases(many.labels, K), metric)
    n = times(100)
    found = [compared(i, metric, moved=best) for i in range(n)]
    assert sum(f.label == "better" for f in found) <= at_most(0.05, n)
    assert np.mean([f.gain for f in found]) > 0.01
    assert abs(np.mean([f.beyond for f in found])) < np.mean([f.high - f.low for f in found]) / 4


def test_a_branch_that_has_learned_is_shown_to_be_more():
    n = times(50)
    found = [compared(i, "macro_f1", learned=1.0) for i in range(n)]
    assert sum(f.label == "better" for f in found) >= 0.75 * n


def test_the_numbers_are_those_of_the_offsets():
    images = Images(400, 3)
    control, branch = ([images.network() for _ in range(2)] for _ in range(2))
    offsets = [np.linspace(-1, 1, K), np.zeros(K)]
    cases = Cases(images.labels, K)
    found = against("accuracy", offsets, arm("b", branch), arm("control", control), cases)

    def right(networks):
        return np.mean([(scores.argmax(1) == images.labels).mean() for scores in networks])

    moved = [scores + add for scores, add in zip(control, offsets, strict=True)]
    assert found.overall["accuracy"] == pytest.approx(right(moved))
    assert found.gain == pytest.approx(right(moved) - right(control))
    assert found.beyond == pytest.approx(right(branch) - right(moved))
    assert found.low <= found.beyond <= found.high


def test_what_cannot_be_fitted_is_told(monkeypatch):
    images = Images(50, 0)
    one, cases = arm("control", [images.network()]), Cases(images.labels, K)

    def damaged(*_):
        raise StoreError("The predictions of epoch 3 are damaged.")

    monkeypatch.setattr(beyond, "_fitted", damaged)
    found, why = beyond.of_control(None, ["base@3"], "accuracy", one, one, cases, CLASSES, [])
    assert found is None
    assert why == [
        "What moved thresholds alone would give the control is not known: The predictions of epoch 3 are damaged."
    ]


def test_of_several_labels_the_threshold_of_each_is_moved():
    """mAP, by which they are chosen, is the same at every threshold, so macro-F1 is what can be had for nothing."""
    rng = np.random.default_rng(0)
    labels = rng.random((600, 3)) < [0.3, 0.1, 0.05]

    def network(moved):
        logits = 2.5 * labels + rng.standard_normal(labels.shape) - [2, 3.5, 4] + moved
        return -np.logaddexp(0, -logits)

    control, branch = ([network(moved) for _ in range(3)] for moved in (0.0, [1, 2, 2.5]))
    cases = Cases(labels, 3)
    offsets = [fitted.fit(found, cases, fitted.OF_LABELS) for found in control]
    arms = (arm("b", branch), arm("control", control))
    found = against(fitted.OF_LABELS, offsets, *arms, cases, ("x", "y", "z"))
    assert found.gain > 0.2
    assert found.label != "better"
    assert set(found.overall) >= {"macro_f1", "accuracy", "mAP", "log_loss"}
