"""A user's network on Ray workers and in branches: the bits of this process, and the code as it was planned. Real Ray, one cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from raysweep.config import grid as grids
from raysweep.launch import run as launching
from raysweep.plan import experiment as experiment_plan
from raysweep.plan import sweep as sweep_plan
from raysweep.plan.types import SweepRequest
from raysweep.store.root import Root
from tests.conftest import small_settings, weights_hash

NETS = """
import torch
from torch import nn
torch.manual_seed(1234)  # as many files of models do

def make(num_classes, widths):
    from late import act  # imported only when it is called
    return nn.Sequential(nn.Conv2d(3, 4, 3), act(), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, num_classes))
"""
LATE = "import torch\nfrom torch.nn import ReLU as act\nLAYER = torch.nn.Linear(3, 3)\n"
CHANGED = LATE.replace("ReLU", "SELU")
SECTIONS = {"model": {"name": "python:nets:make"}, "training": {"epochs": 2}, "experiment": {"name": "guest"}}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "nets.py").write_text(NETS)
    (folder / "late.py").write_text(LATE)
    monkeypatch.chdir(folder)  # where the cluster was not started
    yield folder
    for name in ("nets", "late", "hard"):
        sys.modules.pop(name, None)


def same_control(sweep, here):
    """The control of a sweep, which has the bits of an experiment that trained on."""
    from raysweep.launch.sweep import driver as sweeping

    branches = sweeping.run(sweep)
    assert branches.failed == {}
    control = next(e for e in branches.experiments.values() if e.config().branch.control)
    assert weights_hash(control) == weights_hash(here)
    return control


@pytest.mark.slow  # the parts of it are in tests/training/test_guest.py
def test_the_same_bits_on_a_worker_and_in_branches_although_the_files_have_changed(ray_cluster, project, tmp_path):

    root = tmp_path / "experiments"
    here = launching.run(experiment_plan.plan_experiment(small_settings(root, **SECTIONS))).experiment
    on_a_worker = small_settings(root, **SECTIONS, scaling={"num_workers": 1, "threads": 1})
    plan = experiment_plan.plan_experiment(on_a_worker)
    request = SweepRequest(Root.open(root), f"{here.id}@1", grids.check({"weights": {"3": [4.0]}, "epochs": 1}))
    sweep = sweep_plan.plan_sweep(request)
    (project / "late.py").write_text(CHANGED)  # workers get the files as they were planned with
    there = launching.run(plan).experiment
    assert weights_hash(there) == weights_hash(here)
    control = same_control(sweep, here)
    for experiment in (there, control):
        assert {p.read_text() for p in (experiment.folder / "code").iterdir()} == {NETS, LATE}


HARD = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, widths):
        super().__init__()
        self.maps = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Dropout(0.2))
        self.aux = nn.Linear(144, num_classes)
        self.fc = nn.LazyLinear(num_classes)

    def forward(self, x):
        x = self.maps(x)
        x = x.view(x.size(0), -1)
        return (self.fc(x), self.aux(x)) if self.training else self.fc(x)
"""
TO_BE_KILLED = """
import os, sys
from raysweep.events import EpochDone
from raysweep.launch import run as launching
from raysweep.plan import experiment as experiment_plan
from tests.conftest import small_settings
from tests.launch.workers.test_guests import OF_HARD

def report(event):
    if isinstance(event, EpochDone):
        os.write(1, b"epoch\\n")  # while a user's network trains, stdout is stderr
        sys.stdin.read()  # until it is killed

launching.run(experiment_plan.plan_experiment(small_settings(sys.argv[1], **OF_HARD)), report)
"""
OF_HARD = {"model": {"name": "python:hard:Net"}, "training": {"epochs": 2}, "experiment": {"name": "hard"}}


