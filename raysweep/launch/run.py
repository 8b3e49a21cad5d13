"""One experiment from a configuration to its folder: check everything, make the folder, train, write the derived files."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from raysweep import weights as weights_module
from raysweep.config import Settings
from raysweep.data import cache, sampling
from raysweep.errors import CheckpointError, ConfigError, Interrupted, RaysweepError, TrainingError
from raysweep.launch import recovery, resources, trackers
from raysweep.launch.resources import Resources
from raysweep.launch.trackers.follow import following
from raysweep.regular import user_path
from raysweep.store import experiment as experiments
from raysweep.store import layout, lineage, mirror
from raysweep.store.experiment import Experiment
from raysweep.store.lock import WriterLock
from raysweep.training.job import Job, Outcome

Progress = Callable[[dict[str, Any]], None]
Launch = Callable[[Job, Resources, Progress], Outcome]  # a way to start the training function


def ignore(event: dict[str, Any]) -> None:
    """A progress that shows nothing."""


@dataclass(frozen=True)
class Plan:
    """Everything that was checked before the folder is made."""

    settings: Settings
    root: Path
    data: cache.Facts
    counts: dict[str, int]  # images of the pool per class
    weights: dict[str, float]
    draws: int
    resources: Resources
    parameters: int
    parent: Any = None  # launch.child.Parent of a child
    fresh_optimizer: bool = False
    notes: tuple[str, ...] = ()  # what is not as it was at the parent, or of init_from not taken, for the log

    @property
    def shares(self) -> dict[str, float]:
        return weights_module.shares(self.counts, self.weights)

    @property
    def quotas(self) -> dict[str, int]:
        return weights_module.quotas(self.counts, self.weights, self.draws)


@dataclass(frozen=True)
class Result:
    """A finished run."""

    experiment: Experiment
    best_acc: float


def cache_dir(settings: Settings) -> Path:
    """Where decoded images lie: the configuration's folder, RAYSWEEP_CACHE, or .raysweep/cache under the root."""
    named = settings.data.cache_dir or os.environ.get("RAYSWEEP_CACHE")
    return (
        user_path(named) if named else mirror.open_root(settings.root, pull=False) / layout.CACHES / layout.IMAGE_CACHE
    )


def plan(
    settings: Settings,
    progress: Progress = ignore,
    writable: bool = True,
    classes: Sequence[str] | None = None,
    tracked: bool = True,
) -> Plan:
    """Check everything a run needs; makes nothing but the image cache (and the root, where ``writable``).

    Args:
        classes: those of the checkpoint that will be loaded; the data must have the same, in the same order.
        tracked: the trackers asked for must be installed.

    Raises:
        InputError: in one paragraph, what is wrong and what to do.
    """
    root = mirror.open_root(settings.root, pull=False)
    if tracked:
        trackers.check(settings.trackers)
    wanted = resources.decide(settings.scaling)
    if writable:
        experiments.check_root(root)
    data = cache.load(
        settings.data,
        cache_dir(settings),
        lambda done, total: progress({"kind": "decode", "done": done, "total": total}),
    )
    settings, data = _ordered(settings, data, classes)
    if classes is not None and tuple(classes) != data.classes:
        raise CheckpointError(
            f"The checkpoint's classes are {', '.join(classes)}; the data's are {', '.join(data.classes)}. Classes and "
            "their order must be the same, or every label would be read wrongly."
        )
    complete = weights_module.complete(settings.sampling.weights, data.classes)
    members = sampling.pool(
        data.train.labels, data.classes, settings.sampling.sample_per_class, settings.data.split_seed
    )
    counts = cache.Images(data.train.pixels, data.train.labels[members]).counts(data.classes)
    weights_module.shares(counts, complete)
    from raysweep.training import models

    model = models.build(settings.model.name, settings.model.options, len(data.classes), data.shape[2])
    told = models.initialise(model, settings.model)
    models.try_out(model, data.shape, len(data.classes))
    parameters = sum(p.numel() for p in model.parameters())
    draws = settings.sampling.samples_per_epoch or len(members)
    pad = settings.training.augment.crop_padding
    if pad >= min(data.shape[:2]):
        raise ConfigError(
            f"training.augment.crop_padding is {pad}, but the images have {min(data.shape[:2])} pixels a side. Choose less."
        )
    return Plan(settings, root, data.facts, counts, complete, draws, wanted, parameters, notes=(told,) if told else ())


