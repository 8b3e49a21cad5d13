"""Going on with an interrupted experiment, in its own folder."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from raysweep import config as configuration
from raysweep.config import Settings
from raysweep.errors import CheckpointError, NotFoundError
from raysweep.launch import child
from raysweep.launch import run as launching
from raysweep.launch.resources import Resources
from raysweep.launch.run import Launch, Progress, Result, ignore
from raysweep.store import catalog, checkpoint, lineage
from raysweep.store.lock import WriterLock
from raysweep.training.job import Job, from_own_checkpoint


def continue_experiment(
    root: Path,
    reference: str,
    *,
    steal: bool = False,
    progress: Progress = ignore,
    launch: Launch | None = None,
    fitted: Resources | None = None,
) -> Result:
    """Finish an interrupted experiment in its own folder, from its newest checkpoint that verifies.

    A finished one is left as it is.

    Args:
        steal: take the lock also of a process on another host.
        launch: how to start the training; by default as the experiment's resources ask for.
        fitted: with ``launch``, the resources it has.

    Raises:
        NotFoundError: no such experiment. LockedError: somebody writes to it. Interrupted, or what training raises.
    """
    from raysweep.launch import workers
    from raysweep.training import checkpointing, state

    experiment = catalog.find(root, reference)
    config = experiment.config()
    if "settings" not in config:
        raise NotFoundError(f"{experiment.id} was not made by raysweep; start a child of it with `raysweep resume`.")
    settings = Settings.model_validate({**config["settings"], "root": str(experiment.folder.parent)})
    lock = WriterLock.acquire(experiment.folder, steal)
    try:
        good, problems = experiment.newest_good()
        for problem in problems:
            progress({"kind": "warning", "text": f"{problem}."})
        first = int((config.get("parent") or {}).get("epoch") or 0)
        last = first + settings.training.epochs
        if good is not None and good.batch is None and good.epoch >= last:
            if experiment.status() != "finished":
                lineage.record(experiment.folder, lineage.FINISHED, epochs=last)
            checkpointing.rebuild_derived(experiment)
            launching.derive(experiment)
            progress({"kind": "warning", "text": f"{experiment.id} has all its {last} epochs; there is nothing to do."})
            return Result(experiment, float(checkpoint.read(experiment.folder / good.file)["best_acc"]))
        fixed = {**settings.model_dump(mode="json")}
        fixed["scaling"]["threads"] = config.get("threads") or fixed["scaling"]["threads"]
        plan = launching.plan(
            configuration.validate(fixed, f"{experiment.folder}"), progress, classes=config.get("classes")
        )
        changed = config.get("data_sha256") not in (None, plan.data.sha256)
        parent = None
        if good is None and config.get("parent"):
            told = config["parent"]
            reference = told["file"] if Path(told["file"]).is_file() else f"{told['experiment']}@{told['epoch']}"
            parent = child.read_parent(experiment.folder.parent, reference)
            if parent.sha256 != told["sha256"]:
                raise CheckpointError(
                    f"{parent.path} is not the checkpoint that {experiment.id} started from (SHA-256 {parent.sha256[:12]}…, not "
                    f"{told['sha256'][:12]}…). Restore the file from a copy."
                )
            plan = replace(plan, parent=parent, fresh_optimizer=bool(config.get("fresh_optimizer")))
        around = (
            workers.session(settings, plan.resources, progress)
            if launch is None
            else nullcontext(fitted or plan.resources)
        )
        with around as fitted:
            job = Job(
                folder=str(experiment.folder.resolve()),
                token=lock.token,
                settings=settings.model_dump(mode="json"),
                weights=plan.weights,
                cache_dir=str(launching.cache_dir(settings).resolve()),
                cache_folder=str(plan.data.folder.resolve()),
                threads=fitted.threads,
                use_gpu=fitted.use_gpu,
                first_epoch=first + 1,
                last_epoch=last,
                parent=config.get("parent"),
                flat_config=config,
                versions=state.versions(),
            )
            if good is not None:
                job = from_own_checkpoint(job, str(experiment.folder.resolve() / good.file), good.epoch, good.batch)
                if changed:
                    job = replace(job, keep_position=False)
            elif parent is not None:
                job = replace(job, **child.start_fields(plan))
            if changed:
                text = "the images have changed since this experiment began; its running epoch is drawn anew"
                progress({"kind": "warning", "text": text})
                lineage.record(experiment.folder, lineage.NOTE, text=f"not bit-exact: {text}")
            where = "the start" if good is None else good.file
            lineage.record(experiment.folder, lineage.CONTINUED, checkpoint=where, damaged=problems or None)
            if good is not None and int(config.get("world_size") or 1) != max(1, fitted.workers):
                lineage.record(
                    experiment.folder,
                    lineage.NOTE,
                    text=f"not bit-exact: {max(1, fitted.workers)} workers instead of {config.get('world_size')}",
                )
            progress({"kind": "warning", "text": f"Continuing {experiment.id} from {where}."})
            return launching.execute(job, experiment, fitted, launch or workers.launcher(fitted), progress)
    finally:
        lock.release()
