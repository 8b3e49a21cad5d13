"""Where a split gives small classes more validation images, accuracy and loss are weighted back to the shares in the data."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import draw_classes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from raysweep.launch import run as launching
    from raysweep.launch.workers import start as workers
    from raysweep.plan import experiment as experiment_plan
    from raysweep.training.loop import train
    from tests.conftest import Recorder, small_settings

    home = tmp_path_factory.mktemp("prior")
    draw_classes(home / "d", {"cat": 100, "dog": 20})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "in_this_process", lambda job, fitted, progress: train(job, Recorder()))
        settings = small_settings(
            home / "e",
            data={"source": "auto", "path": str(home / "d")},
            training={"epochs": 1, "batch_size": 20},
            sampling={"samples_per_epoch": 60},
        )
        return launching.run(experiment_plan.plan_experiment(settings)).experiment


def test_history_predictions_and_findings_have_the_weighted_numbers(run):
    from raysweep.report import predictions
    from raysweep.report.findings import arms
    from raysweep.report.findings.arms import Arm

    found = predictions.read(run)
    assert np.bincount(found.labels).tolist() == [20, 10]  # dog would have 4
    assert found.prior.tolist() == pytest.approx([100 / 120, 20 / 120])
    recall = [float((found.predicted[found.labels == c] == c).mean()) for c in (0, 1)]
    wanted = (100 * recall[0] + 20 * recall[1]) / 120
    assert found.accuracy == pytest.approx(wanted, abs=1e-12)
    row = run.manifest().ends[-1].metrics
    assert row["val_acc"] == pytest.approx(wanted, abs=1e-12)
    logs = np.log(found.probabilities.astype(np.float64))
    losses = [float(-logs[found.labels == c, c].mean()) for c in (0, 1)]
    assert row["val_loss"] == pytest.approx((100 * losses[0] + 20 * losses[1]) / 120, abs=1e-6)
    measured = arms.measure(Arm("a", [lambda: logs]), found.cases).summary.mean
    values = dict(zip(arms.targets(2), measured, strict=True))
    assert values[None, "accuracy"] == pytest.approx(wanted, abs=1e-12)
    assert values[None, "balanced_accuracy"] == pytest.approx(sum(recall) / 2)


def test_verify_finds_the_weighted_accuracy_right(run):
    """Also where an earlier version went on with the experiment, and no hash of the predictions is recorded."""
    from dataclasses import replace

    from raysweep.tools import derived

    manifest = run.manifest()
    assert derived.check(run, manifest.ends).faults == []
    run.write_manifest(replace(manifest, predictions={}))
    assert derived.check(run, manifest.ends).faults == []
    run.write_manifest(manifest)


def test_influences_of_a_weighted_mean_are_those_of_the_jackknife():
    from raysweep.report.findings import measures

    rng = np.random.default_rng(0)
    labels, scores = np.repeat([0, 1, 2], [30, 9, 1]), rng.random(40)
    prior = np.array([0.5, 0.3, 0.2])

    def value(weight):
        return sum(p * (weight * scores)[labels == c].sum() / weight[labels == c].sum() for c, p in enumerate(prior))

    found = measures.mean_of(scores, labels, prior)
    assert found.value[0] == pytest.approx(value(np.ones(40)))
    for i in (0, 31, 39):
        step = np.ones(40)
        step[i] += 1e-6
        assert found.influence[0, i] == pytest.approx((value(step) - value(np.ones(40))) / 1e-6, abs=1e-6)
    assert measures.mean_of(scores, labels, np.bincount(labels) / 40).value[0] == pytest.approx(scores.mean())


def test_calibration_is_weighted_too():
    from raysweep.report.findings import calibration

    logs = np.log(np.array([[0.9, 0.1]] * 3 + [[0.6, 0.4]] * 3))
    labels = np.array([0, 0, 0, 1, 1, 1])
    plain = calibration.calibration(logs, labels)
    same = calibration.calibration(logs, labels, np.array([0.5, 0.5]))
    assert same.error.value == pytest.approx(plain.error.value)
    assert same.by_luck == pytest.approx(plain.by_luck)
    found = calibration.calibration(logs, labels, np.array([0.9, 0.1]))
    assert found.error.value[0] == pytest.approx(0.9 * 0.1 + 0.1 * 0.6)
    assert found.log_loss.value[0] == pytest.approx(-0.9 * np.log(0.9) - 0.1 * np.log(0.4))


def test_a_class_without_images_does_not_count():
    from raysweep.training import metrics

    matrix = np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]])
    found = metrics.summarise(matrix, ("a", "b", "c"), np.array([0.5, 0.1, 0.4]))
    assert found["val_acc"] == pytest.approx((0.5 * 0.8 + 0.1 * 0.75) / 0.6)
