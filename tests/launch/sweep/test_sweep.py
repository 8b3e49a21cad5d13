"""Sweeps on real Ray: the promises about bits, and that nothing one branch or one kill does harms the others."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml

from raysweep.config import grid as grids
from raysweep.errors import Interrupted
from raysweep.events import BranchEnded, BranchEvent, Event, Note, SweepEnded, SweepStarted, ignore, opened
from raysweep.launch import run as launching
from raysweep.plan import child
from raysweep.plan import experiment as experiment_plan
from raysweep.plan import parent as parents
from raysweep.plan import sweep as sweep_plan
from raysweep.store import resolve
from raysweep.store.experiment import Experiment
from raysweep.store.results import read_results
from raysweep.store.root import Root
from tests.conftest import small_settings, weights_hash

if TYPE_CHECKING:
    from torch import nn

    from raysweep.launch.sweep.driver import SweepResult


GRID = {"weights": {"3": [4.0], "8": [0.5, 2.0]}, "seeds": [0, 1], "epochs": 2}
DROPOUT = {"widths": [4, 4, 8, 8], "dropout": 0.3}


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def parent_in(root: Path, **sections) -> Experiment:
    """Three epochs, of which children take the first: the other two are the undisturbed way on."""
    base = {"training": {"epochs": 3}, "model": {"options": DROPOUT}, "experiment": {"name": "parent"}}
    return launching.run(experiment_plan.plan_experiment(small_settings(root, **{**base, **sections}))).experiment


def run_sweep(root: Path, reference: str, grid: dict, **options):
    from raysweep.launch.sweep import driver as sweeping
    from raysweep.plan.types import SweepRequest

    events: list[Event] = []
    plan = sweep_plan.plan_sweep(SweepRequest(Root.open(root), reference, grids.check(grid), **options))
    return sweeping.run(plan, events.append), events


@pytest.fixture(scope="module")
def swept(ray_cluster, tmp_path_factory):
    """A parent, its files before, and a sweep of six branches from its first epoch, by the Python call: as they are stored."""
    import raysweep

    root = tmp_path_factory.mktemp("swept") / "root"
    parent = parent_in(root)
    before = fingerprint(parent.folder)
    events: list[Event] = []
    made = raysweep.branch(parent.folder / "checkpoint_epoch_1.pt", GRID, progress=events.append)
    experiments = {name: experiment.stored for name, experiment in made.experiments.items()}
    return root, parent, before, SimpleNamespace(sweep=made.stored, experiments=experiments, failed=made.failed), events


def test_the_python_call_makes_the_sweep_beside_its_parent(swept):
    root, _, _, result, _ = swept
    assert result.sweep.root.path == root.resolve()
    assert result.sweep.id.startswith("parent-sweep_")


def test_every_branch_has_a_complete_folder_and_the_parent_is_untouched(swept):
    root, parent, before, result, events = swept
    assert fingerprint(parent.folder) == before
    assert not result.failed
    assert set(result.experiments) == {
        *("control-seed0", "control-seed1", "3=4_8=0.5-seed0", "3=4_8=0.5-seed1", "3=4_8=2-seed0", "3=4_8=2-seed1"),
    }
    for name, experiment in result.experiments.items():
        assert experiment.status() == "finished"
        files = {p.name for p in experiment.folder.iterdir()}
        assert files >= {
            "best_checkpoint.pt",
            "checkpoint_epoch_3.pt",
            "classification_report.txt",
            "training_history.png",
        }
        assert {f for f in files if f.startswith(".")} <= {".writer.fence"}  # nothing temporary; writers lock that file
        assert (
            experiment.folder.stat().st_mode == parent.folder.stat().st_mode
        )  # others may read it as far as the parent
        types = [e["type"] for e in map(json.loads, (experiment.folder / "lineage.jsonl").read_text().splitlines())]
        assert types[:2] == ["EXPERIMENT_START", "RESUME_FROM_CHECKPOINT"]
        assert ("TRAINING_DATA_RATIO_CHANGE" in types) == (not name.startswith("control"))
        assert experiment.config().sweep == result.sweep.id
        assert experiment.config().parent.sha256 == parent.entry("1").sha256
    assert [type(e) for e in events if isinstance(e, SweepStarted | SweepEnded)] == [SweepStarted, SweepEnded]
    assert not (root / ".raysweep" / "ray" / "tune").exists() or not list(
        (root / ".raysweep" / "ray" / "tune").iterdir()
    )


def test_the_control_equals_the_parent_trained_on_to_the_bit(swept):
    _, parent, _, result, _ = swept
    assert weights_hash(result.experiments["control-seed0"]) == weights_hash(parent)
    assert weights_hash(result.experiments["control-seed1"]) != weights_hash(parent)


def test_a_branch_alone_gives_the_bits_of_the_branch_in_the_sweep(swept):
    root, parent, _, result, _ = swept
    plan = child.plan_child(
        parents.read_parent(Root.open(root), f"{parent.id}@1"),
        Root.open(root),
        epochs=2,
        weights={"3": 4.0, "8": 0.5},
        overrides={"seed": 1},
        name="alone",
    )
    alone = launching.run(plan).experiment
    assert weights_hash(alone) == weights_hash(result.experiments["3=4_8=0.5-seed1"])
    assert len({weights_hash(e) for e in result.experiments.values()}) == 6


def test_results_hold_every_branch_and_its_difference_to_the_control_of_its_seed(swept):

    _, _, _, result, _ = swept
    with open(result.sweep.folder / "results.csv", newline="") as file:
        rows = {r["branch"]: r for r in csv.DictReader(file)}
    assert set(rows) == set(result.experiments)
    for name, row in rows.items():
        control = rows[f"control-seed{row['seed']}"]
        assert float(row["val_acc_minus_control"]) == pytest.approx(float(row["val_acc"]) - float(control["val_acc"]))
        assert float(row["val_acc"]) == result.experiments[name].entry("latest").metrics["val_acc"]
        assert row["status"] == "finished"
    assert all(abs(sum(b.shares.values()) - 1) < 1e-9 for b in result.sweep.record().branches)
    assert read_results(result.sweep)[0]["control"] == 1


def test_what_each_branch_did_to_each_class_is_written_at_the_end(swept):
    _, _, _, result, _ = swept
    with open(result.sweep.folder / "effects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {r["metric"] for r in rows} >= {"recall", "learned", "macro_f1"}
    assert not any(r["label"] in ("better", "worse", "learned better", "learned worse") for r in rows if r["p"] == "")
    assert {r["target"] for r in rows} == {*"0123456789", "(all)"}
    assert (result.sweep.folder / "effects.png").stat().st_size > 10_000


def test_a_finished_sweep_has_nothing_to_continue(swept):
    from raysweep.launch.sweep.resume import continue_sweep

    root, _, _, result, _ = swept
    before = {n: fingerprint(e.folder) for n, e in result.experiments.items()}
    told: list[Event] = []
    continue_sweep(Root.open(root), result.sweep.id, progress=told.append)
    assert any("nothing to do" in e.text for e in told if isinstance(e, Note))
    assert {n: fingerprint(e.folder) for n, e in result.experiments.items()} == before


def cut_off(experiment: Experiment) -> None:
    """Make it look as if its process had been killed within its last epoch."""
    *kept, last = experiment.entries()
    (experiment.folder / last.file).unlink()
    manifest = experiment.manifest()
    assert manifest.best is not None
    best = replace(manifest.best, epoch=kept[-1].epoch, file=kept[-1].file)
    experiment.write_manifest(replace(manifest, entries=kept, best=best))
    log = experiment.folder / "lineage.jsonl"
    *lines, end = log.read_text().splitlines(keepends=True)
    assert json.loads(end)["type"] == "FINISHED"
    log.write_text("".join(lines))


@pytest.mark.slow
@pytest.mark.long
def test_a_sweep_that_was_cut_off_and_then_interrupted_is_continued_to_the_same_bits(swept, tmp_path):
    """What kills of a real driver leave is in the slow test below."""
    _, _, _, result, _ = swept
    root = tmp_path / "root"
    shutil.copytree(swept[0], root)
    sweep = resolve.find_sweep(Root.open(root), result.sweep.id)
    branches = sweep.experiments()
    hashes = {n: weights_hash(e) for n, e in branches.items()}
    assert hashes == {n: weights_hash(e) for n, e in result.experiments.items()}
    half, missing = "3=4_8=0.5-seed0", "3=4_8=2-seed1"
    cut_off(branches[half])
    assert branches[half].status() == "crashed"
    shutil.rmtree(branches[missing].folder)
    whole = {n: fingerprint(e.folder) for n, e in branches.items() if n not in (half, missing)}

    def interrupt(event: Event) -> None:
        if opened(event)[0] == half and not interrupted:
            interrupted.append(event)
            os.kill(os.getpid(), signal.SIGINT)

    interrupted: list[Event] = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=f"raysweep continue {sweep.id}"):
        continue_one_by_one(root, sweep.id, interrupt)
    assert interrupted
    assert signal.getsignal(signal.SIGINT) == before
    assert missing not in sweep.experiments()
    continued = continue_one_by_one(root, sweep.id)
    assert not continued.failed
    assert {n: weights_hash(e) for n, e in continued.experiments.items()} == hashes
    assert {n: fingerprint(continued.experiments[n].folder) for n in whole} == whole
    assert all(b.status == "finished" for b in sweep.record().branches)


def continue_one_by_one(root: Path, reference: str, progress=ignore) -> SweepResult:
    """Continue a sweep with one branch at a time, so that the others have not begun when the first one has."""
    from raysweep.launch.sweep import resume as resume_sweep
    from raysweep.plan import capacity

    with pytest.MonkeyPatch.context() as patch:
        settle = capacity.settle
        patch.setattr(capacity, "settle", lambda *args: min(1, settle(*args)))
        return resume_sweep.continue_sweep(Root.open(root), reference, progress=progress)


def test_fewer_threads_than_the_parent_are_told(swept):

    root, parent, _, _, _ = swept
    if os.cpu_count() == 1:
        pytest.skip("one CPU: there is only one number of threads")
    from raysweep.plan.types import SweepRequest

    plan = sweep_plan.plan_sweep(SweepRequest(Root.open(root), f"{parent.id}@1", grids.check(GRID), threads=2))
    told = [n for n in plan.base.notes if n.inexact]  # the others tell the learning rate
    assert told == [Note("not bit-exact: 2 threads instead of 1", inexact=True)]


FAILING_SEED = int(np.random.SeedSequence([1, 99, 0, 0]).generate_state(1, np.uint64)[0]) % 2**63


def fails_with_seed_1(num_classes: int, channels: int, widths: object, dropout: float) -> nn.Module:
    """The training seeds torch with its own seed before it builds a network: only that of seed 1 fails."""
    import torch

    from raysweep.training import models

    if torch.initial_seed() == FAILING_SEED:
        raise ArithmeticError("this branch is unwell")
    return models.cnn(num_classes, channels, (4, 4, 8, 8))


@pytest.mark.slow
def test_one_branch_that_fails_does_not_stop_the_others(ray_cluster, tmp_path):
    parent = parent_in(tmp_path, model={"name": f"python:{__name__}:fails_with_seed_1", "options": DROPOUT})
    grid = {"weights": {"3": [4.0]}, "seeds": [0, 1], "epochs": 1}
    result, events = run_sweep(tmp_path, f"{parent.id}@1", grid, name="s")
    assert set(result.failed) == {"control-seed1", "3=4-seed1"}
    ends = {e.branch: e.event for e in events if isinstance(e, BranchEvent) and isinstance(e.event, BranchEnded)}
    for name, end in ends.items():
        assert end.traceback_file == (str(result.sweep.traceback(name)) if name in result.failed else "")
    text = (result.sweep.folder / "tracebacks" / "3=4-seed1.txt").read_text()
    assert "in fails_with_seed_1\n" in text
    assert "ArithmeticError: this branch is unwell" in text
    assert all("this branch is unwell" in reason for reason in result.failed.values())
    statuses = {b.name: b.status for b in result.sweep.record().branches}
    assert statuses == {
        "control-seed0": "finished",
        "3=4-seed0": "finished",
        "control-seed1": "failed",
        "3=4-seed1": "failed",
    }
    assert "this branch is unwell" in (result.experiments["3=4-seed1"].folder / "experiment_changes.log").read_text()


@pytest.mark.long
@pytest.mark.slow
def test_a_search_with_early_stopping_and_its_continuation(swept):
    from raysweep.launch.sweep.resume import continue_sweep

    root, parent, *_ = swept
    # Two ranges, one of choices among which the control's weight is not.
    ranges = {"3": {"log_uniform": [1, 8]}, "8": {"choice": [0.5, 2.0]}}
    search = {"algorithm": "optuna", "num_samples": 4, "ranges": ranges}
    grid = {"search": search, "scheduler": "asha", "epochs": 2, "metric": "val_acc"}
    result, _ = run_sweep(root, f"{parent.id}@1", grid, name="search")
    assert not result.failed
    branches = result.sweep.record().branches
    assert sum(b.searched for b in branches) == 4
    assert all(b.status == "finished" for b in branches)
    assert result.experiments["control"].entries()[-1].epoch == 3  # never stopped early
    for name, experiment in result.experiments.items():
        last = json.loads((experiment.folder / "lineage.jsonl").read_text().splitlines()[-1])
        epochs = [e.epoch for e in experiment.entries()]
        assert last["type"] == "FINISHED"
        assert (epochs == [2, 3]) == ("stopped_early" not in last), name
        assert 1 <= experiment.config().sampling_weights["3"] <= 8
    told: list[Event] = []
    continue_sweep(Root.open(root), "search", progress=told.append)
    assert any("nothing to do" in e.text for e in told if isinstance(e, Note))


def test_branches_of_two_workers_are_planned_as_such(swept):
    """They train in the slow test below; two workers without a sweep in test_workers."""
    from raysweep.plan.types import SweepRequest

    root, parent, *_ = swept
    plan = sweep_plan.plan_sweep(
        SweepRequest(Root.open(root), f"{parent.id}@1", grids.check(GRID), workers=2, threads=1)
    )
    assert plan.base.resources.workers == 2
    assert [n.text for n in plan.base.notes if n.inexact] == ["not bit-exact: 2 workers instead of 1"]


@pytest.mark.long
@pytest.mark.slow
def test_branches_of_two_workers_train_on_nested_ray_workers(ray_cluster, tmp_path):
    parent = parent_in(tmp_path, training={"epochs": 1})
    grid = {"weights": {"3": [4.0]}, "control": False, "epochs": 1}
    result, _ = run_sweep(tmp_path, f"{parent.id}@1", grid, name="s", workers=2, threads=1)
    assert not result.failed
    (experiment,) = result.experiments.values()
    assert experiment.config().world_size == 2
    assert experiment.status() == "finished"
    log = (experiment.folder / "experiment_changes.log").read_text()
    assert "not bit-exact: 2 workers instead of 1" in log


TWO = {"weights": {"3": [4.0, 2.0]}, "epochs": 4}  # long enough for a signal to find the last branch at work


@pytest.fixture(scope="module")
def undisturbed(ray_cluster, tmp_path_factory):
    """A parent and the hashes of a whole sweep of it."""
    root = tmp_path_factory.mktemp("undisturbed")
    parent = parent_in(root)
    whole, _ = run_sweep(root, f"{parent.id}@1", TWO, name="whole")
    assert len(whole.experiments) == 3
    return root, parent, {name: weights_hash(e) for name, e in whole.experiments.items()}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_sweep_that_is_killed_or_interrupted_loses_nothing(undisturbed, tmp_path, number):
    """A signal to the driver in the middle of a sweep, then continue: the bits of the undisturbed sweep."""
    from raysweep.launch.sweep.resume import continue_sweep

    root, parent, hashes = undisturbed
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(TWO))
    name = f"broken{int(number)}"
    options = ["branch", "--from", f"{parent.id}@1", "--weights-grid", str(tmp_path / "grid.yaml"), "--name", name]
    process = subprocess.Popen(
        [sys.executable, "-m", "raysweep", *options, "--max-concurrent", "1", "--root", str(root)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("3=4  epoch 2"):
            process.send_signal(number)
            break
    told = process.stderr.read()
    code = process.wait()
    broken = resolve.find_sweep(Root.open(root), name)
    if number == signal.SIGINT:
        assert code == 130
        assert f"raysweep continue {broken.id}" in told.strip().splitlines()[-1]
    deadline = time.monotonic() + 120
    while any(e.status() == "running" for e in broken.experiments().values()) and time.monotonic() < deadline:
        time.sleep(0.5)  # Ray ends the actors of a driver that is gone
    done = {n for n, e in broken.experiments().items() if e.status() == "finished"}
    assert "control" in done
    assert len(done) < 3
    kept = fingerprint(broken.experiments()["control"].folder)
    continued = continue_sweep(Root.open(root), name)
    assert fingerprint(continued.experiments["control"].folder) == kept
    assert {n: weights_hash(e) for n, e in continued.experiments.items()} == hashes
