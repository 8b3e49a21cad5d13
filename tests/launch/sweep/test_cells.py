"""Branches with settings of their own: their plans, what is recorded of them, and going on with them from ``sweep.json`` alone."""

from __future__ import annotations

from datetime import datetime

import pytest

GRID = {
    "epochs": 1,
    "seeds": [0, 1],
    "weights": {"3": [4]},
    "settings": {"training.learning_rate": [0.02]},
    "fork": {"schedule": "cooldown"},
    "schedules": [[{"from": 2, "weights": "balanced"}]],
    "branches": [{"name": "mine", "settings": {"loss": "focal", "loss.gamma": 1.0}}],
}


@pytest.fixture
def planned(quick_run, tmp_path, monkeypatch):
    """(the parent, the plan of a sweep of it)"""
    from raysweep.config import grid as grids
    from raysweep.data import cache
    from raysweep.plan import sweep as sweep_plan
    from raysweep.plan.types import SweepRequest
    from raysweep.store.root import Root

    parent = quick_run(training={"epochs": 2, "warmup_epochs": 0, "learning_rate": 0.01})
    root = Root.open(tmp_path / "experiments")
    read = []
    monkeypatch.setattr(cache, "load_as", lambda *a, load=cache.load_as: read.append(a) or load(*a))
    plan = sweep_plan.plan_sweep(SweepRequest(root, f"{parent.id}@1", grids.check(GRID), name="s"))
    assert len(plan.bases) == 3  # each is a child that is planned by itself
    assert len(read) == 1  # a folder of a million images is looked through once
    return parent, plan


def test_every_branch_trains_with_the_settings_of_its_cell(planned):
    from raysweep.plan.sweep import plan_branch

    _, plan = planned
    plans = {p.arm: plan_branch(plan.of(p), "s_20260102_030405", p) for p in plan.points}
    assert list(plans) == [
        "control", "learning_rate=0.02", "mine", "learning_rate=0.02_3=4", "learning_rate=0.02_from2=balanced",
    ]  # fmt: skip
    rate = {arm: (p.settings.training.learning_rate, p.settings.loss.kind) for arm, p in plans.items()}
    assert rate["control"] == (0.01, "cross_entropy")
    assert rate["learning_rate=0.02_3=4"] == (0.02, "cross_entropy")
    assert rate["mine"] == (0.01, "focal")
    assert plans["mine"].settings.loss.gamma == 1.0
    assert plans["learning_rate=0.02_3=4"].weights.as_dict()["3"] == 4.0
    (step,) = plans["learning_rate=0.02_from2=balanced"].settings.sampling.schedule
    assert step.start == 2
    forks = {arm: p.settings.training.fork for arm, p in plans.items()}
    assert {f.schedule for f in forks.values()} == {"cooldown"}
    assert forks["learning_rate=0.02"].rate == pytest.approx(2 * forks["control"].rate)
    assert all(p.data is plan.base.data and p.roles is plan.base.roles for p in plans.values())


@pytest.mark.slow  # quick twin: test_sweep.py: a finished sweep
def test_a_sweep_goes_on_from_its_record_with_the_same_plans(planned):
    from raysweep.launch.sweep import driver, resume
    from raysweep.launch.sweep.more_seeds import MoreSeeds, extended
    from raysweep.plan.resources import AS_BEFORE
    from raysweep.plan.sweep import plan_branch
    from raysweep.store import sweep as sweeps
    from raysweep.store.trust import NOBODY

    _, plan = planned
    now = datetime(2026, 1, 2, 3, 4, 5)
    sweep = sweeps.create(plan.root, plan.name, now)
    sweep.write_record(driver._record(plan, sweep.id, now))
    record = sweep.record()
    assert [(b.arm, b.reference, dict(b.settings)) for b in record.branches] == [
        (p.arm, p.reference, p.settings) for p in plan.points
    ]
    more = extended(record, MoreSeeds(1, 1))
    again, points = resume._plan_again(sweep, more, AS_BEFORE, lambda event: None, NOBODY)
    assert points[: len(plan.points)] == plan.points
    assert {p.seed for p in points[len(plan.points) :]} == {2}
    for point in points[: len(plan.points)]:
        before, after = (plan_branch(p.of(point), sweep.id, point) for p in (plan, again))
        assert (after.settings, after.weights, after.notes) == (before.settings, before.weights, before.notes)


def test_a_wrong_setting_names_its_branch(planned):
    from raysweep.config import grid as grids
    from raysweep.errors import ConfigError
    from raysweep.plan import sweep as sweep_plan
    from raysweep.plan.types import SweepRequest

    parent, plan = planned
    wrong = {"branches": [{"name": "mine", "settings": {"training.learning_rate": -1}}]}
    with pytest.raises(ConfigError, match=r"Branch mine: .*training.learning_rate"):
        sweep_plan.plan_sweep(SweepRequest(plan.root, f"{parent.id}@1", grids.check(wrong)))


@pytest.mark.slow
def test_a_branch_of_a_cell_has_the_bits_of_the_same_child(quick_run, tmp_path):
    """The quick twin compares the plans."""
    from raysweep.config import grid as grids
    from raysweep.launch import run as launching
    from raysweep.launch.sweep import driver
    from raysweep.plan import child, parent, sweep
    from raysweep.plan.types import SweepRequest
    from raysweep.report import comparison
    from raysweep.store.checkpoint import read_checkpoint
    from raysweep.store.root import Root

    made = quick_run(training={"epochs": 2, "warmup_epochs": 0})
    root = Root.open(tmp_path / "experiments")
    grid = {
        "epochs": 1,
        "branches": [
            {"name": "both", "weights": {"3": 4}, "settings": {"loss": "focal", "training.learning_rate": 0.02}}
        ],
    }
    plan = sweep.plan_sweep(SweepRequest(root, f"{made.id}@1", grids.check(grid), name="s", in_process=True))
    result = driver.run(plan, lambda event: None)
    assert not result.failed
    assert [b.reference for b in result.comparison.branches] == ["", "loss=focal_learning_rate=0.02"]
    settings = {"loss": {"kind": "focal"}, "training": {"learning_rate": 0.02}}
    of = parent.read_parent(root, f"{made.id}@1", settings)
    alone = launching.run(
        child.plan_child(of, root, name="alone", epochs=1, weights={"3": 4}, overrides=settings)
    ).experiment
    mine, its = (
        read_checkpoint(e.folder / "checkpoint_epoch_2.pt")["model_state_dict"]
        for e in (result.experiments["both"], alone)
    )
    assert all((mine[k] == its[k]).all() for k in its)
    found = comparison.of_sweep(result.sweep)
    assert [b.name for b in found.branches] == [b.name for b in result.comparison.branches]
