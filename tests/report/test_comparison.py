"""A sweep is compared with its controls, a child with its parent, and several experiments with the first one."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from raysweep.errors import InputError, NotFoundError, StoreError
from raysweep.report import comparison, evaluated, page, predictions
from raysweep.report.effects import ALL
from raysweep.report.findings import findings
from raysweep.store import resolve
from raysweep.store import sweep as sweeps
from raysweep.store.experiment import Experiment
from raysweep.store.records import BranchRef, ParentRef
from raysweep.store.records_sweep import BranchRecord, SweepRecord
from raysweep.store.results import refresh
from raysweep.store.root import Root
from tests.cli.test_errors import run_cli
from tests.conftest import Recorder, small_settings
from tests.report.making import made as makes
from tests.report.making import sweep_of


@pytest.fixture
def root(tmp_path):
    return tmp_path / "experiments"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A root that each test gets a copy of: (it, the parent's name, the plan of a sweep). Two seeds of a control and of one
    branch, made one by one."""
    from raysweep.launch import run as launching
    from raysweep.launch.workers import start as workers
    from raysweep.plan import child
    from raysweep.plan import experiment as experiment_plan
    from raysweep.plan import parent as parents
    from raysweep.training.loop import train

    root = tmp_path_factory.mktemp("trained") / "experiments"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "in_this_process", lambda job, *_: train(job, Recorder()))
        parent = launching.run(experiment_plan.plan_experiment(small_settings(root, training={"epochs": 1}))).experiment
        known = parents.read_parent(Root.open(root), f"{parent.id}@1")
        sweep = sweeps.create(Root.open(root), "s", datetime(2026, 1, 2))
        branches = []
        for name, weights in (("control", {}), ("34", {"3": 4.0})):
            for seed in (0, 1):
                branch = {"name": f"{name}-seed{seed}", "control": name == "control", "seed": seed}
                plan = child.plan_child(
                    known,
                    Root.open(root),
                    epochs=1,
                    name=f"s-{branch['name']}",
                    weights=weights,
                    overrides={"seed": seed},
                )
                made = launching.run(plan).experiment
                made.write_config(replace(made.config(), sweep=sweep.id, branch=BranchRef(**branch)))
                branches.append({**branch, "weights": made.config().sampling_weights})
    plan = {"id": sweep.id, "name": "s", "parent_weights": parent.config().sampling_weights, "branches": branches}
    sweep.write_record(SweepRecord.from_json(plan))
    refresh(sweep)
    return root, parent.id, sweep.id


@pytest.fixture
def parent(root, trained):
    """The parent alone."""
    shutil.copytree(trained[0] / trained[1], root / trained[1], dirs_exist_ok=True)
    return Experiment(root / trained[1])


@pytest.fixture
def sweep(root, trained):
    """The sweep, its branches and their parent."""
    shutil.copytree(trained[0], root, dirs_exist_ok=True)
    return resolve.find_sweep(Root.open(root), trained[2])


def test_a_sweep_is_compared_with_its_controls(root, sweep, capsys):
    found = comparison.compare(Root.open(root), ["s"])
    (branch,) = found.branches
    assert branch.name == "34"
    assert branch.change == {"3": (1.0, 4.0)}
    assert "2 seeds" in found.against
    assert branch.images == 2 * 500
    assert branch.seconds > 0
    by_name = sweep.experiments()
    accuracy = {n: np.mean((p := predictions.read(e, 2)).labels == p.predicted) for n, e in by_name.items()}
    effect = found.of("34", ALL, "accuracy")
    assert effect.value == pytest.approx((accuracy["34-seed0"] + accuracy["34-seed1"]) / 2)
    assert effect.reference == pytest.approx((accuracy["control-seed0"] + accuracy["control-seed1"]) / 2)
    assert effect.low < effect.difference < effect.high
    assert found.notes == [comparison.FEW_SEEDS]
    code, out, err = run_cli(capsys, "compare", "s", "--root", root)
    assert code == 0, err
    assert out.splitlines()[0].split("\t")[:3] == ["branch", "accuracy", "macro-F1"]
    assert out.splitlines()[1].startswith("34\t")
    code, out, _ = run_cli(capsys, "compare", "s", "--json", "--root", root)
    assert code == 0
    assert len(json.loads(out)["effects"]) == (10 * 6 + 7) + (
        10 * 3 + 3
    )  # of the branch, and of the control with offsets


