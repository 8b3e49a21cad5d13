"""Make an experiment's folder, train it, record how it ended, and write the derived files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from raysweep import _openmp
from raysweep.cluster import signals
from raysweep.data.roles import record
from raysweep.errors import Interrupted, RaysweepError, TrainingError
from raysweep.events import Drawing, ExperimentFinished, ExperimentStarted, Note, Progress, ignore
from raysweep.label_sets import LabelCounts
from raysweep.launch.workers import retry
from raysweep.plan.child import changed_settings, keeps_position
from raysweep.plan.experiment import cache_dir
from raysweep.plan.resources import Resources
from raysweep.plan.types import Parent, Plan
from raysweep.store import checkpoint, layout, lineage, retention, trust
from raysweep.store import experiment as experiments
from raysweep.store.commands import continue_command
from raysweep.store.experiment import Experiment
from raysweep.store.lock import WriterLock
from raysweep.store.records import BranchRef, ExperimentConfig, Json
from raysweep.store.root import Root
from raysweep.training.job import Job, Outcome
from raysweep.training.patience import WORD, Waited


def new_job(
    plan: Plan, experiment: Experiment, token: str, config: ExperimentConfig, versions: dict[str, str] | None = None
) -> Job:
    """The whole training of an experiment, from new weights; see :func:`as_child`.

    Args:
        token: of the writer's lock.
        versions: of the libraries; default: those of this process.
    """
    from raysweep.training import state

    return Job(
        folder=str(experiment.folder.resolve()),
        token=token,
        settings=plan.settings,
        weights=plan.weights,
        cache_dir=str(cache_dir(plan.settings, plan.root).resolve()),
        cache_folder=str(plan.data.folder.resolve()),
        threads=plan.resources.threads,
        use_gpu=plan.resources.use_gpu,
        first_epoch=config.fork + 1,
        last_epoch=config.fork + plan.settings.training.epochs,
        parent=config.parent,
        config=config,
        versions=state.versions() if versions is None else versions,
        code=plan.code,
        own=plan.own,
        trusted=plan.trusted,
    )


def as_child(job: Job, plan: Plan, parent: Parent) -> Job:
    """``job`` from its parent's checkpoint."""
    return replace(
        job,
        start=str(parent.path),
        first_epoch=parent.epoch + 1,
        last_epoch=parent.epoch + plan.settings.training.epochs,
        fresh_optimizer=plan.fresh_optimizer,
        reset_head=plan.reset_head,
        keep_rng=plan.settings.seed == parent.settings.seed,
        keep_position=parent.batch > 0 and keeps_position(parent, plan),
        parent=parent.record(),
    )


def _events_of_child(plan: Plan, parent: Parent) -> list[tuple[str, Json]]:
    """The events that tie a child to its parent."""
    resume = {
        "checkpoint": Root.address_of(parent.path),
        "experiment": parent.experiment,
        "epoch": parent.epoch,
        "batch": parent.batch or None,
        "sha256": parent.sha256,
        "optimizer": "fresh" if plan.fresh_optimizer else None,
        "reset": "head" if plan.reset_head else None,
        "given": parent.given or None,
    }
    change = plan.ratio_change
    changed = changed_settings(parent, plan.settings)
    return [
        (lineage.RESUME, resume),
        *([(lineage.RATIO, change.to_event())] if change is not None else []),
        *([(lineage.CONFIGURATION, {"changes": changed})] if changed else []),
    ]


def first_events(plan: Plan, sweep: str | None) -> list[tuple[str, Json]]:
    """The events with which the log of an experiment begins: kind and fields."""
    start = {
        "description": plan.settings.experiment.description,
        "model": plan.settings.model.name,
        "epochs": plan.settings.training.epochs,
        "classes": dict(plan.counts),
        "new_weights": plan.weights.as_dict(),
        "new_shares": plan.shares,
        "data_sha256": plan.data.sha256,
        "workers": plan.resources.workers,
        "threads": plan.resources.threads,
        "openmp": _openmp.described(),
        "seed": plan.settings.seed,
        "skipped_images": [f"{s['image']} ({s['reason']})" for s in plan.data.skipped] or None,
        "reading": plan.data.reading.lines() or None,
        "sweep": sweep,
    }
    of_child = [] if plan.parent is None else _events_of_child(plan, plan.parent)
    # what is inexact in a child is written by the training itself
    notes = [note.text for note in plan.notes if plan.parent is None or not note.inexact]
    return [(lineage.START, start), *of_child, *((lineage.NOTE, {"text": text}) for text in notes)]


