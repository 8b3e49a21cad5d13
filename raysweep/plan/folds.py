"""Plan a k-fold sweep: a parent for each fold, after the settings of a checkpoint, and the same sweep from each.

A network knows the images that it was trained on, so one parent cannot serve several folds: each has a parent that was never shown
the fold's validation images. Images that are sealed stay so in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from raysweep._text import Nested
from raysweep.config import load as load_config
from raysweep.config.grid import Grid, GridData
from raysweep.data.roles import words
from raysweep.errors import CheckpointError, ConfigError
from raysweep.events import Progress, ignore
from raysweep.plan import experiment as experiment_plan
from raysweep.plan import parent as parents
from raysweep.plan.sweep import plan_sweep, title
from raysweep.plan.types import Parent, Plan, SweepPlan, SweepRequest
from raysweep.store import sweep as sweeps
from raysweep.store.experiment import Experiment
from raysweep.store.records import ParentRef


@dataclass(frozen=True)
class FoldsPlan:
    """A k-fold sweep that was checked; nothing of it exists yet.

    ``sweep``: the same sweep from the checkpoint itself, by which branches and resources were checked. ``parents``: of each fold.
    ``request``: what is asked of each fold's sweep.
    """

    name: str
    checkpoint: ParentRef
    sweep: SweepPlan
    parents: tuple[Plan, ...]
    request: SweepRequest

    @property
    def epochs(self) -> int:
        """Of each parent."""
        return self.parents[0].settings.training.epochs


def plan_folds(request: SweepRequest, progress: Progress = ignore, writable: bool = True) -> FoldsPlan:
    """Check a k-fold sweep: that each fold has a parent, and that the sweep could start from each.

    Raises:
        InputError: what is wrong and what to do.
    """
    folds = request.grid.data.folds
    assert folds is not None
    root = request.root.resolved()
    parent = parents.read_parent(root, request.checkpoint, request.overrides, trust=request.trust)
    _check(parent)
    each = replace(request, root=root, grid=without_folds(request.grid))
    sweep = plan_sweep(each, progress, writable)
    name = request.name or title(parent, "sweep", sweep_name("", folds))
    sweeps.check_sweep_name(sweep_name(name, folds))
    plans = tuple(
        plan_parent(parent_settings(parent, folds, fold), name, root.address, sweep, progress, writable)
        for fold in range(1, folds + 1)
    )
    training = sweep.base.settings.training
    over = load_config.merge(dict(request.overrides or {}), {"training": {"patience": training.patience}})
    each = replace(
        each, name=name, epochs=training.epochs, threads=request.threads or sweep.base.resources.threads, overrides=over
    )
    return FoldsPlan(name, parent.record(), sweep, plans, each)


def without_folds(grid: Grid) -> Grid:
    """What the sweep of one fold does."""
    return grid.model_copy(update={"data": GridData.model_validate({})})


def sweep_name(name: str, fold: int) -> str:
    return f"{name}-fold{fold}"


def _check(parent: Parent) -> None:
    """Raises InputError if no parents can be trained after a checkpoint."""
    what = f"{parent.experiment}@{parent.epoch}"
    if not parent.own:
        raise CheckpointError(
            f"A k-fold sweep trains parents after the settings of {what}, but there is no record that you made it. Train it here first."
        )
    if parent.batch:
        raise CheckpointError(f"{parent.path} was saved within an epoch; a k-fold sweep needs one at an epoch's end.")
    config = Experiment(parent.path.parent).config()
    if config.parent is not None:
        raise CheckpointError(
            f"{what} is a child of {config.parent.reference}. A k-fold sweep trains the parent of each fold from the beginning, so take a "
            "checkpoint that was trained in one run (`raysweep run`)."
        )
    if parent.settings.data.val == words.TEST or parent.settings.data.max_val is not None:
        raise ConfigError(
            f"{what} was trained with data.val=test or data.max_val; in k-fold each training image is for validation once, and test images "
            "stay sealed. Train it without them."
        )
    if parent.settings.data.folds is not None:
        raise ConfigError(
            f"{what} was trained for one fold itself. Take a checkpoint that was trained without data.fold."
        )


def parent_settings(parent: Parent, folds: int, fold: int) -> Mapping[str, Any]:
    """The settings after which a fold's parent is trained: those of the checkpoint, to its epoch, with the same learning rates."""
    settings = parent.settings
    before = settings.training
    scaling: Nested = {"address": None}
    if parent.threads is not None and settings.scaling.threads == "auto":
        scaling["threads"] = parent.threads
    own: Nested = {
        "data": {"folds": folds, "fold": fold, "val": words.SPLIT, "classes": list(parent.classes)},
        "training": {
            "epochs": parent.epoch,
            "schedule_epochs": before.schedule_epochs or parent.last_epoch,
            "patience": None,
        },
        "scaling": scaling,
    }
    return load_config.merge(settings.model_dump(mode="json"), own)


def plan_parent(
    settings: Mapping[str, Any],
    name: str,
    root: str,
    sweep: SweepPlan | None,
    progress: Progress,
    writable: bool = True,
) -> Plan:
    """The plan of a fold's parent.

    Args:
        settings: as :func:`parent_settings` makes them.
        sweep: whose trust it has; None: the settings were approved.
    """
    fold = settings["data"]["fold"]
    told = f"Parent of fold {fold} of {settings['data']['folds']} of {name}"
    own = {"experiment": {"name": f"{name}-parent{fold}", "description": told}, "root": root}
    checked = load_config.validate(load_config.merge(dict(settings), own), "the settings of a fold's parent")
    trusted = sweep is None or sweep.base.trusted
    return experiment_plan.plan_experiment(checked, progress, writable, trusted=trusted)
