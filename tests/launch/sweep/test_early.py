"""Early stopping in a sweep: the controls decide, and all networks that are compared have trained as long."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from raysweep.errors import ConfigError, RaysweepError, TrainingError
from raysweep.events import Note
from raysweep.store import lineage
from tests.conftest import Recorder, small_settings, weights_hash

GRID = {"weights": {"3": [4.0]}, "seeds": [0], "control_seeds": 2}
LASTS = {0: 3, 1: 2}  # seed → the epoch after which its patience ends a training


@dataclass
class InProcess:
    """Stands for Ray Tune: the branches train here, one after another.

    ``kill``: after so many branches the process is as if killed.
    """

    kill: int | None = None
    trained: list[list[str]] = field(default_factory=list)

    def __call__(self, work, progress):
        from raysweep.launch.sweep import branch, tune

        names: list[str] = []
        self.trained.append(names)
        ended = tune.TuneOutcome()
        for point in work.points:
            if self.kill == sum(map(len, self.trained)):
                raise KeyboardInterrupt
            names.append(point.name)
            _of_seed[0] = point.seed
            try:
                branch._train(point, work.shared, Recorder(), again=True)
            except RaysweepError as error:
                ended.failed[point.name] = str(error)
        return ended


_of_seed = [0]


def waited(history, metric, patience, fork):
    """Stands for the real function, so that the controls end at known epochs."""
    from raysweep.training.patience import Waited

    epochs = [e for e in history["epoch"] if e > fork]
    if patience is None or not epochs:
        return None
    best = min(epochs[-1], LASTS[_of_seed[0]] - 1)
    return Waited(metric, best, 0.5, epochs[-1] - best, patience)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The controls end at known epochs, and no pictures are drawn."""
    from raysweep.launch import runner
    from raysweep.training import patience

    monkeypatch.setattr(patience, "waited", waited)
    monkeypatch.setattr(runner, "derive", lambda *_: None)


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan

    settings = small_settings(tmp_path_factory.mktemp("early") / "experiments", training={"epochs": 1})
    return launching.run(experiment_plan.plan_experiment(settings)).experiment


def planned(parent, name, grid=GRID, **training):
    from raysweep.config import grid as grids
    from raysweep.plan import sweep as sweep_plan
    from raysweep.plan.types import SweepRequest

    over = {"training": {"patience": 1, **training}}
    request = SweepRequest(parent.root, f"{parent.id}@1", grids.check(grid), name=name, epochs=4, overrides=over)
    return sweep_plan.plan_sweep(request)


def swept(monkeypatch, plan, tune):
    """The sweep, without Ray."""
    from raysweep.launch.sweep import driver

    monkeypatch.setattr(driver.tuning, "launch", tune)
    told: list[object] = []
    with suppress(KeyboardInterrupt):
        return driver._start(plan, 1, told.append), told
    return None, told


def again(monkeypatch, parent, sweep, tune):
    """The sweep continued, without Ray."""
    import contextlib

    from raysweep.launch.sweep import driver, resume

    monkeypatch.setattr(driver.tuning, "launch", tune)
    monkeypatch.setattr(resume.tuning, "connected", lambda *_: contextlib.nullcontext([]))
    monkeypatch.setattr(driver.capacity, "settle", lambda *_: 1)
    with suppress(KeyboardInterrupt):
        return resume.continue_sweep(parent.root, sweep)
    return None


def ends(experiment) -> list[int]:
    return [e.epoch for e in experiment.manifest().ends]


def stopped(experiment) -> list[int]:
    """The epochs after which its patience ended it."""
    events = [e.fields for e in lineage.read(experiment.folder) if e.type == lineage.FINISHED]
    return [e["epochs"] for e in events if e.get("stopped_early") == "patience"]


def alone(parent, seed, last, weights=None):
    """The same training by itself: to ``last``, without patience."""
    from raysweep.launch import run as launching
    from raysweep.plan import child
    from raysweep.plan import parent as parents

    over = {"seed": seed}
    found = parents.read_parent(parent.root, f"{parent.id}@1")
    plan = child.plan_child(
        parent=found, root=parent.root, epochs=last - 1, weights=weights, overrides=over, name="alone"
    )
    return launching.run(plan).experiment


