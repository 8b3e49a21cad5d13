"""Plan a sweep: checkpoint, grid, every branch and the resources, checked before anything is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from raysweep.config import grid as grids
from raysweep.config import load as load_config
from raysweep.config.grid import Grid, Point
from raysweep.errors import ConfigError, ResourceError
from raysweep.events import (
    Progress,
    ignore,
)
from raysweep.plan import child
from raysweep.plan import parent as parents
from raysweep.plan import types as plan_types
from raysweep.plan.resources import Resources
from raysweep.plan.types import Plan, SweepPlan
from raysweep.store import layout
from raysweep.store import sweep as sweeps
from raysweep.store.remote import root as remote
from raysweep.store.sweep import experiment_name


def plan_branch(base: Plan, sweep_id: str, point: Point) -> Plan:
    """The plan of one branch, from the plan that all have in common."""
    assert isinstance(base.parent, plan_types.Parent)
    told = f"Control of sweep {sweep_id}" if point.control else f"Branch {point.name} of sweep {sweep_id}"
    return child.vary(
        base, name=experiment_name(sweep_id, point.name), description=told, weights=point.weights, seed=point.seed
    )


def plan_sweep(
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
    place = remote.open_root(root).resolve()
    parent = parents.read_parent(place, reference, overrides)
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
    over = load_config.merge(dict(overrides or {}), {"scaling": scaling})
    title = (
        name
        or f"{parent.experiment.rpartition('_')[0].rpartition('_')[0] or parent.experiment}-sweep"[: sweeps.MAX_NAME]
    )
    sweeps.check_sweep_name(title)
    base = child.plan_child(
        parent,
        remote.root_address(place),
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
