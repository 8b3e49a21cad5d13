"""Make an experiment's folder, train it, record how it ended, and write the derived files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from raysweep.errors import Interrupted, RaysweepError, TrainingError
from raysweep.events import Drawing, ExperimentFinished, ExperimentStarted, Progress, ignore
from raysweep.launch.workers import retry
from raysweep.plan.child import _keeps_position, changed_settings
from raysweep.plan.experiment import cache_dir
from raysweep.plan.resources import Resources
from raysweep.plan.types import Parent, Plan
from raysweep.store import experiment as experiments
from raysweep.store import layout, lineage
from raysweep.store.commands import continue_command
from raysweep.store.experiment import Experiment
from raysweep.store.lock import WriterLock
from raysweep.store.records import ExperimentConfig
from raysweep.store.root import Root
from raysweep.training.job import Job, Outcome


def start_fields(plan: Plan, parent: Parent) -> dict[str, Any]:
    """The parts of a child's :class:`~raysweep.training.job.Job` that say how it starts."""
    return {
        "start": str(parent.path),
        "first_epoch": parent.epoch + 1,
        "last_epoch": parent.epoch + plan.settings.training.epochs,
        "fresh_optimizer": plan.fresh_optimizer,
        "keep_rng": plan.settings.seed == parent.settings.seed,
        "keep_position": parent.batch > 0 and _keeps_position(parent, plan),
        "parent": parent.record().to_json(),
    }


def record_start(plan: Plan, parent: Parent, experiment: Experiment) -> None:
    """The events that tie a child to its parent."""
    lineage.record(
        experiment.folder,
        lineage.RESUME,
        checkpoint=Root.address_of(parent.path),
        experiment=parent.experiment,
        epoch=parent.epoch,
        batch=parent.batch or None,
        sha256=parent.sha256,
        optimizer="fresh" if plan.fresh_optimizer else None,
        given=parent.given or None,
    )
    change = plan.ratio_change
    if change is not None:
        lineage.record(experiment.folder, lineage.RATIO, **change.to_event())
    changed = changed_settings(parent, plan.settings)
    if changed:
        lineage.record(experiment.folder, lineage.CONFIGURATION, changes=changed)
    for note in plan.notes:
        if not note.inexact:  # the training itself says that, and all of it
            lineage.record(experiment.folder, lineage.NOTE, text=note.text)


Launch = Callable[[Job, Resources, Progress], Outcome]  # a way to start the training function


@dataclass(frozen=True)
class Result:
    """A finished run."""

    experiment: Experiment
    best_acc: float


def start(plan: Plan, launch: Launch, progress: Progress = ignore, **of_sweep: Any) -> Result:
    """Make the folder of a plan whose resources are settled, and train it by ``launch``.

    Args:
        of_sweep: ``sweep`` (its id) and ``branch`` (name, control, seed) of a branch, for its configuration.
    """

    now = datetime.now()
    experiment = experiments.create(plan.root, plan.settings.experiment.name, now)
    lock = WriterLock.acquire(experiment.folder)
    try:
        job = _new_job(plan, experiment, lock, now, of_sweep)
        lineage.record(
            experiment.folder,
            lineage.START,
            description=plan.settings.experiment.description,
            model=plan.settings.model.name,
            epochs=plan.settings.training.epochs,
            classes=dict(plan.counts),
            new_weights=plan.weights.as_dict(),
            new_shares=plan.shares,
            data_sha256=plan.data.sha256,
            workers=plan.resources.workers,
            threads=plan.resources.threads,
            seed=plan.settings.seed,
            skipped_images=[f"{s['image']} ({s['reason']})" for s in plan.data.skipped] or None,
            sweep=of_sweep.get("sweep"),
        )
        if plan.parent is not None:
            record_start(plan, plan.parent, experiment)
        else:
            for note in plan.notes:
                lineage.record(experiment.folder, lineage.NOTE, text=note.text)
        return execute(job, experiment, plan.resources, launch, progress)
    finally:
        lock.release()


