"""Run a k-fold sweep: fold by fold its parent, then the sweep from it. Each is an ordinary experiment or sweep."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from raysweep.cluster import signals
from raysweep.config import foreign
from raysweep.config import grid as grids
from raysweep.config import load as load_config
from raysweep.errors import Interrupted, StoreError, TrainingError
from raysweep.events import (
    BranchEnded,
    BranchEvent,
    BranchStarted,
    Event,
    ExperimentStarted,
    Note,
    Progress,
    SweepStarted,
    ignore,
)
from raysweep.launch import run as launching
from raysweep.launch.resume import continue_experiment
from raysweep.launch.sweep import driver
from raysweep.launch.sweep.resume import continue_sweep
from raysweep.plan.folds import FoldsPlan, plan_parent, sweep_name
from raysweep.plan.resources import AS_BEFORE, ResourceOverrides
from raysweep.plan.sweep import plan_sweep, with_resources
from raysweep.plan.types import SweepRequest
from raysweep.report import effects_csv
from raysweep.report import folds as reporting
from raysweep.report.comparison import Comparison
from raysweep.store import folds as store
from raysweep.store import layout
from raysweep.store import trust as trusting
from raysweep.store.commands import continue_command
from raysweep.store.experiment import FINISHED, Experiment
from raysweep.store.folds import FoldPart, Folds, FoldsRecord
from raysweep.store.lock import WriterLock
from raysweep.store.sweep import Sweep
from raysweep.store.trust import NOBODY, Origin, Trust
from raysweep.trackers import credentials


@dataclass(frozen=True)
class FoldsResult:
    """A k-fold sweep that ended. ``comparison`` is None where nothing can be compared; a note has said why."""

    folds: Folds
    comparison: Comparison | None


@dataclass(frozen=True)
class _How:
    """With which resources and whose approval to go on."""

    steal: bool = False
    asked: ResourceOverrides = AS_BEFORE
    trust: Trust = NOBODY


def run(plan: FoldsPlan, progress: Progress = ignore) -> FoldsResult:
    """Make the folder of a k-fold sweep and train all of it.

    Raises:
        Interrupted: a signal asked to stop. RaysweepError: a parent or a branch failed; the others are complete.
    """
    told = credentials.keep(plan.sweep.base.settings.trackers)
    if told is not None:
        progress(told)
    now = datetime.now()
    folds = store.create(plan.request.root, plan.name, now)
    record = _record(plan, folds.id, now)
    problem = trusting.remember_made(folds.id, dict(record.settings))
    if problem:
        progress(Note(problem))
    lock = WriterLock.acquire(folds.folder)
    try:
        folds.write_record(record)
        return _train(folds, _How(trust=plan.request.trust), progress)
    finally:
        lock.release()


def continue_folds(
    folds: Folds,
    *,
    steal: bool = False,
    asked: ResourceOverrides = AS_BEFORE,
    progress: Progress = ignore,
    trust: Trust = NOBODY,
) -> FoldsResult:
    """Finish a k-fold sweep: what is finished stays, what has begun goes on, what is missing starts.

    Raises:
        UntrustedError: it names code or places that nobody has approved. LockedError: it is running.
        Interrupted, or what :func:`run` raises.
    """
    origin = Origin(folds.folder, folds.folder, folds.root, (folds.id,))
    kinds = (foreign.code, foreign.places)
    trusting.settle(trust, origin, dict(folds.record().settings), asked.named(), kinds)
    _settle_texts(folds, asked, trust)
    lock = WriterLock.acquire(folds.folder, steal)
    try:
        return _train(folds, _How(steal, asked, trust), progress)
    finally:
        lock.release()


def _settle_texts(folds: Folds, asked: ResourceOverrides, trust: Trust) -> None:
    """Code of a notebook, of which a parent that has begun keeps the text, is asked for, and used for all folds."""
    known = [folds.root.path / part.parent for part in folds.record().parts if part.parent is not None]
    for folder in [folder for folder in known if folder.is_dir()][:1]:
        experiment = Experiment(folder, folds.root)
        config = experiment.config()
        origin = Origin(folder, folder, folds.root, (experiment.id,), tuple(config.all_code))
        trusting.settle(trust, origin, config.settings or {}, asked.named())


def _record(plan: FoldsPlan, identifier: str, now: datetime) -> FoldsRecord:
    """What ``folds.json`` says before anything has run: enough to continue after any kill."""
    request = plan.request
    over = dict(request.overrides or {})
    if "trackers" in over:  # without credentials
        over["trackers"] = plan.sweep.base.settings.model_dump(mode="json")["trackers"]
    return FoldsRecord(
        id=identifier,
        name=plan.name,
        description=request.description,
        timestamp=now.strftime(layout.TIME_FORMAT),
        checkpoint=plan.checkpoint,
        parent_epochs=plan.epochs,
        settings=plan.parents[0].settings.model_dump(mode="json"),
        grid=request.grid.model_dump(mode="json"),
        request={
            "epochs": request.epochs,
            "threads": request.threads,
            "workers": request.workers,
            "address": request.address,
            "max_concurrent": request.max_concurrent,
            "in_process": request.in_process,
            "gpus_per_branch": request.gpus_per_branch,
            "fresh_optimizer": request.fresh_optimizer,
            "reset_head": request.reset_head,
            "overrides": over,
        },
        parts=tuple(FoldPart(fold) for fold in range(1, len(plan.parents) + 1)),
    )


def _train(folds: Folds, how: _How, progress: Progress) -> FoldsResult:
    failed: list[str] = []
    again = continue_command(folds.root, folds.id)
    try:
        with signals.part_of(again):
            for part in folds.record().parts:
                parent = _parent(folds, part, how, progress)
                failed += _sweep(folds, part, parent, how, progress)
    except Interrupted as stopped:
        raise Interrupted(
            f"Stopped by {stopped.reason}; what had begun has its checkpoint. Go on with: {again}", stopped.reason
        ) from None
    if failed:
        raise TrainingError(
            f"Branches failed: {', '.join(failed)}; the others are complete. Run the failed ones again with: {again}"
        )
    comparison, problem = reporting.try_compare(folds)
    if comparison is not None:
        effects_csv.write(comparison, folds.folder / layout.EFFECTS_CSV)
    if problem is not None:
        progress(Note(problem))
    return FoldsResult(folds, comparison)


def _parent(folds: Folds, part: FoldPart, how: _How, progress: Progress) -> Experiment:
    """The trained parent of a fold."""
    record = folds.record()
    name = f"parent{part.fold}"

    def tell(event: Event) -> None:
        if isinstance(event, ExperimentStarted):
            folds.note(part.fold, parent=event.id)
        progress(BranchEvent(name, event))

    known = None if part.parent is None else Experiment(folds.root.path / part.parent, folds.root)
    if known is not None and known.folder.is_dir() and known.status() == FINISHED:
        return known
    progress(BranchEvent(name, BranchStarted()))
    if known is not None and known.folder.is_dir():
        result = continue_experiment(
            folds.root, known, steal=how.steal, asked=how.asked, progress=tell, trust=how.trust
        )
    else:
        settings = load_config.merge(store.settings_of(record, part.fold), how.asked.named())
        result = launching.run(plan_parent(settings, record.name, folds.root.address, None, tell), tell)
    progress(BranchEvent(name, BranchEnded("finished")))
    return result.experiment


def _sweep(folds: Folds, part: FoldPart, parent: Experiment, how: _How, progress: Progress) -> list[str]:
    """Train the sweep of a fold; returns the branches that failed, with the fold."""

    def tell(event: Event) -> None:
        if isinstance(event, SweepStarted):
            folds.note(part.fold, sweep=event.id)
        progress(event)

    known = None if part.sweep is None else Sweep(folds.root.path / layout.SWEEPS / part.sweep, folds.root)
    if known is not None and (known.folder / layout.SWEEP).is_file():
        if all(b.status == FINISHED for b in known.record().branches):
            return []
        result = continue_sweep(folds.root, known, steal=how.steal, asked=how.asked, progress=tell, trust=how.trust)
    else:
        result = driver.run(plan_sweep(_request(folds, part.fold, parent, how), tell), tell)
    return [f"{name} of fold {part.fold}" for name in result.failed]


def _request(folds: Folds, fold: int, parent: Experiment, how: _How) -> SweepRequest:
    """What is asked of a fold's sweep.

    Raises:
        StoreError: ``folds.json`` lacks something. ConfigError: a range of workers is asked for.
    """
    record = folds.record()
    try:
        made = SweepRequest(
            folds.root,
            f"{parent.id}@{record.parent_epochs}",
            grids.check(dict(record.grid), str(folds.folder / layout.FOLDS)),
            name=sweep_name(record.name, fold),
            description=record.description,
            trust=how.trust,
            **dict(record.request),
        )
    except TypeError as error:
        raise StoreError(f"{folds.folder / layout.FOLDS} is damaged ({error}). Restore it from a copy.") from None
    return with_resources(made, how.asked)
