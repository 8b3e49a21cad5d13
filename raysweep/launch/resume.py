"""Going on with an interrupted experiment, in its own folder."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from raysweep.config import load as load_config
from raysweep.config.settings import Settings
from raysweep.errors import CheckpointError, NotFoundError, ResourceError
from raysweep.events import Note, Progress, ignore
from raysweep.launch import runner
from raysweep.launch.runner import Launch, Result
from raysweep.plan import experiment as experiment_plan
from raysweep.plan import parent as parents
from raysweep.plan.resources import AS_BEFORE, ResourceOverrides, Resources
from raysweep.plan.types import Parent, Plan
from raysweep.store import checkpoint, layout, lineage, resolve
from raysweep.store.experiment import Experiment
from raysweep.store.lock import WriterLock
from raysweep.store.records import ExperimentConfig, ParentRef
from raysweep.store.records_manifest import ManifestEntry
from raysweep.store.root import Root
from raysweep.trackers.dispatch import dispatching
from raysweep.training.job import Job, from_own_checkpoint


def continue_experiment(
    root: Root,
    reference: str,
    *,
    steal: bool = False,
    asked: ResourceOverrides = AS_BEFORE,
    progress: Progress = ignore,
    launch: Launch | None = None,
    fitted: Resources | None = None,
) -> Result:
    """Finish an interrupted experiment in its own folder, from its newest checkpoint that verifies.

    A finished one is left as it is.

    Args:
        steal: take the lock also of a process on another host.
        asked: other resources than before.
        launch: how to start the training; by default as the experiment's resources ask for.
        fitted: with ``launch``, the resources it has.

    Raises:
        NotFoundError: no such experiment. LockedError: somebody writes to it. Interrupted, or what training raises.
    """
    if launch is not None:  # a branch, which the sweep's process tracks
        return _continue(root, reference, steal, asked, progress, launch, fitted)
    with dispatching(progress) as dispatcher:
        done = _continue(root, reference, steal, asked, dispatcher, None, None)
        dispatcher.ended(done.experiment)  # a complete one, too: its trackers may be out of sync
        return done


def _continue(
    root: Root,
    reference: str,
    steal: bool,
    asked: ResourceOverrides,
    progress: Progress,
    launch: Launch | None,
    fitted: Resources | None,
) -> Result:
    from raysweep.launch.workers import start as workers

    experiment = resolve.find_experiment(root, reference)
    config = experiment.config()
    if config.settings is None:
        raise NotFoundError(f"{experiment.id} was not made by raysweep; start a child of it with `raysweep resume`.")
    before, settings = _settings(experiment, config, asked)
    lock = WriterLock.acquire(experiment.folder, steal)
    try:
        experiment.root.refresh(experiment.folder)
        good, problems = experiment.newest_good(checkpoint.misplaced)
        for problem in problems:
            progress(Note(f"{problem}."))
        last = config.fork + settings.training.epochs
        if good is not None and good.batch is None and good.epoch >= last:
            return _complete(experiment, good, last, progress)
        plan = _plan(experiment, config, settings, good, progress)
        around = (
            workers.session(settings, plan.resources, progress)
            if launch is None
            else nullcontext(fitted or plan.resources)
        )
        with around as fitted:
            config = _record_changes(experiment, config, before, settings, fitted)
            job = _job(experiment, config, replace(plan, resources=fitted), lock, good)
            if config.data_sha256 not in (None, plan.data.sha256):
                job = replace(job, keep_position=False)
                text = "the images have changed since this experiment began; its running epoch is drawn anew"
                progress(Note(text))
                lineage.record(experiment.folder, lineage.NOTE, text=f"not bit-exact: {text}")
            where = "the start" if good is None else good.file
            lineage.record(experiment.folder, lineage.CONTINUED, checkpoint=where, damaged=problems or None)
            progress(Note(f"Continuing {experiment.id} from {where}."))
            return runner.execute(job, experiment, fitted, launch or workers.launcher(fitted), progress)
    finally:
        lock.release()


def _plan(
    experiment: Experiment, config: ExperimentConfig, settings: Settings, good: ManifestEntry | None, progress: Progress
) -> Plan:
    """The plan of what is left; where there is no checkpoint yet, a child's begins again at its parent.

    Raises:
        InputError: it cannot go on here; the message says why.
    """
    try:
        # A tracker that is not installed here must not keep anybody from finishing; it is told when it is needed.
        plan = experiment_plan.plan_experiment(
            settings, progress, classes=config.classes, tracked=False, root=experiment.root
        )
    except ResourceError as error:
        hint = "`raysweep continue` takes --threads, --workers and --address, too."
        raise ResourceError(f"{error} {hint}") from None
    if good is None and config.parent is not None:
        parent = _same_parent(experiment, config.parent)
        plan = replace(plan, parent=parent, fresh_optimizer=config.fresh_optimizer)
    return plan


def _settings(experiment: Experiment, config: ExperimentConfig, asked: ResourceOverrides) -> tuple[Settings, Settings]:
    """The experiment's settings as they were, threads resolved, and with the resources asked for now."""
    source = str(experiment.folder / layout.CONFIG)
    values = {**(config.settings or {}), "root": experiment.root.address}
    before = load_config.validate(values, source)
    if config.threads:
        before = before.model_copy(update={"scaling": before.scaling.model_copy(update={"threads": config.threads})})
    scaling = before.scaling.model_dump(mode="json")
    return before, load_config.validate(load_config.merge(values, {"scaling": asked.applied(scaling)}), source)