def record_missing(experiment: Experiment, events: Iterable[tuple[str, Json]]) -> None:
    """Write those of the first events into the log that are not in it: all of them, or those that a kill prevented."""
    have = lineage.read(experiment.folder)
    for kind, fields in events:
        told = {"changes", "text"} & fields.keys()  # of a change of settings and a note there may be several
        if not any(e.type == kind and all(e.fields.get(k) == fields[k] for k in told) for e in have):
            lineage.record(experiment.folder, kind, **fields)


HURRIED = ("SIGTERM", "SIGHUP")
Launch = Callable[[Job, Resources, Progress], Outcome]  # a way to start the training function


@dataclass(frozen=True)
class Result:
    """A finished run."""

    experiment: Experiment
    best_acc: float


def start(
    plan: Plan, launch: Launch, progress: Progress = ignore, sweep: str | None = None, branch: BranchRef | None = None
) -> Result:
    """Make the folder of a plan whose resources are settled, and train it by ``launch``.

    Args:
        sweep: the id of the sweep that it is a ``branch`` of.
    """
    signals.check()
    with signals.place(None):
        return _start(plan, launch, progress, sweep, branch)


def _start(plan: Plan, launch: Launch, progress: Progress, sweep: str | None, branch: BranchRef | None) -> Result:
    now = datetime.now()
    # a branch starts from a copy that its sweep has read, and which the sweep's record claims
    source = plan.parent.path if plan.parent is not None and sweep is None else None
    with contextlib.ExitStack() as held:
        with retention.claimed(source) if source is not None else contextlib.nullcontext():
            experiment = experiments.create(plan.root, plan.settings.experiment.name, now)
            held.enter_context(experiments.beginning(experiment))
            if sweep is None:  # the sweep's process has recorded its branches
                code = [one.record() for one in plan.all_code]
                problem = trust.remember_made(experiment.id, plan.settings.model_dump(mode="json"), code)
                if problem:
                    progress(Note(problem))
            lock = WriterLock.acquire(experiment.folder)
            held.callback(lock.release)
            job = _first_job(plan, experiment, lock, now, sweep, branch)
            for one in plan.all_code:
                experiment.keep_code(one.files, one.hashes)
        record_missing(experiment, first_events(plan, sweep))
        return execute(job, experiment, plan.resources, launch, progress)


def _first_job(
    plan: Plan, experiment: Experiment, lock: WriterLock, now: datetime, sweep: str | None, branch: BranchRef | None
) -> Job:
    """Write the configuration and the head of the log; returns what is to be trained."""
    from raysweep.training import state

    settings, parent = plan.settings, plan.parent
    versions = state.versions()
    of_sweep = {} if branch is None else {"sweep": sweep, "branch": branch.to_json()}
    flat = settings.flat(
        timestamp=now.strftime(layout.TIME_FORMAT),
        classes=list(plan.data.classes),
        class_counts=dict(plan.counts),
        **({"label_sets": plan.counts.to_json()} if isinstance(plan.counts, LabelCounts) else {}),
        data_sha256=plan.data.sha256,
        threads=plan.resources.threads,
        world_size=max(1, plan.resources.workers),
        versions=versions,
        parent=parent.record().to_json() if parent else None,
        resume_from_checkpoint=Root.address_of(parent.path) if parent else None,
        fresh_optimizer=plan.fresh_optimizer,
        **({"reset_head": True} if plan.reset_head else {}),
        code=plan.code.record().to_json() if plan.code else None,
        own_code=[code.record().to_json() for code in plan.own],
        **of_sweep,
    )
    config = ExperimentConfig.from_json(flat | {"sampling_weights": plan.weights.as_dict()})
    experiment.write_config(config)
    if plan.roles is not None:
        record.write(experiment.folder, plan.roles)
    lineage.open_log(experiment.folder, settings.experiment.name, settings.experiment.description, now)
    job = new_job(plan, experiment, lock.token, config, versions)
    return as_child(job, plan, parent) if parent else job


