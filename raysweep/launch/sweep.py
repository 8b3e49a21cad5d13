"""Sweeps: from one checkpoint, many branches with other class sampling weights, launched by Ray Tune.

The plan is checked whole before Ray starts. What happened is read from the branches' own folders, never from Tune's
pickled state: a sweep is continued from ``sweep.json`` and the folders alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from raysweep import config as configuration
from raysweep import grid as grids
from raysweep.errors import CheckpointError, ConfigError, Interrupted, ResourceError
from raysweep.grid import Grid, Point
from raysweep.launch import child, places, room, tuning, waiting
from raysweep.launch.branches import Shared, plan_branch
from raysweep.launch.resources import Resources
from raysweep.launch.run import Plan, Progress, continue_command, derive, ignore
from raysweep.launch.trackers.follow import following
from raysweep.store import experiment as experiments
from raysweep.store import files, layout, lineage, mirror
from raysweep.store import sweep as sweeps
from raysweep.store.experiment import Experiment
from raysweep.store.lock import WriterLock
from raysweep.store.results import MISSING
from raysweep.store.sweep import Sweep


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that was checked; nothing of it exists yet."""

    name: str
    description: str
    root: Path
    grid: Grid
    points: list[Point]
    notes: list[str]
    base: Plan  # a child with unchanged weights: what all branches have in common
    gpus_per_branch: float
    max_concurrent: int | None
    branch_bytes: int  # that one branch will write

    @property
    def branches(self) -> int:
        """How many branches there will be, those of a search included."""
        searched = self.grid.search.num_samples or 0 if self.grid.search.algorithm == "optuna" else 0
        return len(self.points) + searched

    def shares(self, point: Point) -> dict[str, float]:
        from raysweep.weights import shares

        return shares(self.base.counts, point.weights)


@dataclass(frozen=True)
class SweepResult:
    """A sweep that ended: its folder, its experiments by branch, and the branches that failed with the reason."""

    sweep: Sweep
    experiments: dict[str, Experiment]
    failed: dict[str, str]


def plan(
    root: str,
    reference: str,
    grid: Grid,
    *,
    name: str | None = None,
    description: str = "",
    epochs: int | None = None,
    threads: int | None = None,
    workers: int | None = None,
    address: str | None = None,
    max_concurrent: int | None = None,
    gpus_per_branch: float | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress = ignore,
    writable: bool = True,
) -> SweepPlan:
    """Check a whole sweep: checkpoint, grid, every branch, resources. Starts nothing and makes nothing.

    Args:
        reference: the checkpoint all branches start from.
        epochs: additional epochs; goes before the grid's.
        threads: of each branch; default: the parent's, so that the control equals the parent to the bit.
        workers: of each branch; default: as many as the parent had, 0 for one.
        gpus_per_branch: a fraction lets several branches share a GPU.

    Raises:
        InputError: what is wrong and what to do.
    """
    place = mirror.open_root(root).resolve()
    parent = child.read_parent(place, reference, overrides)
    points, notes = grids.expand(grid, parent.weights, parent.classes, parent.settings["seed"])
    for wrong in [c for c in grid.search.ranges if c not in parent.classes]:
        raise ResourceError(
            f"search.ranges names class {wrong!r}, which the data do not have: {', '.join(parent.classes)}."
        )
    count = workers if workers is not None else (parent.world_size if parent.world_size > 1 else 0)
    scaling: dict[str, Any] = {"num_workers": count, "address": address}
    if threads is not None:
        scaling["threads"] = threads
    _allowed(overrides or {})
    over = configuration.merge(dict(overrides or {}), {"scaling": scaling})
    title = (
        name
        or f"{parent.experiment.rpartition('_')[0].rpartition('_')[0] or parent.experiment}-sweep"[: sweeps.MAX_NAME]
    )
    sweeps.check_sweep_name(title)
    base = child.plan_child(
        parent,
        mirror.root_address(place),
        name=title,
        epochs=epochs or grid.epochs,
        overrides=over,
        progress=progress,
        writable=writable,
    )
    gpus = gpus_per_branch if gpus_per_branch is not None else (1.0 if base.resources.use_gpu else 0.0)
    if gpus and not base.resources.use_gpu and address is None:
        raise ResourceError("--gpus-per-branch was given, but the branches train on the CPU: torch sees no GPU here.")
    if gpus > 1 and gpus != int(gpus):
        raise ResourceError(f"--gpus-per-branch {gpus:g}: a number above 1 must be whole.")
    if address is not None:
        base = replace(base, resources=_on_a_cluster(base, count, gpus))
    for point in points:  # every branch's settings are valid, and no name is too long
        plan_branch(base, f"{title}_{datetime.now().strftime(layout.TIME_FORMAT)}", point)
    file = parent.path.stat().st_size
    model = base.parameters * 4
    epochs_each = base.settings.training.epochs
    return SweepPlan(
        title, description, place, grid, points, notes, base, gpus, max_concurrent, epochs_each * (file + model)
    )