def _ordered(settings: Settings, data: cache.Dataset, classes: Sequence[str] | None) -> tuple[Settings, cache.Dataset]:
    """Classes in the order of the checkpoint, or of a trained network that knows them, where these are the data's classes."""
    from raysweep.data.order import in_order
    from raysweep.training import hub

    wanted = settings.data.classes
    for known in (classes, hub.labels(settings.model.name)):
        if wanted is None and known is not None and known != data.classes and sorted(known) == sorted(data.classes):
            wanted = list(known)
    if wanted is None:
        return settings, data
    return settings.model_copy(update={"data": settings.data.model_copy(update={"classes": wanted})}), in_order(
        data, wanted
    )


def run(the_plan: Plan, progress: Progress = ignore) -> Result:
    """Make the experiment's folder and train it to its end.

    Raises:
        Interrupted: a signal asked to stop; a checkpoint was saved.
        RaysweepError: the work failed; the folder's log says why.
    """
    from raysweep.launch import workers

    with following(progress) as follower, workers.session(the_plan.settings, the_plan.resources, follower) as fitted:
        return start(replace(the_plan, resources=fitted), workers.launcher(fitted), follower)


def start(the_plan: Plan, launch: Launch, progress: Progress = ignore, **of_sweep: Any) -> Result:
    """Make the folder of a plan whose resources are settled, and train it by ``launch``.

    Args:
        of_sweep: ``sweep`` (its id) and ``branch`` (name, control, seed) of a branch, for its configuration.
    """
    from raysweep.launch import child

    now = datetime.now()
    experiment = experiments.create(the_plan.root, the_plan.settings.experiment.name, now)
    lock = WriterLock.acquire(experiment.folder)
    try:
        job = _new_job(the_plan, experiment, lock, now, of_sweep)
        lineage.record(
            experiment.folder,
            lineage.START,
            description=the_plan.settings.experiment.description,
            model=the_plan.settings.model.name,
            epochs=the_plan.settings.training.epochs,
            classes=dict(the_plan.counts),
            new_weights=the_plan.weights,
            new_shares=the_plan.shares,
            data_sha256=the_plan.data.sha256,
            workers=the_plan.resources.workers,
            threads=the_plan.resources.threads,
            seed=the_plan.settings.seed,
            skipped_images=[f"{s['image']} ({s['reason']})" for s in the_plan.data.skipped] or None,
            sweep=of_sweep.get("sweep"),
        )
        if the_plan.parent is not None:
            child.record_start(the_plan, experiment)
        else:
            for note in the_plan.notes:
                lineage.record(experiment.folder, lineage.NOTE, text=note)
        return execute(job, experiment, the_plan.resources, launch, progress)
    finally:
        lock.release()