def execute(job: Job, experiment: Experiment, fitted: Resources, launch: Launch, progress: Progress) -> Result:
    """Train ``job`` by ``launch``, and write how it ended into the log. The caller holds the lock."""
    signals.begun(continue_command(experiment.root, experiment.id))
    progress(ExperimentStarted(experiment.id, Root.address_of(experiment.folder), fitted.workers))
    try:
        outcome = launch(job, fitted, progress)
    except Interrupted as error:
        raise _interrupted(experiment, str(error), error.reason, draw=True) from None
    except SystemExit:  # Ray Tune's scheduler ends a branch early
        raise
    except KeyboardInterrupt:  # before the training handled signals
        text = "Stopped before training began; nothing was lost."
        raise _interrupted(experiment, text, None, draw=False) from None
    except BaseException as error:
        failed = _failed(experiment, error)
        if failed is error:
            raise
        raise failed from error
    early = stopped_early(experiment, outcome.epochs) if outcome.epochs < job.last_epoch else {}
    lineage.record(experiment.folder, lineage.FINISHED, epochs=outcome.epochs, best_acc=outcome.best_acc, **early)
    progress(Drawing())
    with signals.place("after the last epoch, before all pictures were drawn"):
        signals.check()
        derive(experiment, progress)
    progress(ExperimentFinished())
    return Result(experiment, outcome.best_acc)


def stopped_early(experiment: Experiment, epoch: int) -> Json:
    """What the log says of a run that its patience ended after ``epoch``; nothing where that did not."""
    if experiment.config().setting("training", "patience") is None:
        return {}
    found = Waited.of_checkpoint(
        checkpoint.read(experiment.folder / layout.checkpoint_name(layout.Position(epoch, None)))
    )
    return {} if found is None or not found.over else {"stopped_early": WORD, "reason": found.describe()}


def _interrupted(experiment: Experiment, text: str, reason: str | None, draw: bool) -> Interrupted:
    """Write into the log that the training was interrupted; returns what to raise."""
    lineage.record(experiment.folder, lineage.INTERRUPTED, reason=text)
    if draw and reason not in HURRIED:  # who sends those does not wait long; the pictures are drawn at the end
        with contextlib.suppress(KeyboardInterrupt):
            derive(experiment)
    hint = continue_command(experiment.root, experiment.id)
    return Interrupted(f"{text} Go on with: {hint}", reason)


def _failed(experiment: Experiment, error: BaseException) -> BaseException:
    """Write into the log why the training failed; returns what to raise, which is ``error`` if it is one of ours."""
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    with contextlib.suppress(RaysweepError):
        reason = f"{type(error).__name__}: {first_line[:2000]}"
        lineage.record(experiment.folder, lineage.FAILED, reason=reason)
    if isinstance(error, RaysweepError):
        return error
    folder = Root.address_of(experiment.folder)
    if retry.is_memory(error):
        return TrainingError(
            f"Training {experiment.id} ran out of memory ({first_line[:300]}). What was committed is in {folder}. "
            "Choose a smaller training.batch_size, or a smaller model."
        )
    from raysweep.training import guest_errors

    place = guest_errors.where(error)
    return TrainingError(
        f"Training {experiment.id} failed: {type(error).__name__}: {first_line[:500]}."
        f"{f' It happened in your code: {place}.' if place else ''} What was committed is in {folder}. "
        "Repeat with --debug for the traceback."
    )


def derive(experiment: Experiment, progress: Progress = ignore) -> None:
    """Write report and pictures. They are derived, so an error here never fails a run; it is told, and written into the log."""
    from raysweep.report import figures

    if not experiment.manifest().ends:  # no epoch has ended: there is nothing to draw
        return
    try:
        figures.write_all(experiment)
    except Exception as error:
        why = str(error) if isinstance(error, RaysweepError) else f"{type(error).__name__}: {error}"
        text = f"The pictures could not be drawn: {why}"
        with contextlib.suppress(RaysweepError):
            lineage.record(experiment.folder, lineage.NOTE, text=text)
        again = continue_command(experiment.root, experiment.id)
        progress(Note(f"{text.rstrip('.')}. To draw them again: {again}"))
