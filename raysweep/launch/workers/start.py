"""The two ways to start one training: in this process, or on Ray workers. Same function, same folder."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from raysweep._text import ascii_form
from raysweep.cluster import autoscaler, connect, shared_root
from raysweep.cluster.nodes import answering_nodes, remove_leftovers
from raysweep.cluster.signals import BEFORE, StopFlag, signals
from raysweep.config.settings import Settings
from raysweep.errors import Interrupted, RaysweepError, ResourceError
from raysweep.events import Connected, Connecting, Event, Note, Progress
from raysweep.launch.workers import attempt
from raysweep.plan import resources
from raysweep.plan.resources import Resources
from raysweep.store import checkpoint, lineage
from raysweep.store.experiment import Experiment
from raysweep.store.lock import WriterLock
from raysweep.training.job import Job, Outcome, from_own_checkpoint
from raysweep.training.loop import train

RAY_KNOWS_S = 90.0  # Ray asks a node five times, every three seconds, for ten seconds, until it declares it dead


def launcher(fitted: Resources) -> Callable[[Job, Resources, Progress], Outcome]:
    """The function that starts a training with these resources."""
    return in_this_process if fitted.workers == 0 else on_workers


@contextlib.contextmanager
def session(settings: Settings, wanted: Resources, progress: Progress) -> Iterator[Resources]:
    """Ray, if this run needs it; yields the resources that really fit. A cluster started here is stopped at the end."""
    if wanted.workers == 0:
        connect.quiet_environment()
        import ray.train.torch  # noqa: F401  # takes seconds: now, while a signal may still end the program at any time

        yield wanted
        return
    progress(Connecting(settings.scaling.address))
    connection = connect.connect(settings.scaling.address, name=settings.experiment.name)
    try:
        progress(Connected(connect.dashboard_hint(connection.dashboard), str(connection.logs)))
        use_gpu = settings.scaling.use_gpu if settings.scaling.address else wanted.use_gpu
        with autoscaler.fleet(settings.scaling, progress) as fleet:
            fleet.ask(resources.bundles(wanted, use_gpu))
            found = fleet.until(lambda nodes: _fitting(wanted, nodes, use_gpu))
            fleet.ask(resources.bundles(found, found.use_gpu))  # what came beyond that may go
            if settings.scaling.address:
                shared_root.check(settings.root, progress)
            if wanted.worker_range is not None and found.workers < wanted.worker_range[1]:
                text = f"There is room for {found.workers} of {wanted.worker_range[1]} workers. More are used only when it is started again."
                progress(Note(text))
            yield found
    finally:
        if connection.local:
            connect.disconnect()


def _fitting(wanted: Resources, nodes: list[dict[str, float]], use_gpu: bool | str) -> tuple[Resources, bool]:
    """What the nodes hold, and whether it is all that is wanted."""
    found = resources.fit_cluster(wanted, nodes, use_gpu)
    return found, wanted.worker_range is None or found.workers == wanted.worker_range[1]


class _Local:
    """A reporter for the process that also shows the progress."""

    def __init__(self, progress: Progress, flag: StopFlag) -> None:
        self.progress, self.flag = progress, flag

    def __call__(self, event: Event) -> None:
        self.progress(event)

    def should_stop(self) -> str | None:
        return self.flag.reason


def in_this_process(job: Job, fitted: Resources, progress: Progress) -> Outcome:
    """Ray Train's local mode (``num_workers=0``): no Ray processes, the first step at once."""
    connect.quiet_environment()
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.ERROR)  # it warns about its local mode
    flag = StopFlag()
    found: list[Outcome] = []

    def function() -> None:
        found.append(train(job, _Local(progress, flag)))

    with signals(flag):
        if flag.reason is not None:
            raise Interrupted(f"Stopped by {flag.reason} {BEFORE}.", flag.reason)
        TorchTrainer(
            function,
            scaling_config=ScalingConfig(num_workers=0),
            run_config=RunConfig(name=ascii_form(os.path.basename(job.folder))),
        ).fit()
    return found[0]


