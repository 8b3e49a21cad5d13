"""Continue an interrupted experiment in its own folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from raysweep._text import counted, join_names
from raysweep.cluster import signals
from raysweep.config import foreign
from raysweep.config import load as load_config
from raysweep.config.settings import Settings, TrainingSection
from raysweep.data.roles import record
from raysweep.errors import CheckpointError, NotFoundError, RaysweepError, ResourceError
from raysweep.events import Note, Progress, ignore
from raysweep.launch import runner
from raysweep.launch.runner import Launch, Result
from raysweep.plan import child, roles
from raysweep.plan import experiment as experiment_plan
from raysweep.plan import parent as parents
from raysweep.plan.resources import AS_BEFORE, ResourceOverrides, Resources
from raysweep.plan.types import Parent, Plan
from raysweep.plan.upgrade import completed
from raysweep.store import checkpoint, layout, lineage, resolve
from raysweep.store import trust as trusting
from raysweep.store.commands import continue_command
from raysweep.store.experiment import Experiment
from raysweep.store.lock import WriterLock
from raysweep.store.records import ExperimentConfig, Json, ParentRef
from raysweep.store.records_manifest import Manifest, ManifestEntry
from raysweep.store.root import Root
from raysweep.store.trust import NOBODY, Origin, Trust
from raysweep.trackers import credentials
from raysweep.trackers.dispatch import dispatching
from raysweep.training.job import Job, from_own_checkpoint


def continue_experiment(
    root: Root,
    reference: str | Experiment,
    *,
    steal: bool = False,
    asked: ResourceOverrides = AS_BEFORE,
    progress: Progress = ignore,
    launch: Launch | None = None,
    fitted: Resources | None = None,
    trust: Trust = NOBODY,
    until: int | None = None,
) -> Result:
    """Finish an interrupted experiment in its own folder, from its newest checkpoint that verifies.

    A finished one is left as it is.

    Args:
        steal: take the lock also of a process on another host.
        asked: other resources than before.
        launch: how to start the training; by default as the experiment's resources ask for.
        fitted: with ``launch``, the resources it has.
        trust: whether what its configuration names may run.
        until: the epoch to train to, whatever its configuration and patience say: that of its sweep.

    Raises:
        NotFoundError: no such experiment. UntrustedError: it names code or places that nobody has approved. LockedError: somebody writes to it. Interrupted, or what training raises.
    """
    if launch is not None:  # a branch, which the sweep's process tracks
        return _continue(
            _allowed(root, reference, asked, trust, [foreign.code]), steal, asked, progress, launch, fitted, until
        )
    experiment = _allowed(root, reference, asked, trust, [foreign.code, foreign.places])
    with dispatching(progress) as dispatcher:
        done = _continue(experiment, steal, asked, dispatcher, None, None, until)
        dispatcher.ended(done.experiment)  # also a complete one: its trackers may be out of sync
        return done


def _allowed(
    root: Root, reference: str | Experiment, asked: ResourceOverrides, trust: Trust, kinds: Sequence[trusting.Kind]
) -> Experiment:
    """The experiment, of which everything that its configuration would run or reach was approved.

    Raises:
        NotFoundError: no such experiment. UntrustedError: something was not approved.
    """
    experiment = reference if isinstance(reference, Experiment) else resolve.find_experiment(root, reference)
    config = experiment.config()
    ids = tuple(name for name in (experiment.id, config.sweep) if name)
    origin = Origin(experiment.folder, experiment.folder, experiment.root, ids, tuple(config.all_code))
    trusting.settle(trust, origin, config.settings or {}, asked.named(), kinds)
    return experiment


def _continue(
    experiment: Experiment,
    steal: bool,
    asked: ResourceOverrides,
    progress: Progress,
    launch: Launch | None,
    fitted: Resources | None,
    until: int | None,
) -> Result:
    config = experiment.config()
    if config.settings is None:
        raise NotFoundError(f"{experiment.id} was not made by raysweep; start a child of it with `raysweep resume`.")
    before, settings = _settings(experiment, config, asked)
    credentials.keep(settings.trackers)  # those that raysweep 0.1 stored
    settings = credentials.stored(settings)
    signals.remember(continue_command(experiment.root, experiment.id))
    lock = WriterLock.acquire(experiment.folder, steal)
    try:
        experiment.root.refresh(experiment.folder)
        _set_aside(experiment, progress)
        if until is not None:
            config = _trained_until(experiment, config, settings, until)
            before, settings = (of.model_copy(update={"training": _as_told(of, config)}) for of in (before, settings))
        good, problems = experiment.newest_good(checkpoint.misplaced)
        for problem in problems:
            progress(Note(f"{problem}."))
        if good is not None and not experiment.has_manifest:
            _commit_again(experiment, good)
        last = config.fork + settings.training.epochs
        if (
            good is not None
            and good.batch is None
            and (good.epoch >= last or runner.stopped_early(experiment, good.epoch))
        ):
            return _complete(experiment, good, last, progress)
        plan = _plan(experiment, config, settings, good, progress)
        with _session(settings, plan, progress, launch, fitted) as (launch, fitted), _to_its_end():
            if plan.roles is not None and not (experiment.folder / layout.ROLES).exists():
                record.write(experiment.folder, plan.roles)
            _complete_log(experiment, config, replace(plan, settings=before), good)
            config = _record_changes(experiment, config, before, settings, fitted)
            config = _record_code(experiment, config, plan, progress)
            job = _job(experiment, config, replace(plan, resources=fitted), lock, good)
            job = _with_changed_images(job, experiment, plan, progress)
            _record_continued(experiment, good, problems, progress)
            return runner.execute(job, experiment, fitted, launch, progress)
    finally:
        lock.release()


def _commit_again(experiment: Experiment, good: ManifestEntry) -> None:
    """Write a manifest of the checkpoints that were found without one: the next commit may fail, too."""
    order = good.position.order
    experiment.write_manifest(Manifest([e for e in experiment.entries() if e.position.order <= order]))


def _set_aside(experiment: Experiment, progress: Progress) -> None:
    """Damaged lines of the log never block an experiment: what can be read counts, and the rest is kept."""
    count = lineage.set_aside(experiment.folder)
    if count:
        progress(Note(f"{counted(count, 'damaged line')} of {layout.LINEAGE} moved to {layout.DAMAGED_LINES}."))


def _complete_log(experiment: Experiment, config: ExperimentConfig, plan: Plan, good: ManifestEntry | None) -> None:
    """Record what a kill at the start prevented, or what was damaged since, of the events with which the log begins."""
    if not (experiment.folder / layout.CHANGES).exists():
        told = plan.settings.experiment
        lineage.open_log(experiment.folder, told.name, told.description, datetime.now())
    events = runner.first_events(plan, config.sweep)
    if good is not None:  # it has trained since; what a plan says of its beginning no longer holds
        del events[1:]
        if config.parent is not None and not any(e.type == lineage.RESUME for e in lineage.read(experiment.folder)):
            events += _events_of_fork(experiment, config.parent, config, plan)
    runner.record_missing(experiment, events)


def _events_of_fork(
    experiment: Experiment, ref: ParentRef, config: ExperimentConfig, plan: Plan
) -> list[tuple[str, Json]]:
    """The events that tie a child to its parent; only what the configuration says, if the parent is gone."""
    try:
        of_child = child.of_parent(plan, _same_parent(experiment, ref), config.fresh_optimizer, config.reset_head)
    except RaysweepError as error:
        text = f"the log lacks how this experiment differs from {ref.reference}, which cannot be read: {error}"
        told = {"checkpoint": ref.file, "experiment": ref.experiment, "epoch": ref.epoch, "batch": ref.batch or None}
        return [(lineage.RESUME, {**told, "sha256": ref.sha256}), (lineage.NOTE, {"text": text})]
    return [e for e in runner.first_events(of_child, config.sweep) if e[0] not in (lineage.START, lineage.NOTE)]


@contextmanager
def _to_its_end() -> Iterator[None]:
    """A last safe point, after which only the training looks at signals."""
    signals.check()
    with signals.place(None):
        yield


@contextmanager
def _session(
    settings: Settings, plan: Plan, progress: Progress, launch: Launch | None, fitted: Resources | None
) -> Iterator[tuple[Launch, Resources]]:
    """How to start the training, and with which resources: as a caller says, or as the plan asks for."""
    from raysweep.launch.workers import start as workers

    if launch is not None:
        yield launch, fitted or plan.resources
        return
    with workers.session(settings, plan.resources, progress) as found:
        yield workers.launcher(found), found


def _with_changed_images(job: Job, experiment: Experiment, plan: Plan, progress: Progress) -> Job:
    """``job``, whose running epoch starts again if the images are not those that it began with."""
    if job.config.data_sha256 in (None, plan.data.sha256):
        return job
    text = "the images have changed since this experiment began; its running epoch is drawn anew"
    progress(Note(text))
    lineage.record(experiment.folder, lineage.NOTE, text=f"not bit-exact: {text}")
    return replace(job, keep_position=False)


def _record_continued(
    experiment: Experiment, good: ManifestEntry | None, problems: list[str], progress: Progress
) -> None:
    where = "the start" if good is None else good.file
    lineage.record(experiment.folder, lineage.CONTINUED, checkpoint=where, damaged=problems or None)
    progress(Note(f"Continuing {experiment.id} from {where}."))


def _plan(
    experiment: Experiment, config: ExperimentConfig, settings: Settings, good: ManifestEntry | None, progress: Progress
) -> Plan:
    """The plan of what is left. Without a checkpoint of its own, a child begins again at its parent.

    Raises:
        InputError: it cannot be continued here; the message says why.
    """
    try:
        # A tracker that is not installed here must not prevent the end of the training; a note says so when it is needed.
        plan = experiment_plan.plan_experiment(
            settings,
            progress,
            classes=config.classes,
            tracked=False,
            root=experiment.root,
            first_epoch=config.fork + 1,
            new_weights=good is None and config.parent is None,
            before=roles.of_experiment(experiment, config),
        )
    except ResourceError as error:
        hint = "`raysweep continue` also takes --threads, --workers and --address."
        raise ResourceError(f"{error} {hint}") from None
    if good is None and config.parent is not None:
        return child.of_parent(plan, _same_parent(experiment, config.parent), config.fresh_optimizer, config.reset_head)
    return plan


def _settings(experiment: Experiment, config: ExperimentConfig, asked: ResourceOverrides) -> tuple[Settings, Settings]:
    """The experiment's settings as they were, threads resolved, and with the resources asked for now."""
    source = str(experiment.folder / layout.CONFIG)
    values = {**completed(config.settings or {}), "root": experiment.root.address}
    before = load_config.validate(values, source)
    if config.threads:
        before = before.model_copy(update={"scaling": before.scaling.model_copy(update={"threads": config.threads})})
    scaling = before.scaling.model_dump(mode="json")
    return before, load_config.validate(load_config.merge(values, {"scaling": asked.applied(scaling)}), source)