def _on_a_cluster(base: Plan, workers: int, gpus: float) -> Resources:
    """What a branch asks of a cluster: the parent's threads, and a GPU where one was asked for."""
    scaling, parent = base.settings.scaling, base.parent
    threads = scaling.threads if scaling.threads != "auto" else (parent.threads or 1)
    return Resources(workers, threads, threads, bool(gpus) or scaling.use_gpu is True)


_ELSEWHERE = {
    "seed": "seeds in the grid",
    "root": "--root",
    "sampling.weights": "weights or branches in the grid",
    "scaling.address": "--address",
    "scaling.num_workers": "--workers",
    "scaling.threads": "--threads",
    "training.epochs": "--epochs or epochs in the grid",
    "experiment.name": "--name",
}


def _allowed(overrides: Mapping[str, Any]) -> None:
    """Raises ConfigError for a setting that a sweep decides itself, naming where to say it."""
    for dotted, place in _ELSEWHERE.items():
        section, _, key = dotted.partition(".")
        value = overrides.get(section)
        if section in overrides and (not key or (isinstance(value, Mapping) and key in value)):
            raise ConfigError(f"{dotted} cannot be an override of a sweep, whose branches differ in it. Use {place}.")


def run(the_plan: SweepPlan, progress: Progress = ignore) -> SweepResult:
    """Make the sweep's folder and train its branches.

    Raises:
        Interrupted: a signal asked to stop; every branch that had begun has saved a checkpoint.
        RaysweepError: the sweep could not be started.
    """
    if the_plan.base.settings.scaling.address is None:
        room.at_once(the_plan, room.this_machine())
    scaling = the_plan.base.settings.scaling
    with tuning.connected(scaling.address, progress, the_plan.name) as nodes, waiting.fleet(scaling, progress) as fleet:
        the_plan = room.with_gpus(the_plan, nodes)
        count = room.settle(the_plan, fleet, progress)
        now = datetime.now()
        sweep = sweeps.create(the_plan.root, the_plan.name, now)
        lock = WriterLock.acquire(sweep.folder)
        try:
            sweep.write_plan({"id": sweep.id, **_record(the_plan, now)})
            return train_branches(sweep, the_plan, the_plan.points, count, progress, steal=False)
        finally:
            lock.release()


def _record(the_plan: SweepPlan, now: datetime) -> dict[str, Any]:
    """What ``sweep.json`` says before anything has run: enough to go on after any kill."""
    parent: child.Parent = the_plan.base.parent
    return {
        "format_version": 1,
        "name": the_plan.name,
        "description": the_plan.description,
        "timestamp": now.strftime(layout.TIME_FORMAT),
        "parent": parent.record(),
        "parent_weights": parent.weights,
        "epochs": the_plan.base.settings.training.epochs,
        "threads": the_plan.base.resources.threads,
        "workers": the_plan.base.resources.workers,
        "gpus_per_branch": the_plan.gpus_per_branch,
        "max_concurrent": the_plan.max_concurrent,
        "settings": the_plan.base.settings.model_dump(mode="json"),
        "grid": the_plan.grid.model_dump(mode="json"),
        "notes": the_plan.notes,
        "branches": [
            {
                "name": p.name,
                "control": p.control,
                "seed": p.seed,
                "weights": p.weights,
                "shares": the_plan.shares(p),
                "experiment": None,
                "status": MISSING,
            }
            for p in the_plan.points
        ],
    }


