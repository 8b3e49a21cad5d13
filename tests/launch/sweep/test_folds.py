"""k-fold sweeps: a parent for each fold, which never saw its validation images, every branch on each, and one comparison."""

from __future__ import annotations

import contextlib
import json
import re

import numpy as np
import pytest

from raysweep.errors import CheckpointError, ConfigError, Interrupted
from raysweep.store import folds as store
from tests.conftest import folder_run, weights_hash
from tests.launch.sweep.test_early import InProcess

GRID = {"weights": {"dog": [3.0]}, "data.folds": 2, "epochs": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An experiment on images of which some are sealed."""
    splits = {"train": {"cat": 24, "dog": 12}, "test": {"cat": 6, "dog": 6}}
    return folder_run(tmp_path_factory.mktemp("folds"), splits, training={"epochs": 2, "batch_size": 16})


@pytest.fixture(autouse=True)
def quickly(request, monkeypatch):
    if "ray_cluster" not in request.fixturenames:
        without_tune(monkeypatch)


def without_tune(monkeypatch):
    from raysweep.launch import runner
    from raysweep.launch.sweep import driver

    monkeypatch.setattr(runner, "derive", lambda *_: None)
    monkeypatch.setattr(driver.tuning, "connected", lambda *_: contextlib.nullcontext([]))
    monkeypatch.setattr(driver.autoscaler, "fleet", lambda *_: contextlib.nullcontext(None))
    monkeypatch.setattr(driver.capacity, "with_gpus", lambda plan, _: plan)
    monkeypatch.setattr(driver.capacity, "settle", lambda *_: 1)
    monkeypatch.setattr(driver.tuning, "launch", InProcess())


def planned(base, name, grid=GRID, **options):
    from raysweep.config import grid as grids
    from raysweep.plan.folds import plan_folds
    from raysweep.plan.types import SweepRequest

    request = SweepRequest(base.root, f"{base.id}@1", grids.check(grid), name=name, **options)
    return plan_folds(request, writable=False)


def everything(folds):
    """(fold, branch or "parent") → its experiment."""
    from raysweep.store.experiment import Experiment
    from raysweep.store.sweep import Sweep

    found = {}
    for part in folds.record().parts:
        found[part.fold, "parent"] = Experiment(folds.root.path / part.parent, folds.root)
        sweep = Sweep(folds.root.path / "sweeps" / part.sweep, folds.root)
        found |= {(part.fold, name): e for name, e in sweep.experiments().items()}
    return found


@pytest.fixture(scope="module")
def whole(base):
    """The k-fold sweep, undisturbed."""
    from raysweep.launch.sweep import folds

    patch = pytest.MonkeyPatch()
    try:
        without_tune(patch)
        return folds.run(planned(base, "whole"))
    finally:
        patch.undo()


def test_each_fold_has_a_parent_that_never_saw_its_validation_images(base, whole):
    from raysweep.data.roles import record

    made = everything(whole.folds)
    assert set(made) == {(k, name) for k in (1, 2) for name in ("parent", "control", "dog=3")}
    ids = set()
    before = record.read(base.folder)
    for (fold, name), experiment in made.items():
        roles = record.read(experiment.folder)
        ids.add((fold, roles.val.tobytes()))
        assert not np.isin(roles.val[:, 0], roles.trained[:, 0]).any(), (fold, name)
        assert roles.sealed.tolist() == before.sealed.tolist()
        assert not np.isin(before.sealed[:, 1], [*roles.trained[:, 1], *roles.val[:, 1]]).any()
        if name != "parent":
            assert experiment.config().parent.experiment == made[fold, "parent"].id
            assert [e.epoch for e in experiment.manifest().ends] == [2]
    assert len(ids) == 2
    both = np.concatenate([record.read(made[k, "parent"].folder).val[:, 0] for k in (1, 2)])
    assert len(both) == len(set(both.tolist())) == 36
    settings = made[2, "parent"].config().settings
    assert (settings["training"]["epochs"], settings["training"]["schedule_epochs"]) == (1, 2)


def test_the_branches_are_compared_over_all_folds(whole):
    found = whole.comparison
    assert [b.name for b in found.branches] == ["dog=3"]
    assert found.counts == {"cat": 24, "dog": 12}
    assert len(found.branches[0].experiments) == 2
    assert any(
        "Folds count as a factor" in note and "(2 folds, so 1 degree of freedom)" in note for note in found.notes
    )
    assert found.of("dog=3", "cat", "recall").label != "one seed"
    from raysweep.report.findings.findings import ONE_SEED

    assert not [e for e in found.effects if e.label == ONE_SEED]
    assert (whole.folds.folder / "effects.csv").is_file()


def test_a_second_sigint_names_all_folds_and_not_one_of_them(whole, monkeypatch):
    from raysweep.cluster import signals
    from raysweep.launch.sweep import folds

    def stop(*_):
        signals.begun("a part")
        raise Interrupted(signals.last_line(), "SIGINT")

    monkeypatch.setattr(signals, "_state", signals._State())
    monkeypatch.setattr(folds, "_parent", stop)
    with pytest.raises(Interrupted):
        folds.continue_folds(whole.folds)
    assert f" continue {whole.folds.id}" in signals._state.go_on


def test_what_starts_after_it_goes_on_has_the_resources_that_were_asked_for(whole):
    from raysweep.launch.sweep import folds, steps
    from raysweep.plan.resources import ResourceOverrides

    parent = everything(whole.folds)[1, "parent"]
    asked = ResourceOverrides(threads=2, workers=3, address="there:10001")
    found = folds._request(whole.folds, 1, parent, steps.How(asked=asked))
    assert (found.threads, found.workers, found.address) == (2, 3, "there:10001")


@pytest.mark.parametrize(
    ("grid", "left"),
    [
        ({}, False),
        ({"scheduler": "race", "race": {"most": 2}}, True),  # killed before it decided who gets more seeds
        (
            {
                "weights": {},
                "search": {"algorithm": "optuna", "num_samples": 9, "ranges": {"dog": {"uniform": [1, 3]}}},
            },
            True,
        ),
    ],
)
def test_a_fold_whose_branches_are_finished_goes_on_where_its_sweep_has_others_to_choose(
    whole, monkeypatch, grid, left
):
    from dataclasses import replace
    from types import SimpleNamespace

    from raysweep.launch.sweep import folds, steps
    from raysweep.store.sweep import Sweep

    part, went_on = whole.folds.record().parts[0], []
    record = whole.folds.begun_sweep(part.sweep).record()
    assert {b.status for b in record.branches} == {"finished"}
    monkeypatch.setattr(Sweep, "record", lambda _: replace(record, grid={**record.grid, **grid}))
    done = SimpleNamespace(sweep=None, failed={"dog=3": "why"})
    monkeypatch.setattr(steps, "continue_sweep", lambda *_, **__: went_on.append(1) or done)
    failed = folds._sweep(whole.folds, part, None, steps.How(), lambda _: None)
    assert (len(went_on), failed) == (left, ["dog=3 of fold 1"] * left)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [1, 3])  # within the first fold, and within the second
def test_killed_and_continued_it_ends_with_the_same_bits(base, whole, monkeypatch, kill):
    from raysweep.launch.sweep import driver, folds

    monkeypatch.setattr(driver.tuning, "launch", InProcess(kill))
    with pytest.raises(KeyboardInterrupt):
        folds.run(planned(base, f"killed{kill}"))
    monkeypatch.setattr(driver.tuning, "launch", InProcess())
    broken = store.find(base.root, f"killed{kill}")
    result = folds.continue_folds(broken)
    hashes = [{key: weights_hash(e) for key, e in everything(one).items()} for one in (result.folds, whole.folds)]
    assert hashes[0] == hashes[1]
    assert result.comparison.counts == whole.comparison.counts
    again = folds.continue_folds(broken)  # there is nothing to do
    assert set(everything(again.folds)) == set(everything(whole.folds))


def test_credentials_are_not_stored(base, monkeypatch, tmp_path):
    from raysweep.launch.sweep import folds
    from raysweep.trackers import base as trackers

    monkeypatch.setattr(trackers, "check", lambda *_: None)
    over = {"trackers": {"mlflow": {"uri": "https://me:secret@host.example/"}}}
    plan = planned(base, "secret", overrides=over)
    from datetime import datetime

    record = folds._record(plan, "secret_20260101_000000", datetime.now())
    assert "host.example" in json.dumps(record.to_json())
    assert "secret@" not in json.dumps(record.to_json())


def test_the_command_line_compares_and_continues(whole, capsys):
    from raysweep.cli.main import main as command

    root = str(whole.folds.root.path)
    with contextlib.suppress(SystemExit):
        command(["compare", "whole", "--root", root, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["title"] == whole.folds.id
    assert told["validation_images"] == {"cat": 24, "dog": 12}


def test_the_usual_name_leaves_room_for_those_of_its_sweeps(base, monkeypatch):
    from dataclasses import replace

    from raysweep.plan import parent as parents

    read = parents.read_parent
    named = f"{'x' * 48}_20260101_000000"
    monkeypatch.setattr(parents, "read_parent", lambda *given, **more: replace(read(*given, **more), experiment=named))
    assert planned(base, None).name == "x" * 44


def test_what_cannot_be_cross_validated_is_refused(base):
    from dataclasses import replace

    from raysweep.config import grid as grids
    from raysweep.plan import folds as planning
    from raysweep.plan.sweep import plan_sweep
    from raysweep.plan.types import SweepRequest

    request = SweepRequest(base.root, f"{base.id}@1", grids.check(GRID))
    with pytest.raises(ConfigError, match="makes several sweeps"):
        plan_sweep(request)
    from raysweep.launch import run as launching
    from raysweep.plan import child as childs
    from raysweep.plan import parent as parents

    child = launching.run(childs.plan_child(parents.read_parent(base.root, f"{base.id}@1"), base.root)).experiment
    asked = replace(request, checkpoint=f"{child.id}@2")
    with pytest.raises(CheckpointError, match=re.escape(f"{child.id}@2 is a child of {base.id}@1")):
        planning.plan_folds(asked, writable=False)
    with pytest.raises(ConfigError, match="greater than or equal to 2"):
        grids.check({**GRID, "data.folds": 1})


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
def test_on_ray_tune(ray_cluster, base):
    from raysweep.launch.sweep import folds

    result = folds.run(planned(base, "ray"))
    assert set(everything(result.folds)) == {(k, name) for k in (1, 2) for name in ("parent", "control", "dog=3")}
    assert result.comparison.counts == {"cat": 24, "dog": 12}
