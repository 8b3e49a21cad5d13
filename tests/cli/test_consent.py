"""Experiments with code in their configuration: one's own go on without a question, others after a yes, which is remembered."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import pytest

from raysweep.errors import UntrustedError
from raysweep.store.root import Root
from raysweep.store.trust import Trust

DATA = {"samples_per_epoch": 200}


def net(num_classes: int, channels: int, widths: tuple[int, ...] = (4,)):
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(channels, widths[0], 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[0], num_classes)
    )


MODEL = {"name": f"python:{__name__}:net", "options": {"widths": [6]}}


@pytest.fixture
def made(quick_run, state):
    """An experiment of two epochs whose first only is left: it can be continued."""
    import json

    experiment = quick_run(model=MODEL, sampling=DATA)
    manifest = experiment.folder / "manifest.json"
    value = json.loads(manifest.read_text())
    del value["checkpoints"][1:]
    manifest.write_text(json.dumps(value))
    return experiment


def predicted(made, trust: Trust) -> str:
    from raysweep.tools import predict

    return predict.load(made.root, f"{made.id}@1", trust=trust).name


def test_ones_own_experiment_asks_nothing(made, quick_child, state):
    from raysweep.launch.resume import continue_experiment
    from raysweep.tools import replay

    assert len(list((state / "made").iterdir())) == 1
    assert predicted(made, Trust()) == MODEL["name"]
    quick_child(f"{made.id}@1", epochs=1)
    assert len(list((state / "made").iterdir())) == 2  # the child is this user's, too
    done = continue_experiment(made.root, made.id).experiment
    assert [e.epoch for e in done.manifest().ends] == [1, 2]
    assert replay.replay(made.root, done, done.entry("1"), done.entry("2")).difference is None


def test_without_the_record_it_is_refused_until_a_yes_which_is_remembered(made, state):
    from raysweep.launch.resume import continue_experiment

    shutil.rmtree(state)  # as on another machine, or after raysweep 0.1
    log = (made.folder / "lineage.jsonl").read_bytes()
    with pytest.raises(UntrustedError, match=r"wants to run the Python function .*--trust"):
        continue_experiment(made.root, made.id)
    with pytest.raises(UntrustedError):
        predicted(made, Trust())
    assert (made.folder / "lineage.jsonl").read_bytes() == log  # nothing was written
    assert not state.exists()
    assert predicted(made, Trust(given=True)) == MODEL["name"]
    assert continue_experiment(made.root, made.id).experiment.manifest().ends[-1].epoch == 2


def test_a_configuration_that_somebody_changed_is_refused(made):
    from raysweep.launch.resume import continue_experiment

    path = made.folder / "experiment_config.json"
    path.write_text(path.read_text().replace(MODEL["name"], "python:torch.hub:load"))
    with pytest.raises(UntrustedError, match=r"torch\.hub:load"):
        continue_experiment(made.root, made.id)


def test_a_branch_goes_on_where_there_is_no_record_if_the_driver_said_yes(made, state, monkeypatch, tmp_path):
    """What a Tune actor on another node does with a branch that has begun."""
    from raysweep.config import foreign
    from raysweep.launch import resume
    from raysweep.plan.resources import AS_BEFORE

    handed = Trust().handed_on({"model": made.config().settings["model"]})
    monkeypatch.setenv("RAYSWEEP_STATE", str(tmp_path / "of another node"))
    assert resume._allowed(made.root, made.id, AS_BEFORE, handed, [foreign.code]).id == made.id
    with pytest.raises(UntrustedError):
        resume._allowed(made.root, made.id, AS_BEFORE, Trust(), [foreign.code])


def test_a_job_carries_the_decision(made):
    from raysweep.launch import runner
    from raysweep.plan import child
    from raysweep.plan import parent as parents
    from raysweep.training import models

    parent = parents.read_parent(made.root, f"{made.id}@1")
    plan = child.plan_child(parent, made.root, epochs=1)
    assert runner.new_job(plan, made, "token", made.config()).trusted
    with pytest.raises(UntrustedError, match="nobody has approved"):
        models.build(MODEL["name"], MODEL["options"], 3, 1)


def test_going_on_does_not_connect_to_a_strangers_cluster_or_send_results_there(quick_run, state):
    from raysweep.launch.resume import continue_experiment

    made = quick_run(sampling=DATA, training={"epochs": 1})
    assert not state.exists()  # an experiment without code needs no record
    path = made.folder / "experiment_config.json"
    text = path.read_text()
    path.write_text(text.replace('"address": null', '"address": "203.0.113.9:6379"'))
    with pytest.raises(UntrustedError, match=r"connect to the Ray cluster 203\.0\.113\.9:6379 \(scaling\.address\)"):
        continue_experiment(made.root, made.id)
    path.write_text(text.replace('"mlflow": null', '"mlflow": {"uri": "https://evil.example"}'))
    with pytest.raises(UntrustedError, match=r"send its results to https://evil\.example"):
        continue_experiment(made.root, made.id)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("answer", "runs"), [("yes\n", True), ("YES \n", True), ("y\n", False), ("\n", False), ("", False)]
)
def test_a_question_at_a_terminal(monkeypatch, answer, runs):
    from raysweep.cli.consent import consent

    shown = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", shown)
    trust = consent(False)
    assert trust.ask is not None
    assert trust.ask("x.pt wants to run \x1b[2J python:a:b.") is runs
    assert "python:a:b" in shown.getvalue()
    assert "\x1b" not in shown.getvalue()


def test_nobody_is_asked_without_a_terminal(monkeypatch):
    from raysweep.cli.consent import consent

    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    assert consent(False) == Trust()
    assert consent(False).ask is None
    assert consent(True).given


def test_the_python_interface_takes_a_yes(made, state, without_ray):
    from raysweep import run_experiment

    shutil.rmtree(state)
    config = {"experiment_name": "c", "resume_from_checkpoint": f"{made.folder}/checkpoint_epoch_1.pt", "num_epochs": 1}
    with pytest.raises(UntrustedError):
        run_experiment(config, lambda event: None)
    folder, _ = run_experiment(config, lambda event: None, trust=True)
    assert Root.at(Path(folder).parent) == made.root
