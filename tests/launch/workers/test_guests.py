"""A user's network on Ray workers and in branches: the bits of this process, and the code as it was planned. Real Ray, one cluster."""

from __future__ import annotations

import sys
from pathlib import Path

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
    for name in ("nets", "late"):
        sys.modules.pop(name, None)


@pytest.mark.slow  # the parts of it are in tests/training/test_guest.py
def test_the_same_bits_on_a_worker_and_in_branches_although_the_files_have_changed(ray_cluster, project, tmp_path):
    from raysweep.launch.sweep import driver as sweeping

    root = tmp_path / "experiments"
    here = launching.run(experiment_plan.plan_experiment(small_settings(root, **SECTIONS))).experiment
    on_a_worker = small_settings(root, **SECTIONS, scaling={"num_workers": 1, "threads": 1})
    plan = experiment_plan.plan_experiment(on_a_worker)
    request = SweepRequest(Root.open(root), f"{here.id}@1", grids.check({"weights": {"3": [4.0]}, "epochs": 1}))
    sweep = sweep_plan.plan_sweep(request)
    (project / "late.py").write_text(CHANGED)  # workers get the files as they were planned with
    there = launching.run(plan).experiment
    assert weights_hash(there) == weights_hash(here)
    branches = sweeping.run(sweep)
    assert branches.failed == {}
    control = next(e for e in branches.experiments.values() if e.config().branch.control)
    assert weights_hash(control) == weights_hash(here)
    for experiment in (there, control):
        assert {p.read_text() for p in (experiment.folder / "code").iterdir()} == {NETS, LATE}