def test_effects_are_written_into_the_sweeps_folder(sweep):
    assert page.write_all(sweep)[1] is None
    rows = list(csv.DictReader((sweep.folder / "effects.csv").open()))
    assert {r["branch"] for r in rows} == {"34", "control + offsets"}
    labels = {*findings.SHOWN, findings.NOT_SHOWN, findings.LEARNING_NOT_SHOWN, findings.SAME_AS_MOVING, ""}
    assert {r["label"] for r in rows} <= {*labels, findings.INSEPARABLE, findings.NOT_TESTED}
    recall = next(r for r in rows if (r["target"], r["metric"]) == ("3", "recall"))
    assert not recall["times"] or float(recall["times"]) > 0
    assert -1 <= float(recall["free"]) <= 1
    assert (sweep.folder / "effects.png").read_bytes().startswith(b"\x89PNG")


def test_a_branch_that_is_not_finished_is_omitted_with_a_note(root, sweep):
    broken = sweep.experiments()["34-seed1"]
    lines = (broken.folder / "lineage.jsonl").read_text().splitlines(keepends=True)
    (broken.folder / "lineage.jsonl").write_text("".join(lines[:-1]))
    found = comparison.of_sweep(sweep)
    assert any("34-seed1 is not finished" in n for n in found.notes)
    assert comparison.ONE_SEED in found.notes
    assert found.of("34", ALL, "accuracy").label == findings.ONE_SEED


@pytest.mark.slow  # quick twin: with its controls
def test_without_a_control_a_sweep_is_compared_with_the_parent_with_a_note(root, sweep, parent, capsys):
    record = sweep.record()
    without = tuple(replace(b, control=False) for b in record.branches)
    sweep.write_record(replace(record, parent=ParentRef(parent.id, 1), branches=without))
    found = comparison.of_sweep(sweep)
    assert [b.name for b in found.branches] == ["control", "34"]
    assert found.against == "the checkpoint it started from"
    assert evaluated.NO_CONTROL in found.notes
    before = predictions.read(parent, 1)
    assert found.of("34", ALL, "accuracy").reference == pytest.approx(np.mean(before.labels == before.predicted))
    assert all(len(p.reference) == 1 for p in found.pairs)
    assert page.write_all(sweep)[1] is None
    assert "There is no control" in run_cli(capsys, "compare", "s", "--root", root)[2]
    sweep.write_record(replace(sweep.record(), parent=ParentRef("gone", 1)))
    with pytest.raises(NotFoundError, match="gone"):
        comparison.of_sweep(sweep)
    compared, problem = page.write_all(sweep)
    assert compared is None
    assert "gone" in (problem or "")


def test_a_child_is_compared_with_its_parent_with_a_note(root, parent, quick_child, capsys):
    child = quick_child(f"{parent.id}@1", epochs=1, name="child", weights={"3": 4.0})
    found = comparison.compare(Root.open(root), ["child"])
    assert found.against == "the checkpoint it started from"
    assert any("There is no control" in n for n in found.notes)
    before = predictions.read(parent, 1)
    assert found.of(child.id, ALL, "accuracy").reference == pytest.approx(np.mean(before.labels == before.predicted))
    with pytest.raises(InputError, match="has no parent"):
        comparison.compare(Root.open(root), [parent.id])
    code, _, err = run_cli(capsys, "compare", "child", "--root", root, "--metric", "speed")
    assert code == 2
    assert "--metric speed" in err