def _complete(experiment: Experiment, good: ManifestEntry, last: int, progress: Progress) -> Result:
    """All epochs are there: write only what a kill may have prevented."""
    from raysweep.training import checkpointing

    checkpointing.rebuild_derived(experiment)  # before the event, as in an undisturbed training
    early = runner.stopped_early(experiment, good.epoch) if good.epoch < last else {}
    if experiment.status() != "finished":
        lineage.record(experiment.folder, lineage.FINISHED, epochs=good.epoch, **early)
    lineage.mend(experiment.folder)
    runner.derive(experiment, progress)
    has = (
        f"stopped early after epoch {good.epoch} ({early['reason']})"
        if early
        else f"has all its {counted(last, 'epoch')}"
    )
    progress(Note(f"{experiment.id} {has}; there is nothing to do."))
    return Result(experiment, float(checkpoint.read(experiment.folder / good.file)["best_acc"]))


def _as_told(settings: Settings, config: ExperimentConfig) -> TrainingSection:
    told = {k: config.setting("training", k) for k in ("epochs", "schedule_epochs", "patience")}
    return settings.training.model_copy(update=told)


def _trained_until(
    experiment: Experiment, config: ExperimentConfig, settings: Settings, until: int
) -> ExperimentConfig:
    """Write into the log and the configuration, which is returned, that the experiment trains to ``until``. The learning rate of each
    epoch stays what it was."""
    was = settings.training
    new = {"epochs": until - config.fork, "schedule_epochs": was.schedule_epochs or was.epochs, "patience": None}
    changes = {f"training.{k}": [getattr(was, k), v] for k, v in new.items() if getattr(was, k) != v}
    if not changes:
        return config
    runner.record_missing(experiment, [(lineage.CONFIGURATION, {"changes": changes})])
    stored = dict(config.settings or {})
    config = replace(config, num_epochs=new["epochs"], settings={**stored, "training": {**stored["training"], **new}})
    experiment.write_config(config)
    trusting.remember_made(experiment.id, dict(config.settings or {}), config.all_code)
    return config