def _new_job(
    the_plan: Plan, experiment: Experiment, lock: WriterLock, now: datetime, of_sweep: Mapping[str, Any]
) -> Job:
    from raysweep.launch import child
    from raysweep.training import state

    settings = the_plan.settings
    versions = state.versions()
    flat = settings.flat(
        timestamp=now.strftime(layout.TIME_FORMAT),
        classes=list(the_plan.data.classes),
        class_counts=the_plan.counts,
        data_sha256=the_plan.data.sha256,
        threads=the_plan.resources.threads,
        world_size=max(1, the_plan.resources.workers),
        versions=versions,
        parent=the_plan.parent.record() if the_plan.parent else None,
        resume_from_checkpoint=mirror.address(the_plan.parent.path) if the_plan.parent else None,
        fresh_optimizer=the_plan.fresh_optimizer,
        **of_sweep,
    )
    flat["sampling_weights"] = the_plan.weights
    experiment.write_config(flat)
    lineage.open_log(experiment.folder, settings.experiment.name, settings.experiment.description, now)
    first = (
        child.start_fields(the_plan) if the_plan.parent else {"first_epoch": 1, "last_epoch": settings.training.epochs}
    )
    return Job(
        folder=str(experiment.folder.resolve()),
        token=lock.token,
        settings=settings.model_dump(mode="json"),
        weights=the_plan.weights,
        cache_dir=str(cache_dir(settings).resolve()),
        cache_folder=str(the_plan.data.folder.resolve()),
        threads=the_plan.resources.threads,
        use_gpu=the_plan.resources.use_gpu,
        flat_config=flat,
        versions=versions,
        **first,
    )


def execute(job: Job, experiment: Experiment, fitted: Resources, launch: Launch, progress: Progress) -> Result:
    """Train ``job`` by ``launch``, and write how it ended into the log. The caller holds the lock."""
    folder = mirror.address(experiment.folder)
    progress({"kind": "experiment", "id": experiment.id, "folder": folder, "workers": fitted.workers})
    try:
        outcome = launch(job, fitted, progress)
    except Interrupted as error:
        lineage.record(experiment.folder, lineage.INTERRUPTED, reason=str(error))
        if error.reason != "SIGTERM":  # who sends that will not wait long; the pictures are drawn at the end
            with contextlib.suppress(KeyboardInterrupt):
                derive(experiment)
        hint = continue_command(experiment.folder.parent, experiment.id)
        raise Interrupted(f"{error} Go on with: {hint}", error.reason) from None
    except SystemExit:  # Ray Tune's scheduler ends a branch early
        raise
    except KeyboardInterrupt:  # before the training looked for signals
        told = "Stopped before training began; nothing was lost."
        lineage.record(experiment.folder, lineage.INTERRUPTED, reason=told)
        raise Interrupted(f"{told} Go on with: {continue_command(experiment.folder.parent, experiment.id)}") from None
    except BaseException as error:
        text = str(error) or type(error).__name__
        with contextlib.suppress(RaysweepError):
            lineage.record(
                experiment.folder, lineage.FAILED, reason=f"{type(error).__name__}: {text.splitlines()[0][:2000]}"
            )
        if isinstance(error, RaysweepError):
            raise
        if recovery.is_memory(error):
            raise TrainingError(
                f"Training {experiment.id} ran out of memory ({text.splitlines()[0][:300]}). What was committed is in "
                f"{folder}. Choose a smaller training.batch_size, or a smaller model."
            ) from error
        raise TrainingError(
            f"Training {experiment.id} failed: {type(error).__name__}: {text.splitlines()[0][:500]}. What was committed "
            f"is in {folder}. Repeat with --debug for the traceback."
        ) from error
    lineage.record(experiment.folder, lineage.FINISHED, epochs=outcome.epochs, best_acc=outcome.best_acc)
    progress({"kind": "derive"})
    derive(experiment)
    progress(
        {
            "kind": "finished",
            "id": experiment.id,
            "folder": folder,
            "best_acc": outcome.best_acc,
        }
    )
    return Result(experiment, outcome.best_acc)


def continue_command(root: Path, name: str) -> str:
    """What to type to go on with an experiment or a sweep; names the root where it is not the one that is looked into."""
    usual = mirror.open_root(os.environ.get("RAYSWEEP_ROOT") or "experiments", pull=False)
    where = "" if root.resolve() == usual.resolve() else f" --root {shlex.quote(mirror.root_address(root))}"
    return f"raysweep continue {name}{where}"


def derive(experiment: Experiment) -> None:
    """Write report and pictures; they are derived, so trouble with them never fails a run."""
    from raysweep.report import figures

    if all(e.batch is not None for e in experiment.entries()):  # no epoch has ended: there is nothing to draw
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