def test_the_controls_train_first_and_all_branches_as_long_as_the_longest(parent, monkeypatch):
    tune = InProcess()
    result, told = swept(monkeypatch, planned(parent, "whole"), tune)
    assert tune.trained == [["control-seed0", "control-seed1"], ["control-seed1", "3=4"]]
    assert {name: stopped(e) for name, e in result.experiments.items()} == {
        "control-seed0": [3],
        "control-seed1": [2],
        "3=4": [],
    }
    assert {ends(e)[-1] for e in result.experiments.values()} == {3}
    assert result.sweep.record().trained_to == 3
    notes = [t.text for t in told if isinstance(t, Note)]
    assert any(
        "(control-seed0 at epoch 3, control-seed1 at epoch 2); every branch trains to epoch 3" in n for n in notes
    )
    # What trained on after a stop has the bits of a training that never stopped.
    short = result.experiments["control-seed1"]
    assert weights_hash(short) == weights_hash(alone(parent, 1, 3))
    assert weights_hash(result.experiments["3=4"]) == weights_hash(alone(parent, 0, 3, {"3": 4.0}))
    changes = [e.changes for e in lineage.read(short.folder) if e.type == lineage.CONFIGURATION]
    assert changes[-1] == {"training.epochs": (4, 2), "training.patience": (1, None)}
    # Their last epochs are compared, and none is left out.
    assert result.comparison is not None
    assert result.comparison.branches[0].epoch == 3
    assert not [n for n in result.comparison.notes if "omitted" in n]


def _killed(parent, monkeypatch, kill):
    swept(monkeypatch, planned(parent, f"killed{kill}"), InProcess(kill))
    (folder,) = (parent.root.path / "sweeps").glob(f"killed{kill}_*")
    result = again(monkeypatch, parent, folder.name, InProcess())
    assert {n: weights_hash(e) for n, e in result.experiments.items()} == {
        "control-seed0": weights_hash(alone(parent, 0, 3)),
        "control-seed1": weights_hash(alone(parent, 1, 3)),
        "3=4": weights_hash(alone(parent, 0, 3, {"3": 4.0})),
    }
    assert result.sweep.record().trained_to == 3
    assert result.comparison is not None
    return result


@pytest.mark.slow
def test_killed_before_a_control_trains_on_and_with_seeds_added_all_train_as_long(parent, monkeypatch):
    from raysweep.launch.sweep.more_seeds import MoreSeeds, extended

    result = _killed(parent, monkeypatch, 2)
    result.sweep.write_record(extended(result.sweep.record(), MoreSeeds(1, 0)))
    longer = again(monkeypatch, parent, result.sweep.id, InProcess())
    assert {name: ends(e)[-1] for name, e in longer.experiments.items()} == dict.fromkeys(
        ["control-seed0", "control-seed1", "3=4", "3=4-seed1"], 3
    )


@pytest.mark.slow
@pytest.mark.parametrize("kill", [1, 3])  # among the controls, and before the branches
def test_killed_earlier_it_ends_with_the_same_bits(parent, monkeypatch, kill):
    _killed(parent, monkeypatch, kill)


def test_the_controls_of_cells_train_first_too_and_patience_makes_no_cell(parent):
    from raysweep.launch.sweep import early

    grid = {"weights": {"3": [4.0]}, "settings": {"training.learning_rate": [0.001, 0.002]}}
    points = planned(parent, "cells", grid).points
    first = early.controls(points)
    assert [p.name for p in first if p.control] == ["control"]
    assert {p.reference for p in points if p not in first} == {p.arm for p in first if not p.control}
    assert len(points) == 5
    with pytest.raises(ConfigError, match="patience cannot be varied in a grid"):
        planned(parent, "cells", {"settings": {"training.patience": [2, 3]}})


def test_without_a_control_nothing_is_started(parent, monkeypatch):
    with pytest.raises(ConfigError, match="the grid has no control"):
        planned(parent, "none", {**GRID, "control": False, "control_seeds": None})
    plan = planned(parent, "lost")
    assert any("The controls train first" in note for note in plan.notes)

    class Lost(InProcess):
        def __call__(self, work, progress):
            from raysweep.launch.sweep import tune

            return tune.TuneOutcome(failed={p.name: "lost" for p in work.points})

    with pytest.raises(TrainingError, match="No control has finished"):
        swept(monkeypatch, plan, Lost())


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
def test_on_ray_tune(ray_cluster, parent):
    from raysweep.launch.sweep import driver

    result = driver.run(planned(parent, "ray"))
    assert {ends(e)[-1] for e in result.experiments.values()} == {result.sweep.record().trained_to}
    assert not result.failed