def _same_parent(experiment: Experiment, ref: ParentRef) -> Parent:
    """The checkpoint that the experiment started from.

    Raises:
        CheckpointError: the file is another one now. NotFoundError: it is gone.
    """
    if ref.file is None or ref.epoch is None or ref.sha256 is None:
        missing = [key for key in ("file", "epoch", "sha256") if getattr(ref, key) is None]
        raise CheckpointError(
            f"{experiment.folder / layout.CONFIG} does not say of its parent: {', '.join(missing)}. Restore it from a copy."
        )
    file = Root.locate(ref.file, opens=False)
    reference = str(file) if file.is_file() else ref.reference
    parent = parents.read_parent(experiment.root, reference, trust=None)  # the experiment's own settings are used
    if parent.sha256 != ref.sha256:
        raise CheckpointError(
            f"{parent.path} is not the checkpoint that {experiment.id} started from (SHA-256 {parent.sha256[:12]}…, not "
            f"{ref.sha256[:12]}…). Restore the file from a copy."
        )
    return parent


def _record_changes(
    experiment: Experiment, config: ExperimentConfig, before: Settings, settings: Settings, fitted: Resources
) -> ExperimentConfig:
    """Write resources that differ from before into the log and the configuration, which is returned."""
    changes = {
        f"scaling.{key}": [old, new]
        for key, new in settings.scaling.model_dump(mode="json").items()
        if (old := getattr(before.scaling, key)) != new
    }
    world_size = max(1, fitted.workers)
    if config.world_size not in (None, world_size):  # an elastic experiment, or other GPUs
        changes["world_size"] = [config.world_size, world_size]
    if not changes:
        return config
    dumped = settings.model_dump(mode="json")
    config = replace(config, settings=dumped, threads=fitted.threads, world_size=world_size)
    experiment.write_config(config)
    trusting.remember_made(experiment.id, dumped)
    lineage.record(experiment.folder, lineage.CONFIGURATION, changes=changes)
    return config