def on_workers(
    job: Job, fitted: Resources, progress: Progress, should_stop: Callable[[], str | None] = lambda: None
) -> Outcome:
    """``TorchTrainer`` with DDP, one worker per GPU (or per group of CPUs). Ray must be connected.

    If processes or nodes are lost, another attempt starts from the newest checkpoint that verifies, at most
    ``scaling.max_failures`` times; after a preemption notice as often as there is another node to train on.

    Args:
        should_stop: why to stop, or None; asked besides the signals, since a branch of a sweep is stopped by its driver.

    Raises:
        Interrupted: a signal asked to stop; a checkpoint was committed. TrainingError: the training failed, or its
        processes were lost more often than allowed.
    """
    left = job.settings.scaling.max_failures
    flag = StopFlag()
    with signals(flag):
        while True:
            verdict, trace = attempt.run(job, fitted, progress, should_stop, flag)
            if verdict.ended is not None:
                return Outcome(verdict.ended.epochs, verdict.ended.best_acc)
            assert verdict.error is not None
            if trace is not None:
                progress(trace)
            if flag.reason is not None and verdict.retry:
                raise Interrupted(f"Stopped by {flag.reason} while the workers failed. {_newest(job)}") from None
            if not verdict.retry or (verdict.counts and left == 0):
                raise verdict.error
            left -= verdict.counts
            job, fitted = _another(job, fitted, verdict.reason, verdict.error, progress, flag)


def _newest(job: Job) -> str:
    good, _ = Experiment(job.folder).newest_good()
    return f"The newest checkpoint is {good.file}." if good else "There was no checkpoint yet."


def _another(
    job: Job, fitted: Resources, reason: str, error: RaysweepError, progress: Progress, flag: StopFlag
) -> tuple[Job, Resources]:
    """Wait for nodes; returns ``job`` from the newest checkpoint of its own folder that verifies, and the resources it gets.

    Raises:
        RaysweepError: ``error``, if too few nodes are left. Interrupted: ``flag`` was set meanwhile.
    """
    remove_leftovers()
    before = fitted.workers
    settings = job.settings
    try:
        fitted = _once_it_fits(fitted, error, autoscaler.after_a_loss(settings.scaling), flag)
    except Interrupted as stopped:
        raise Interrupted(f"{stopped} {_newest(job)}", stopped.reason) from None
    if settings.scaling.address:  # others may have joined
        shared_root.check(settings.root, progress)
    folder = Path(job.folder)
    experiment = Experiment(folder)
    # A worker that only seemed dead must not write beside the new one.
    job = replace(job, token=WriterLock(folder, job.token).renew().token)
    good, problems = experiment.newest_good(checkpoint.misplaced)
    where = "the start" if good is None else good.file
    if good is not None:
        job = from_own_checkpoint(job, os.path.join(job.folder, good.file), good.epoch, good.batch)
    if isinstance(error, Interrupted):
        lineage.record(folder, lineage.INTERRUPTED, reason=str(error))
    on = ""
    if fitted.workers != before:
        on = f" on {fitted.workers} worker{'s' * (fitted.workers > 1)} instead of {before}"
        job = replace(job, config=replace(job.config, world_size=fitted.workers))
        experiment.write_config(job.config)
        lineage.record(folder, lineage.CONFIGURATION, changes={"world_size": [before, fitted.workers]})
    lineage.record(folder, lineage.CONTINUED, checkpoint=where, reason=reason, damaged=problems or None)
    progress(Note(f"{reason[0].upper()}{reason[1:]}. Continuing from {where}{on}."))
    return job, fitted


def _once_it_fits(fitted: Resources, error: RaysweepError, seconds: float, flag: StopFlag) -> Resources:
    """Wait for nodes that hold all workers at once, or, for an elastic training, at least the smallest number; returns what they hold.

    Raises:
        RaysweepError: ``error``, if they do not come within ``seconds``. Interrupted: ``flag`` was set meanwhile.
    """
    # The threads decide the bits, the CPUs beyond them only the speed: a training that changes its size may lose them.
    needed = fitted if fitted.worker_range is not None else replace(fitted, threads=fitted.cpus)
    started = time.monotonic()
    while True:
        nodes, silent = answering_nodes()
        waited = time.monotonic() - started
        try:
            found = resources.fit_cluster(needed, nodes, fitted.use_gpu)
        except ResourceError:
            if waited > seconds:
                raise error from None
        else:
            # Until Ray knows that a node is gone, it would still give a worker to it.
            if not silent or waited > RAY_KNOWS_S:
                return found if fitted.worker_range is not None else fitted
        if flag.reason is not None:
            raise Interrupted(f"Stopped by {flag.reason} while it waited for nodes.", flag.reason)
        time.sleep(1)