def _new_job(plan: Plan, experiment: Experiment, lock: WriterLock, now: datetime, of_sweep: Mapping[str, Any]) -> Job:
    from raysweep.training import state

    settings = plan.settings
    versions = state.versions()
    flat = settings.flat(
        timestamp=now.strftime(layout.TIME_FORMAT),
        classes=list(plan.data.classes),
        class_counts=plan.counts,
        data_sha256=plan.data.sha256,
        threads=plan.resources.threads,
        world_size=max(1, plan.resources.workers),
        versions=versions,
        parent=plan.parent.record().to_json() if plan.parent else None,
        resume_from_checkpoint=Root.address_of(plan.parent.path) if plan.parent else None,
        fresh_optimizer=plan.fresh_optimizer,
        **of_sweep,
    )
    flat["sampling_weights"] = plan.weights.as_dict()
    experiment.write_config(ExperimentConfig.from_json(flat))
    lineage.open_log(experiment.folder, settings.experiment.name, settings.experiment.description, now)
    first: dict[str, Any] = {"first_epoch": 1, "last_epoch": settings.training.epochs}
    if plan.parent:
        first = start_fields(plan, plan.parent)
    return Job(
        folder=str(experiment.folder.resolve()),
        token=lock.token,
        settings=settings,
        weights=plan.weights,
        cache_dir=str(cache_dir(settings, plan.root).resolve()),
        cache_folder=str(plan.data.folder.resolve()),
        threads=plan.resources.threads,
        use_gpu=plan.resources.use_gpu,
        flat_config=flat,
        versions=versions,
        **first,
    )


def execute(job: Job, experiment: Experiment, fitted: Resources, launch: Launch, progress: Progress) -> Result:
    """Train ``job`` by ``launch``, and write how it ended into the log. The caller holds the lock."""
    folder = Root.address_of(experiment.folder)
    progress(ExperimentStarted(experiment.id, folder, fitted.workers))
    try:
        outcome = launch(job, fitted, progress)
    except Interrupted as error:
        lineage.record(experiment.folder, lineage.INTERRUPTED, reason=str(error))
        if error.reason != "SIGTERM":  # who sends that will not wait long; the pictures are drawn at the end
            with contextlib.suppress(KeyboardInterrupt):
                derive(experiment)
        hint = continue_command(experiment.root, experiment.id)
        raise Interrupted(f"{error} Go on with: {hint}", error.reason) from None
    except SystemExit:  # Ray Tune's scheduler ends a branch early
        raise
    except KeyboardInterrupt:  # before the training looked for signals
        told = "Stopped before training began; nothing was lost."
        lineage.record(experiment.folder, lineage.INTERRUPTED, reason=told)
        raise Interrupted(f"{told} Go on with: {continue_command(experiment.root, experiment.id)}") from None
    except BaseException as error:
        text = str(error) or type(error).__name__
        with contextlib.suppress(RaysweepError):
            lineage.record(
                experiment.folder, lineage.FAILED, reason=f"{type(error).__name__}: {text.splitlines()[0][:2000]}"
            )
        if isinstance(error, RaysweepError):
            raise
        if retry.is_memory(error):
            raise TrainingError(
                f"Training {experiment.id} ran out of memory ({text.splitlines()[0][:300]}). What was committed is in "
                f"{folder}. Choose a smaller training.batch_size, or a smaller model."
            ) from error
        raise TrainingError(
            f"Training {experiment.id} failed: {type(error).__name__}: {text.splitlines()[0][:500]}. What was committed "
            f"is in {folder}. Repeat with --debug for the traceback."
        ) from error
    lineage.record(experiment.folder, lineage.FINISHED, epochs=outcome.epochs, best_acc=outcome.best_acc)
    progress(Drawing())
    derive(experiment)
    progress(ExperimentFinished())
    return Result(experiment, outcome.best_acc)


def derive(experiment: Experiment) -> None:
    """Write report and pictures; they are derived, so trouble with them never fails a run."""
    from raysweep.report import figures

    if not experiment.manifest().ends:  # no epoch has ended: there is nothing to draw
        return
    try:
        figures.write_all(experiment)
    except Exception as error:
        with contextlib.suppress(RaysweepError):
            lineage.record(
                experiment.folder,
                lineage.NOTE,
                text=f"The pictures could not be drawn: {type(error).__name__}: {error}",
            )