def train_branches(
    sweep: Sweep, the_plan: SweepPlan, points: list[Point], count: int, progress: Progress, steal: bool
) -> SweepResult:
    """Hand the branches to Ray Tune, then settle what it ended without a word, and write results."""
    with following(progress) as follower:
        try:
            return _train_branches(sweep, the_plan, points, count, follower, steal)
        finally:  # also those that were finished before, when the process that tracked them may have been killed
            for experiment in sweep.experiments().values():
                follower.ended(experiment)


def _train_branches(
    sweep: Sweep, the_plan: SweepPlan, points: list[Point], count: int, progress: Progress, steal: bool
) -> SweepResult:
    parent: child.Parent = the_plan.base.parent
    content = files.read_all(parent.path)
    if hashlib.sha256(content).hexdigest() != parent.sha256:
        raise CheckpointError(f"{parent.path} changed while it was read. Is another process writing it?")
    base = replace(places.portable_plan(the_plan.base), resources=room.of_branch(the_plan.base.resources))
    progress(
        {
            "kind": "sweep",
            "id": sweep.id,
            "folder": mirror.address(sweep.folder),
            "branches": [b | {"parent_weights": parent.weights} for b in sweep.plan()["branches"]],
            "first_epoch": parent.epoch + 1,
            "last_epoch": parent.epoch + the_plan.base.settings.training.epochs,
            "at_once": count,
            "queue": room.queue(the_plan, len(points) + tuning.samples_left(the_plan.grid, sweep.plan()), count),
            "notes": [*the_plan.notes, *(n for n in base.notes if n.startswith("not bit-exact"))],
        }
    )
    record = sweep.plan()
    job = tuning.Work(
        sweep=sweep,
        grid=the_plan.grid,
        points=points,
        shared=Shared(
            sweep_folder=mirror.address(sweep.folder),
            base=base,
            points={p.name: p for p in points},
            parent=np.frombuffer(content, np.uint8),
            mailbox=None,
            steal=steal,
            seed=next(iter(the_plan.grid.seeds), None),
            made_as=sweep.made_as,
            known={b["name"]: b.get("experiment") for b in record["branches"]},
        ),
        at_once=count,
        epochs=the_plan.base.settings.training.epochs,
        gpus=the_plan.gpus_per_branch,
        retries=the_plan.base.settings.scaling.max_failures,
        record=record,
    )
    ended = tuning.launch(job, progress)
    _settle(sweep, ended.failed)
    record = sweep.refresh(ended.failed)
    failed = {
        b["name"]: b.get("reason", "it ended without a word")
        for b in record["branches"]
        if b["status"] in ("failed", "dead")
    }
    failed |= {k: v for k, v in ended.failed.items() if k not in failed}
    if ended.stopped is not None:
        raise Interrupted(
            f"Stopped by {ended.stopped}; every branch that had begun has its checkpoint. "
            f"Go on with: {continue_command(sweep.root, sweep.id)}"
        )
    progress({"kind": "sweep_end", "failed": failed})
    write_effects(sweep, progress)
    return SweepResult(sweep, sweep.experiments(), failed)


def write_effects(sweep: Sweep, progress: Progress) -> None:
    """What each branch did to each class, and the report; trouble with that never fails a sweep."""
    from raysweep.report import page

    problem = page.write_all(sweep)
    if problem is not None:
        progress({"kind": "warning", "text": problem})


def _settle(sweep: Sweep, failed: Mapping[str, str]) -> None:
    """Say in the log of a branch that Tune's scheduler ended early that it is finished, since its process could not."""
    if sweep.plan()["grid"]["scheduler"] == "none":
        return
    for name, experiment in sweep.experiments().items():
        if name in failed or experiment.status() != experiments.DEAD:
            continue
        ends = [e for e in experiment.entries() if e.batch is None]
        if ends:
            lock = WriterLock.acquire(experiment.folder)
            try:
                lineage.record(experiment.folder, lineage.FINISHED, epochs=ends[-1].epoch, stopped_early="asha")
                derive(experiment)
            finally:
                lock.release()


def results(sweep: Sweep) -> list[dict[str, Any]]:
    """The rows of ``results.csv`` with numbers as numbers."""
    import csv

    path = sweep.folder / layout.RESULTS
    with files.reading(path), open(path, newline="", encoding="utf-8") as file:
        return [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> Any:
    if text == "":
        return None
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() and math.isfinite(value) and "." not in text else value
