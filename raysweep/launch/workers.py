"""The two ways to start one training: in this process, or on Ray workers. Same function, same folder."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from raysweep.config import Settings
from raysweep.errors import Interrupted, RaysweepError, ResourceError
from raysweep.launch import attempt, cluster, resources
from raysweep.launch.resources import Resources
from raysweep.launch.stopping import StopFlag, signals
from raysweep.store import checkpoint, lineage
from raysweep.store.experiment import Experiment
from raysweep.store.lock import WriterLock
from raysweep.training.job import Job, Outcome, from_own_checkpoint
from raysweep.training.loop import train

Progress = Callable[[dict[str, Any]], None]
WAIT_FOR_NODES_S = 60.0  # for others to come, or lost ones to come back, before an attempt is given up


def launcher(fitted: Resources) -> Callable[[Job, Resources, Progress], Outcome]:
    """The way to start a training with these resources."""
    return in_this_process if fitted.workers == 0 else on_workers


@contextlib.contextmanager
def session(settings: Settings, wanted: Resources, progress: Progress) -> Iterator[Resources]:
    """Ray, if this run needs it; yields the resources that really fit. A cluster started here is stopped at the end."""
    if wanted.workers == 0:
        yield wanted
        return
    progress({"kind": "connecting", "address": settings.scaling.address})
    connection = cluster.connect(settings.scaling.address)
    try:
        progress(
            {
                "kind": "connected",
                "dashboard": cluster.dashboard_hint(connection["dashboard"]),
                "logs": str(connection["logs"]),
            }
        )
        yield resources.fit_cluster(
            wanted, connection["nodes"], settings.scaling.use_gpu if settings.scaling.address else wanted.use_gpu
        )
    finally:
        if connection["local"]:
            cluster.disconnect()


class _Local:
    """A reporter for the process that also shows the progress."""

    def __init__(self, progress: Progress, flag: StopFlag) -> None:
        self.progress, self.flag = progress, flag

    def __call__(self, event: dict[str, Any]) -> None:
        self.progress(event)

    def should_stop(self) -> str | None:
        return self.flag.reason


def in_this_process(job: Job, fitted: Resources, progress: Progress) -> Outcome:
    """Ray Train's local mode (``num_workers=0``): no Ray processes, the first step at once."""
    cluster.quiet_environment()
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.ERROR)  # it announces its local mode as if it were a fault
    flag = StopFlag()
    found: list[Outcome] = []

    def function() -> None:
        found.append(train(job, _Local(progress, flag)))

    with signals(flag):
        TorchTrainer(
            function,
            scaling_config=ScalingConfig(num_workers=0),
            run_config=RunConfig(name=os.path.basename(job.folder)),
        ).fit()
    return found[0]


def on_workers(
    job: Job, fitted: Resources, progress: Progress, should_stop: Callable[[], str | None] = lambda: None
) -> Outcome:
    """``TorchTrainer`` with DDP, one worker per GPU (or so many CPUs). Ray must be connected.

    Where processes or nodes are lost, another attempt goes on from the newest checkpoint that verifies, at most
    ``scaling.max_failures`` times; after a preemption notice as often as there is another place to train.

    Args:
        should_stop: is asked besides the signals: a branch of a sweep is stopped by its driver.

    Raises:
        Interrupted: a signal asked to stop; a checkpoint was committed. TrainingError: the training failed, or its
        processes were lost more often than allowed.
    """
    settings = Settings.model_validate(job.settings)
    left = settings.scaling.max_failures
    flag = StopFlag()
    with attempt.forwarding(flag) as current:
        while True:
            verdict, trace = attempt.run(job, fitted, settings, progress, should_stop, flag, current)
            if verdict.ended is not None:
                return Outcome(int(verdict.ended["epochs"]), float(verdict.ended["best_acc"]))
            assert verdict.error is not None
            if trace is not None:
                progress({"kind": "traceback", **trace})
            if flag.reason is not None and verdict.retry:
                raise Interrupted(f"Stopped by {flag.reason} while the workers failed. {_newest(job)}") from None
            if not verdict.retry or (verdict.counts and left == 0):
                raise verdict.error
            left -= verdict.counts
            job = _another(job, fitted, verdict.reason, verdict.error, progress)


def _newest(job: Job) -> str:
    good, _ = Experiment(job.folder).newest_good()
    return f"The newest checkpoint is {good.file}." if good else "There was no checkpoint yet."


def _another(job: Job, fitted: Resources, reason: str, error: RaysweepError, progress: Progress) -> Job:
    """``job`` from the newest checkpoint of its own folder that verifies, once there are nodes to train it on.

    Raises:
        RaysweepError: ``error``, where the nodes that are left are too few.
    """
    cluster.remove_leftovers()
    deadline = time.monotonic() + WAIT_FOR_NODES_S
    while not _fits(fitted):
        if time.monotonic() > deadline:
            raise error
        time.sleep(1)
    folder = Path(job.folder)
    experiment = Experiment(folder)
    # A worker that only seemed to be dead must not write beside the new one.
    job = replace(job, token=WriterLock(folder, job.token).renew().token)
    good, problems = experiment.newest_good(checkpoint.misplaced)
    where = "the start" if good is None else good.file
    if good is not None:
        job = from_own_checkpoint(job, os.path.join(job.folder, good.file), good.epoch, good.batch)
    if isinstance(error, Interrupted):
        lineage.record(folder, lineage.INTERRUPTED, reason=str(error))
    lineage.record(folder, lineage.CONTINUED, checkpoint=where, reason=reason, damaged=problems or None)
    progress({"kind": "warning", "text": f"{reason[0].upper()}{reason[1:]}. Going on from {where}."})
    return job


def _fits(fitted: Resources) -> bool:
    """Whether the nodes that are alive and stay can hold all workers at once."""
    try:
        resources.fit_cluster(replace(fitted, threads=fitted.cpus), cluster.nodes(), fitted.use_gpu)
    except ResourceError:
        return False
    return True