def test_experiments_are_compared_with_the_first(root, parent, quick_child):
    one = quick_child(f"{parent.id}@1", epochs=1, name="one", weights={"3": 4.0})
    two = quick_child(f"{parent.id}@1", epochs=1, name="two", weights={"3": 4.0})
    found = comparison.compare(Root.open(root), [one.id, two.id])
    assert found.against == one.id
    assert all(e.difference == 0 or np.isnan(e.difference) for e in found.effects)
    assert not any(e.shown for e in found.effects)


def test_experiments_validated_on_other_images_are_refused(root, parent, quick_run):
    other = quick_run(training={"epochs": 1}, data={"source": "digits", "split_seed": 5}, experiment={"name": "other"})
    with pytest.raises(InputError, match="not validated on the same images"):
        comparison.compare(Root.open(root), [parent.id, other.id])


def test_missing_and_damaged_predictions_are_errors(root, parent, quick_child):
    child = quick_child(f"{parent.id}@1", epochs=1, name="child")
    file = child.folder / "val_predictions.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StoreError, match="is damaged"):
        comparison.compare(Root.open(root), [parent.id, child.id])
    file.unlink()
    with pytest.raises(NotFoundError, match="is missing"):
        comparison.compare(Root.open(root), [parent.id, child.id])


# Folders that were written without training

CLASSES = ("a", "b", "c")
BASE = (0.4, 0.7, 0.8)


def test_a_deleted_parent_is_not_replaced_by_another_of_the_same_name(tmp_path):
    root = tmp_path / "e"
    made = sweep_of(root, CLASSES, BASE, {"x": ({"a": 2.0}, BASE)}, control=False)
    twin = makes(root, "parent", CLASSES, (0.1, 0.1, 0.1))
    parent = made.record().parent.experiment
    assert twin.id == f"{parent}_2"
    assert comparison.of_sweep(made).branches[0].references == [parent]
    shutil.rmtree(root / parent)
    with pytest.raises(NotFoundError, match=f"{parent} is not under"):
        comparison.of_sweep(made)


def test_branches_with_names_that_look_the_same_stay_separate():
    plan = [
        BranchRecord(name, seed=seed, weights=weights)
        for name, seed, weights in (
            ("C4-seed0", 0, {"C+": 4.0, "C#": 1.0}), ("C4-seed1", 1, {"C+": 4.0, "C#": 1.0}),
            ("C4-seed0-2", 0, {"C+": 1.0, "C#": 4.0}), ("C4-seed1-2", 1, {"C+": 1.0, "C#": 4.0}),
        )
    ]  # fmt: skip
    groups = evaluated.grouped(plan)
    assert {n: [b.seed for b in members] for n, members in groups.items()} == {"C4": [0, 1], "C4-2": [0, 1]}
    twice = [BranchRecord(n, seed=0, weights={"a": 2.0}) for n in ("t1", "t2")]
    assert list(evaluated.grouped(twice)) == ["t1", "t2"]


def test_a_damaged_branch_does_not_affect_the_others(tmp_path):
    made = sweep_of(tmp_path / "e", CLASSES, BASE, {"x": ({"a": 2.0}, BASE), "y": ({"b": 2.0}, BASE)}, seeds=(0,))
    found = made.experiments()
    (found["x"].folder / "val_predictions.parquet").write_bytes(b"torn")
    (found["y"].folder / "training_history.csv").write_text("val_acc,epoch\n0.5,1\n0.5\n")
    compared = comparison.of_sweep(made)
    assert [b.name for b in compared.branches] == ["y"]
    assert any("x is omitted: " in n and "is damaged" in n for n in compared.notes)
    assert (compared.branches[0].seconds, compared.branches[0].images) == (0.0, 0)


def test_an_error_with_many_reasons_names_some_of_them(tmp_path):
    made = sweep_of(tmp_path / "e", CLASSES, BASE, {f"x{i}": ({"a": 2.0 + i}, BASE) for i in range(12)}, seeds=(0,))
    for name, experiment in made.experiments().items():
        if name != "control":
            (experiment.folder / "val_predictions.parquet").unlink()
    with pytest.raises(InputError, match="And 7 more") as error:
        comparison.of_sweep(made)
    assert len(str(error.value)) < 2000