def _complete(experiment: Experiment, good: ManifestEntry, last: int, progress: Progress) -> Result:
    """All epochs are there; make what a kill may have left undone."""
    from raysweep.training import checkpointing

    if experiment.status() != "finished":
        lineage.record(experiment.folder, lineage.FINISHED, epochs=last)
    checkpointing.rebuild_derived(experiment)
    runner.derive(experiment)
    progress(Note(f"{experiment.id} has all its {last} epochs; there is nothing to do."))
    return Result(experiment, float(checkpoint.read(experiment.folder / good.file)["best_acc"]))


def _same_parent(experiment: Experiment, told: ParentRef) -> Parent:
    """The checkpoint that the experiment started from.

    Raises:
        CheckpointError: what lies there now is another one. NotFoundError: it is gone.
    """
    if told.file is None or told.epoch is None or told.sha256 is None:
        missing = [key for key in ("file", "epoch", "sha256") if getattr(told, key) is None]
        raise CheckpointError(
            f"{experiment.folder / layout.CONFIG} does not say of its parent: {', '.join(missing)}. Restore it from a copy."
        )
    file = Root.locate(told.file, opens=False)
    reference = str(file) if file.is_file() else told.reference
    parent = parents.read_parent(experiment.root, reference)
    if parent.sha256 != told.sha256:
        raise CheckpointError(
            f"{parent.path} is not the checkpoint that {experiment.id} started from (SHA-256 {parent.sha256[:12]}…, not "
            f"{told.sha256[:12]}…). Restore the file from a copy."
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
    if config.world_size not in (None, world_size):  # of an elastic experiment, or by other GPUs
        changes["world_size"] = [config.world_size, world_size]
    if not changes:
        return config
    dumped = settings.model_dump(mode="json")
    config = replace(config, settings=dumped, threads=fitted.threads, world_size=world_size)
    experiment.write_config(config)
    lineage.record(experiment.folder, lineage.CONFIGURATION, changes=changes)
    return config


def _job(
    experiment: Experiment, config: ExperimentConfig, plan: Plan, lock: WriterLock, good: ManifestEntry | None
) -> Job:
    """What is left to train, from the newest good checkpoint, the parent's, or nothing."""
    from raysweep.training import state

    first = config.fork
    job = Job(
        folder=str(experiment.folder.resolve()),
        token=lock.token,
        settings=plan.settings,
        weights=plan.weights,
        cache_dir=str(experiment_plan.cache_dir(plan.settings, plan.root).resolve()),
        cache_folder=str(plan.data.folder.resolve()),
        threads=plan.resources.threads,
        use_gpu=plan.resources.use_gpu,
        first_epoch=first + 1,
        last_epoch=first + plan.settings.training.epochs,
        parent=config.parent.to_json() if config.parent else None,
        flat_config=config.to_json(),
        versions=state.versions(),
    )
    if good is not None:
        return from_own_checkpoint(job, str(experiment.folder.resolve() / good.file), good.epoch, good.batch)
    return replace(job, **runner.start_fields(plan, plan.parent)) if plan.parent is not None else job
