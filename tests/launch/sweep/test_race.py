"""``scheduler: race``: which branches get more seeds, that a kill changes nothing, and what is told."""

from __future__ import annotations

import pytest

from raysweep.errors import ConfigError
from tests.conftest import folder_run, weights_hash
from tests.launch.sweep.test_early import InProcess
from tests.launch.sweep.test_folds import without_tune

RACE = {"most": 9, "most_control": 9, "trainings": 8, "level": 0.9}
GRID = {"weights": {"dog": [3.0, 0.0]}, "epochs": 1, "scheduler": "race", "race": RACE}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    splits = {"train": {"cat": 24, "dog": 12}, "val": {"cat": 20, "dog": 20}}
    return folder_run(tmp_path_factory.mktemp("race"), splits, training={"epochs": 1, "batch_size": 16})


@pytest.fixture(autouse=True)
def quickly(request, monkeypatch):
    if "ray_cluster" not in request.fixturenames:
        without_tune(monkeypatch)


def swept(base, name, grid=GRID):
    from raysweep.config import grid as grids
    from raysweep.launch.sweep import driver
    from raysweep.plan.sweep import plan_sweep
    from raysweep.plan.types import SweepRequest

    told = []
    plan = plan_sweep(SweepRequest(base.root, f"{base.id}@1", grids.check(grid), name=name), writable=False)
    return driver.run(plan, told.append), told


def hashes(sweep):
    return {name: weights_hash(e) for name, e in sweep.experiments().items()}


def test_a_race_adds_seeds_until_it_is_over(base):
    result, told = swept(base, "whole")
    record = result.sweep.record()
    assert [b.name for b in record.branches[:6]] == [
        *(f"control-seed{n}" for n in (0, 1, 2, 3)), "dog=3", "dog=0",
    ]  # fmt: skip
    assert len(record.branches) <= 8
    assert len(record.branches) > 6
    assert record.race.over is True
    assert {b.status for b in record.branches} == {"finished"}
    texts = [e.text for e in told if hasattr(e, "text")]
    assert any(t.startswith("Race, look 1") for t in texts)
    assert any("race is over" in t for t in texts)
    notes = result.comparison.notes
    assert any("Seeds were added by a race" in n for n in notes)


@pytest.mark.slow
def test_a_kill_changes_nothing(base, monkeypatch):
    from raysweep.launch.sweep import driver
    from raysweep.launch.sweep.resume import continue_sweep

    result, _ = swept(base, "undisturbed")
    record = result.sweep.record()
    for kill in (2, 6, 7):
        monkeypatch.setattr(driver.tuning, "launch", InProcess(kill))
        with pytest.raises(KeyboardInterrupt):
            swept(base, f"killed{kill}")
        monkeypatch.setattr(driver.tuning, "launch", InProcess())
        again = continue_sweep(base.root, f"killed{kill}")
        assert again.sweep.record().race == record.race
        assert hashes(again.sweep) == hashes(result.sweep)


def test_a_grid_of_settings_with_one_control(base):
    from raysweep.config import grid as grids
    from raysweep.plan.sweep import plan_sweep
    from raysweep.plan.types import SweepRequest

    branch = {"name": "both", "weights": {"dog": 3.0}, "settings": {"loss.kind": "focal"}}
    for cells, expected in ((True, {"control", "both", "loss=focal"}), (False, {"control", "both"})):
        grid = grids.check({"branches": [branch], "cell_controls": cells, "epochs": 1})
        plan = plan_sweep(SweepRequest(base.root, f"{base.id}@1", grid), writable=False)
        assert {p.arm for p in plan.points} == expected
        assert ({p.reference for p in plan.points} == {None}) is not cells


@pytest.mark.parametrize(
    ("grid", "word"),
    [
        ({**GRID, "control": False}, "needs a control"),
        ({**GRID, "race": {"most": 1}}, "race.most"),
        ({**GRID, "race": {"level": 0}}, "race.level"),
        (
            {**GRID, "branches": [{"name": "f", "settings": {"sampling.follow": {"experiment": "x"}}}]},
            "sampling.follow",
        ),
    ],
)
def test_a_race_that_cannot_be_is_refused(grid, word):
    from raysweep.config import grid as grids

    with pytest.raises(ConfigError, match=word):
        grids.check(grid)


def test_a_branch_that_fails_does_not_keep_a_race_going(base, monkeypatch):
    """Its failed trainings count among its seeds."""
    from raysweep.launch.sweep import driver

    class Failing(InProcess):
        def __call__(self, work, progress):
            bad = [p.name for p in work.points if p.name.startswith("dog=0")]
            from dataclasses import replace

            ended = super().__call__(replace(work, points=[p for p in work.points if p.name not in bad]), progress)
            ended.failed.update(dict.fromkeys(bad, "it cannot"))
            return ended

    monkeypatch.setattr(driver.tuning, "launch", Failing())
    result, _ = swept(base, "failing")
    assert set(result.failed) == {"dog=0"}
    assert result.sweep.record().race.over is True
