"""What Ray Tune is handed: names that it can take, and a callback that prints nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from raysweep._text import ascii_form

ABROAD = ["Großer Lauf_20261129_101500", "表情_20261129_101500", "emoji🙂", "e\u0301"]


def test_tune_prints_nothing_when_a_branch_ends(capsys):
    from ray.tune.progress_reporter import TrialProgressCallback
    from ray.tune.utils.callback import _create_default_callbacks

    from raysweep.launch.sweep.tune import silent_and_forgetful

    callbacks = _create_default_callbacks([silent_and_forgetful()], metric="val_acc", mode="max")
    reporters = [c for c in callbacks if isinstance(c, TrialProgressCallback)]
    assert len(reporters) == 1  # ours takes the place of Tune's own
    kept = {"val_acc": {"max": 1.0}}
    trial = SimpleNamespace(
        last_result={"done": True, "val_acc": 0.5},
        run_metadata=SimpleNamespace(metric_n_steps=kept, metric_analysis={}),
    )
    (ours,) = reporters
    ours.on_trial_result(1, [trial], trial, trial.last_result)
    ours.on_trial_error(1, [trial], trial)
    ours.on_trial_complete(1, [trial], trial)
    assert kept == {}
    assert "".join(capsys.readouterr()) == ""


@pytest.mark.parametrize("name", ABROAD)
def test_ray_gets_names_that_it_can_encode(name):
    from ray.tune.registry import _make_key

    from raysweep.cluster import channel, dashboard

    told = {}

    class Task:
        def options(self, **options):
            told.update(options)
            return SimpleNamespace(remote=lambda key: key)

    dashboard.Shown(SimpleNamespace(show=Task())).begin("a", name)
    assert told["name"].encode("ascii")
    assert dashboard.job_config(name).metadata["job_name"].encode("ascii")
    assert _make_key("p", "trainable_class", ascii_form(name))  # raises UnicodeEncodeError for the name itself
    assert repr(channel.Channel(ascii_form(name))).isascii()


def test_the_ascii_forms_of_different_names_differ():
    forms = [ascii_form(name) for name in [*ABROAD, "Grosser Lauf_20261129_101500", "é", "e"]]
    assert len(set(forms)) == len(forms)
    assert all(f.isascii() for f in forms)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.ray
def test_names_of_any_script_run_on_workers_and_in_sweeps(ray_cluster, tmp_path):
    from raysweep.config import grid as grids
    from raysweep.launch import run as launching
    from raysweep.launch.sweep import driver
    from raysweep.plan import experiment as experiment_plan
    from raysweep.plan import sweep as sweep_plan
    from raysweep.plan.types import SweepRequest
    from raysweep.store.root import Root
    from tests.conftest import small_settings

    root = tmp_path / "würzel"
    settings = small_settings(root, experiment={"name": "表情"}, scaling={"num_workers": 2})
    base = launching.run(experiment_plan.plan_experiment(settings)).experiment
    assert base.status() == "finished"
    grid = grids.check({"epochs": 1, "seeds": [0], "weights": {"3": [4.0]}}, "grid")
    request = SweepRequest(Root.open(root), f"{base.id}@1", grid, name="Übung", workers=0, threads=1)
    done = driver.run(sweep_plan.plan_sweep(request))
    assert done.failed == {}
    assert [e.status() for e in done.experiments.values()] == ["finished"] * 2


def test_tune_shows_nothing_of_its_own_not_even_in_a_notebook():
    """Its display for notebooks would clear the cell, and with it the bar."""
    from ray import tune

    from raysweep.launch.sweep.tune import silent_reporter

    reporter = tune.RunConfig(progress_reporter=silent_reporter(), verbose=0).progress_reporter
    assert reporter.should_report([], done=True) is False
    assert reporter.report([], True) is None
