"""The two ways to start one training: in this process, or on Ray workers. Same function, same folder."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from raysweep import errors
from raysweep.config import Settings
from raysweep.errors import Interrupted, NonFiniteLossError, RaysweepError, TrainingError
from raysweep.launch import cluster, resources
from raysweep.launch.mailbox import MailboxReporter, open_mailbox, watch
from raysweep.launch.resources import Resources
from raysweep.launch.stopping import StopFlag, signals
from raysweep.store import lineage
from raysweep.store.experiment import Experiment
from raysweep.training.job import Job, Outcome, from_own_checkpoint
from raysweep.training.loop import train

Progress = Callable[[dict[str, Any]], None]
POLL_S = 0.2


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


def _worker(config: dict[str, Any]) -> None:
    """Runs on every Ray worker. What all ranks raise together travels as a message: it is no failure to retry."""
    import ray.train

    job: Job = config["job"]
    rank = ray.train.get_context().get_world_rank()
    reporter = MailboxReporter(config["mailbox"])
    end: dict[str, Any] = {"kind": "end"}
    if rank == 0:
        ray.get(config["mailbox"].put.remote({"kind": "attempt"}))
    try:
        outcome = train(_after_failure(job, rank), reporter)
        end |= {"epochs": outcome.epochs, "best_acc": outcome.best_acc}
    except (Interrupted, NonFiniteLossError) as error:
        end |= {"error": type(error).__name__, "message": str(error)}
    except RaysweepError as error:
        ray.get(
            config["mailbox"].put.remote({**end, "error": type(error).__name__, "message": str(error), "fatal": True})
        )
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        ray.get(
            config["mailbox"].put.remote(
                {
                    **end,
                    "error": "TrainingError",
                    "message": text,
                    "fatal": True,
                    "rank": rank,
                    "traceback": traceback.format_exc(),
                }
            )
        )
        raise
    if rank == 0:
        ray.get(config["mailbox"].put.remote(end))


def _after_failure(job: Job, rank: int) -> Job:
    """``job`` from the newest checkpoint of its own folder, where an earlier attempt has written one."""
    experiment = Experiment(job.folder)
    good, _ = experiment.newest_good()
    file = "" if good is None else os.path.join(job.folder, good.file)
    if good is None or job.start == file:
        return job
    if rank == 0:
        lineage.record(experiment.folder, lineage.CONTINUED, checkpoint=good.file, reason="a worker failed")
    return from_own_checkpoint(job, file, good.epoch, good.batch)


def on_workers(
    job: Job, fitted: Resources, progress: Progress, should_stop: Callable[[], str | None] = lambda: None
) -> Outcome:
    """``TorchTrainer`` with DDP, one worker per GPU (or so many CPUs). Ray must be connected.

    ``should_stop`` is asked besides the signals: a branch of a sweep is stopped by its driver.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    settings = Settings.model_validate(job.settings)
    mailbox = open_mailbox()
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job, "mailbox": mailbox},
        scaling_config=ScalingConfig(
            num_workers=fitted.workers,
            use_gpu=fitted.use_gpu,
            resources_per_worker={"CPU": fitted.cpus} | ({"GPU": 1} if fitted.use_gpu else {}),
        ),
        torch_config=TorchConfig(timeout_s=int(settings.scaling.timeout_s)),
        run_config=RunConfig(
            name=f"{os.path.basename(job.folder)}-{int(time.time() * 1000)}",  # a used name would silently resume Ray's state
            storage_path=os.path.join(ray_folder(settings.root), "train"),
            failure_config=FailureConfig(max_failures=settings.scaling.max_failures, controller_failure_limit=3),
        ),
    )
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)

    flag = StopFlag()
    ended: dict[str, Any] | None = None

    def handle(events: list[dict[str, Any]]) -> None:
        nonlocal ended
        for event in events:
            if event["kind"] == "attempt":
                ended = None  # what an attempt before it said no longer counts
            elif event["kind"] == "end":
                ended = event if ended is None or event.get("fatal") else ended
            else:
                progress(event)
        reason = should_stop()
        if reason is not None and flag.reason is None:
            flag.reason = reason
            mailbox.stop.remote(reason)

    # Not in the main thread: there Ray would replace our signal handler by one that aborts without saving.
    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    with signals(flag, lambda reason: mailbox.stop.remote(reason)):
        watch(thread, mailbox, POLL_S, handle)
    ray.kill(mailbox)
    if ended is not None and "error" in ended:
        if ended.get("traceback"):
            progress({"kind": "traceback", "text": ended["traceback"], "rank": ended["rank"]})
        raise getattr(errors, ended["error"], TrainingError)(ended["message"])
    if failure:
        raise TrainingError(
            f"Ray's workers failed: {_first_line(failure[0])}. Ray's own log files are under {cluster._session_dir()}/logs."
        ) from failure[0]
    if ended is None:
        raise TrainingError(
            f"The workers ended without a word. Ray's own log files are under {cluster._session_dir()}/logs."
        )
    return Outcome(int(ended["epochs"]), float(ended["best_acc"]))


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def ray_folder(root: str) -> str:
    """Where Ray keeps its own files of runs: with the caches, since nothing in them is needed again."""
    from raysweep.store import layout

    return os.path.abspath(os.path.join(root, layout.CACHES, "ray"))