@pytest.mark.long
@pytest.mark.slow  # tests/training/test_guest_use.py and test_reset.py have the parts of it
def test_the_same_bits_in_process_on_a_worker_after_a_kill_and_in_branches_with_a_new_last_layer(
    ray_cluster, project, tmp_path
):
    """Lazy layers, an auxiliary head, a network that does not take channels_last."""
    import os
    import signal
    import subprocess

    from raysweep.launch import resume as resuming
    from raysweep.launch.sweep import driver as sweeping
    from raysweep.plan import child
    from raysweep.plan import parent as parents
    from raysweep.store import index

    (project / "hard.py").write_text(HARD)
    root, repository = tmp_path / "experiments", Path(__file__).parents[3]
    here = launching.run(experiment_plan.plan_experiment(small_settings(root, **OF_HARD))).experiment
    settings = here.config().settings
    assert (settings["training"]["channels_last"], settings["model"]["auxiliary_share"]) == (False, 0.4)
    on_a_worker = small_settings(root, **OF_HARD, scaling={"num_workers": 1, "threads": 1})
    there = launching.run(experiment_plan.plan_experiment(on_a_worker)).experiment
    assert weights_hash(there) == weights_hash(here)

    other = tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    words = [sys.executable, "-c", TO_BE_KILLED, str(other)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"epoch\n"
        process.send_signal(signal.SIGKILL)
    (broken,) = index.rows(Root.open(other))
    assert broken.status != "finished"
    whole = resuming.continue_experiment(Root.open(other), broken.id).experiment
    assert weights_hash(whole) == weights_hash(here)

    grid = grids.check({"weights": {"3": [4.0]}, "epochs": 1})
    for reset in (False, True):
        request = SweepRequest(Root.open(root), f"{here.id}@1", grid, reset_head=reset)
        branches = sweeping.run(sweep_plan.plan_sweep(request))
        assert branches.failed == {}
        control = next(e for e in branches.experiments.values() if e.config().branch.control)
        assert control.config().reset_head is reset
        parent = parents.read_parent(Root.open(root), f"{here.id}@1")
        plan = child.plan_child(parent, Root.open(root), epochs=1, reset_head=reset)
        assert weights_hash(control) == weights_hash(launching.run(plan).experiment)
        assert (weights_hash(control) == weights_hash(here)) is not reset


OWN = {
    "loss": {"kind": "python:centred:Centred"},
    "metrics": {"g_mean": "python:scores:g_mean"},
    "training": {
        "epochs": 2,
        "optimizer": "python:steps:Lion",
        "schedule": "python:steps:halves",
        "augment": "python:noise:noise",
    },
    "sampling": {"holdout": 0.2, "policy": {"kind": "python:policies:softly"}},
    "experiment": {"name": "own"},
}


@pytest.mark.long
@pytest.mark.slow  # the parts of it are in tests/training/test_own_code.py
def test_the_same_bits_of_ones_own_loss_optimizer_and_augmentation_on_workers_and_in_branches(
    ray_cluster, project, tmp_path
):
    """The examples of docs/own_code.md, all at once."""
    from tests.training.test_own_code import FILES

    for name, text in FILES.items():
        (project / f"{name}.py").write_text(text)
    root = tmp_path / "experiments"
    here = launching.run(experiment_plan.plan_experiment(small_settings(root, **OWN))).experiment
    plan = experiment_plan.plan_experiment(small_settings(root, **OWN, scaling={"num_workers": 1, "threads": 1}))
    request = SweepRequest(Root.open(root), f"{here.id}@1", grids.check({"weights": {"3": [4.0]}, "epochs": 1}))
    sweep = sweep_plan.plan_sweep(request)
    for name, text in FILES.items():  # workers get the files as they were planned with
        (project / f"{name}.py").write_text(f"raise RuntimeError('changed')\n{text}")
    there = launching.run(plan).experiment
    assert weights_hash(there) == weights_hash(here)
    control = same_control(sweep, here)
    for experiment in (here, there, control):
        assert "not bit-exact" not in (experiment.folder / "experiment_changes.log").read_text()
        assert {c.option for c in experiment.config().own_code} == {
            *("loss.kind", "metrics.g_mean", "training.optimizer", "training.schedule", "training.augment.own"),
            "sampling.policy.kind",
        }
        assert len(list((experiment.folder / "code").iterdir())) == 5
    for name in FILES:
        sys.modules.pop(name, None)


@pytest.mark.long
@pytest.mark.slow  # the parts of it are in tests/training/test_guest_main.py
def test_a_class_of_a_notebook_on_a_worker_and_in_branches(ray_cluster, project, run_cells, monkeypatch, tmp_path):
    from raysweep.launch.sweep import driver as sweeping
    from raysweep.training import guest_main
    from tests.training.test_guest_main import FIRST, SECOND

    (project / "parts.py").write_text("from torch.nn import ReLU as act\n")
    monkeypatch.syspath_prepend(project)
    run_cells(FIRST, SECOND)

    root = tmp_path / "experiments"
    sections = {
        "model": {"name": "python:__main__:Net"},
        "loss": {"kind": "python:__main__:loss"},
        "training": {"epochs": 2},
    }
    here = launching.run(experiment_plan.plan_experiment(small_settings(root, **sections))).experiment
    workers = {"num_workers": 1, "threads": 1}
    there = launching.run(experiment_plan.plan_experiment(small_settings(root, **sections, scaling=workers))).experiment
    assert weights_hash(there) == weights_hash(here)
    request = SweepRequest(Root.open(root), f"{here.id}@1", grids.check({"weights": {"3": [4.0]}, "epochs": 1}))
    branches = sweeping.run(sweep_plan.plan_sweep(request))
    assert branches.failed == {}
    control = next(e for e in branches.experiments.values() if e.config().branch.control)
    assert weights_hash(control) == weights_hash(here)
    assert "not bit-exact" not in (control.folder / "experiment_changes.log").read_text()
    # where the notebook does not run, from its recorded text
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    guest_main._here.clear()
    (project / "parts.py").unlink()
    branches = sweeping.run(sweep_plan.plan_sweep(request))
    assert branches.failed == {}
    control = next(e for e in branches.experiments.values() if e.config().branch.control)
    assert weights_hash(control) == weights_hash(here)
    assert "not bit-exact" not in (control.folder / "experiment_changes.log").read_text()


@pytest.mark.long
@pytest.mark.slow  # the same without Ray is in tests/training/test_skipped.py
def test_a_network_that_skips_layers_trains_the_same_bits_on_two_workers(
    ray_cluster, two_ranks, project, monkeypatch, tmp_path
):
    from raysweep.launch.workers import start as workers
    from tests.training.test_skipped import NETS, TRAINING

    (project / "nets.py").write_text(NETS)
    hashes = []
    for scaling in ({"num_workers": 2, "threads": 1}, {"num_workers": 0, "threads": 1}):
        monkeypatch.setattr(workers, "in_this_process", lambda job, fitted, progress: two_ranks.train(job))
        root = tmp_path / str(scaling["num_workers"])
        sections = {
            "model": {"name": "python:nets:Skips"},
            "training": TRAINING,
            "sampling": {"samples_per_epoch": 303},
        }
        plan = experiment_plan.plan_experiment(small_settings(root, **sections, scaling=scaling))
        hashes.append(weights_hash(launching.run(plan).experiment))
    assert hashes[0] == hashes[1]