def _record_code(experiment: Experiment, config: ExperimentConfig, plan: Plan, progress: Progress) -> ExperimentConfig:
    """Keep the user's code as it is now, where it is not what the configuration says; returns the configuration."""
    code, recorded = plan.all_code, {record.option: record for record in config.all_code}
    now = [one.record() for one in code]
    if all(one.option in recorded and dict(recorded[one.option].files) == dict(one.files) for one in now):
        return config
    for one in now:
        before = recorded.get(one.option)
        changed = [] if before is None else _changed_files(before.files, one.files)
        if changed:
            text = f"the code of python:{one.target} is no longer that with which this experiment began: {join_names(changed)}"
            lineage.record(experiment.folder, lineage.NOTE, text=text)
            progress(Note(text))
    for found in code:
        experiment.keep_code(found.files, found.hashes)
    model = config.code if plan.code is None else plan.code.record()
    config = replace(config, code=model, own_code=tuple(one.record() for one in plan.own))
    experiment.write_config(config)
    trusting.remember_made(experiment.id, dict(config.settings or {}), config.all_code)
    return config


def _changed_files(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [file for file in sorted({*now, *then}) if now.get(file) != then.get(file)]


def _job(
    experiment: Experiment, config: ExperimentConfig, plan: Plan, lock: WriterLock, good: ManifestEntry | None
) -> Job:
    """What is left to train, from the newest good checkpoint, the parent's, or new weights."""
    job = runner.new_job(plan, experiment, lock.token, config)
    if good is not None:
        return from_own_checkpoint(job, str(experiment.folder.resolve() / good.file), good.epoch, good.batch)
    return runner.as_child(job, plan, plan.parent) if plan.parent is not None else job
