"""Finish a sweep from ``sweep.json`` and the branches' own folders, however it ended."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raysweep._text import Nested
from raysweep.cluster import signals
from raysweep.config import cells, foreign
from raysweep.config import grid as grids
from raysweep.config import load as load_config
from raysweep.config.grid import Point
from raysweep.errors import (
    CheckpointError,
    Interrupted,
    NotFoundError,
    RaysweepError,
    StoreError,
    WeightsError,
)
from raysweep.events import BranchEnded, BranchEvent, Note, Progress, ignore
from raysweep.launch.resume import continue_experiment
from raysweep.launch.sweep import driver as sweeping
from raysweep.launch.sweep import early, race
from raysweep.launch.sweep import tune as tuning
from raysweep.launch.sweep.driver import SweepResult
from raysweep.launch.sweep.more_seeds import MoreSeeds, extended
from raysweep.launch.sweep.tracebacks import Tracebacks
from raysweep.plan import sweep as sweep_plan
from raysweep.plan.resources import AS_BEFORE, ResourceOverrides
from raysweep.plan.types import SweepPlan, SweepRequest
from raysweep.store import experiment as experiments
from raysweep.store import layout, resolve
from raysweep.store import trust as trusting
from raysweep.store.commands import continue_command
from raysweep.store.lock import WriterLock
from raysweep.store.records import ParentRef
from raysweep.store.records_sweep import BranchRecord, SweepRecord
from raysweep.store.results import refresh
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep
from raysweep.store.trust import NOBODY, Origin, Trust
from raysweep.trackers.dispatch import catch_up

# The keys that sweep.json needs for a sweep to be continued.
_NEEDED = (
    *("name", "description", "parent", "epochs", "threads", "workers"),
    *("gpus_per_branch", "max_concurrent", "settings", "grid"),
)


def continue_sweep(
    root: Root,
    reference: str | Sweep,
    *,
    steal: bool = False,
    asked: ResourceOverrides = AS_BEFORE,
    progress: Progress = ignore,
    trust: Trust = NOBODY,
    more: MoreSeeds | None = None,
) -> SweepResult:
    """Finish a sweep: finished branches stay, unfinished ones continue from their newest checkpoint, missing ones start.

    Args:
        more: seeds to add to every branch and to the control first.
        asked: other resources for the branches that are left; branches that trained with others are not bit-exact
            with them, as their logs say.
        trust: whether what its configuration names may run.

    Raises:
        NotFoundError: no such sweep. UntrustedError: it names code or places that nobody has approved. LockedError: it is running. Interrupted, or what :func:`run` raises.
    """
    sweep = reference if isinstance(reference, Sweep) else resolve.find_sweep(root, reference)
    trust = _allowed(sweep, asked, trust)
    signals.remember(continue_command(sweep.root, sweep.id))
    lock = WriterLock.acquire(sweep.folder, steal)
    try:
        record = refresh(sweep)
        record = record if more is None else extended(record, more)
        try:
            plan, points = _plan_again(sweep, record, asked, progress, trust)
        except NotFoundError as error:
            if more is not None:
                raise
            return _without_parent(sweep, record, str(error), steal, asked, progress, trust)
        if more is not None:
            sweep.write_record(record)
        sweeping.remember_made(plan, sweep.original_id)
        if not points and not tuning.samples_left(plan.grid, record) and not race.undecided(record):
            comparison = sweeping.write_effects(sweep, progress)
            catch_up(sweep.experiments().values(), progress)
            progress(Note(f"{sweep.id} has all its branches; there is nothing to do."))
            return SweepResult(sweep, sweep.experiments(), {}, comparison)
        with sweeping.connected(plan, progress), sweeping.room(plan, progress) as count:
            return sweeping.train_branches(sweep, plan, points, count, progress, steal=steal)
    finally:
        lock.release()


def _allowed(sweep: Sweep, asked: ResourceOverrides, trust: Trust) -> Trust:
    """The decision on the sweep and all its branches, as the processes that train them get it.

    Raises:
        UntrustedError: ``sweep.json`` or a branch names something that nobody has approved.
    """
    kinds, own = (foreign.code, foreign.places), sweep.original_id
    record = sweep.record()
    here = Origin(sweep.folder, sweep.folder, sweep.root, (own, sweep.id))
    stored = [(here, record.settings or {})]
    stored += [(here, cells.nested(b.settings)) for b in record.branches if b.settings]
    for e in sweep.experiments().values():
        config = e.config()
        origin = Origin(e.folder, e.folder, sweep.root, (e.id, own), tuple(config.all_code))
        stored.append((origin, config.settings or {}))
    for origin, settings in stored:
        trusting.settle(trust, origin, settings, asked.named(), kinds)
        code = [one for one in origin.code if trusting.is_approved(trust, origin, one)]
        approved = trust.handed_on(settings, load_config.merge(settings, asked.named()), code=code)
        trust = replace(trust, approved=approved.approved)
    return trust.handed_on()


def _without_parent(
    sweep: Sweep,
    record: SweepRecord,
    why: str,
    steal: bool,
    asked: ResourceOverrides,
    progress: Progress,
    trust: Trust,
) -> SweepResult:
    """The parent's checkpoint is gone: branches that have a checkpoint of their own are finished without it, one after another.

    Raises:
        NotFoundError: no branch has one.
    """
    found = sweep.experiments()
    left = [b.name for b in record.branches if b.status != experiments.FINISHED]
    able = {name: e for name in left if (e := found.get(name)) is not None and e.newest_good()[0] is not None}
    if not able:
        raise NotFoundError(why)
    progress(Note(f"{why} Branches that have a checkpoint of their own go on without it."))
    failed = {name: why for name in left if name not in able}
    tell = Tracebacks(sweep, progress)
    for name, experiment in able.items():
        try:
            continue_experiment(
                sweep.root,
                str(experiment.folder),
                steal=steal,
                asked=asked,
                progress=lambda event, name=name: tell(BranchEvent(name, event)),  # type: ignore[misc]
                trust=trust,
                until=record.trained_to,
            )
        except Interrupted:
            refresh(sweep, failed)
            raise
        except RaysweepError as error:
            failed[name] = str(error)
            tell(BranchEvent(name, BranchEnded("failed", str(error), traceback.format_exc())))
    refresh(sweep, failed)
    return SweepResult(sweep, sweep.experiments(), failed, sweeping.write_effects(sweep, progress))


def _plan_again(
    sweep: Sweep, record: SweepRecord, asked: ResourceOverrides, progress: Progress, trust: Trust
) -> tuple[SweepPlan, list[Point]]:
    """The plan that ``sweep.json`` describes, and the branches that are not finished; where it is not yet decided how long they train,
    also the controls.

    Raises:
        StoreError: ``sweep.json`` lacks something. RaysweepError: as :func:`plan_sweep`.
    """
    sweep_plan.refuse_range(asked)
    left = [b for b in record.branches if b.status != experiments.FINISHED or b in _may_go_on(record)]
    parent = _parent_record(sweep, record, left)
    try:
        request = sweep_plan.with_resources(_request(sweep, record, parent, trust), asked)
        plan = sweep_plan.plan_sweep(request, progress)
        points = _points(sweep, left, plan.parent.classes)
        plan = sweep_plan.with_bases(plan, request, points)
    except RaysweepError as error:
        raise type(error)(f"{sweep.id} cannot go on: {error}") from None
    except KeyError as error:
        raise StoreError(f"{sweep.folder / layout.SWEEP} lacks {error}. Restore it from a copy.") from None
    if plan.parent.sha256 != parent.sha256:
        raise CheckpointError(
            f"{sweep.id} cannot go on: {plan.parent.path} is not the checkpoint it started from (its SHA-256 is "
            f"{plan.parent.sha256[:12]}…, not {str(parent.sha256)[:12]}…). Restore the file from a copy."
        )
    return plan, points if record.trained_to is None else early.to_train(sweep, record, points)


def _may_go_on(record: SweepRecord) -> list[BranchRecord]:
    """Finished branches that may have to train as long as a longer control."""
    patient = (record.settings.get("training") or {}).get("patience") is not None
    return early.controls(record.branches) if patient else []


def _parent_record(sweep: Sweep, record: SweepRecord, left: Sequence[BranchRecord]) -> ParentRef:
    """What ``sweep.json`` says of the parent.

    Raises:
        StoreError: it lacks something without which the sweep cannot be continued; the message names all of it.
    """
    parent = record.parent
    lacking = record.lacks(*_NEEDED)
    lacking += [f"parent.{key}" for key in ("file", "sha256") if parent and getattr(parent, key) is None]
    lacking += ["branches.seed"] * any(b.seed is None for b in left)
    if lacking or parent is None:
        raise StoreError(
            f"{sweep.folder / layout.SWEEP} lacks {', '.join(lacking) or 'parent'}. Restore it from a copy."
        )
    return parent


def _request(
    sweep: Sweep,
    record: SweepRecord,
    parent: ParentRef,
    trust: Trust,
) -> SweepRequest:
    """The request that the sweep was made by.

    Raises:
        RaysweepError: the grid is wrong. KeyError: a setting is missing.
    """
    assert parent.file is not None  # _parent_record has checked it
    file = Root.locate(parent.file, opens=False)
    return SweepRequest(
        sweep.root,
        str(file) if file.is_file() else parent.reference,
        grids.check(dict(record.grid), str(sweep.folder / layout.SWEEP)),
        name=record.name,
        description=record.description or "",
        epochs=record.epochs,
        threads=record.threads,
        workers=record.workers,
        address=record.settings["scaling"]["address"],
        max_concurrent=record.max_concurrent,
        in_process=record.in_process,
        gpus_per_branch=record.gpus_per_branch or None,
        fresh_optimizer=record.fresh_optimizer,
        reset_head=record.reset_head,
        overrides=_overrides(record.settings, parent, record.epochs),
        trust=trust,
    )


def _points(sweep: Sweep, left: Sequence[BranchRecord], classes: Sequence[str]) -> list[Point]:
    """The branches that are not finished.

    Raises:
        StoreError: the weights of one do not fit the classes.
    """
    try:
        return race.points(left, classes)
    except WeightsError as error:
        raise StoreError(f"{sweep.folder / layout.SWEEP}: {error} Restore it from a copy.") from None


def _overrides(settings: Mapping[str, Any], parent: ParentRef, epochs: int | None) -> Nested:
    """A sweep's settings as overrides of its parent's; what each branch sets for itself is left out."""
    kept = {
        k: dict(v) if isinstance(v, Mapping) else v
        for k, v in settings.items()
        if k not in ("root", "seed", "experiment")
    }
    kept["sampling"].pop("weights")
    kept["training"].pop("epochs")
    fork, at = kept["training"].pop("fork", None), parent.epoch or 0
    if fork and (fork["start"], fork["end"]) == (
        at,
        at + (epochs or 0),
    ):  # its own, and not one that the parent has inherited
        kept["training"]["fork"] = {"schedule": fork["schedule"]}
    kept["scaling"] = {k: v for k, v in kept["scaling"].items() if k not in ("address", "num_workers", "threads")}
    return kept
