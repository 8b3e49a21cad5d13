"""One attempt to train on Ray workers: a ``TorchTrainer``, what its ranks report meanwhile, and what its end means."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep._text import ascii_form
from raysweep.cluster import connect
from raysweep.cluster.channel import ChannelReporter, Forward, open_channel, watch
from raysweep.cluster.dashboard import Shown
from raysweep.cluster.nodes import Notices
from raysweep.cluster.signals import StopFlag
from raysweep.errors import Interrupted, NonFiniteLossError, RaysweepError, TrainingError
from raysweep.events import Event, Progress, RankDone, RankEvent, RankFailed, RankStarted, RankTraceback
from raysweep.launch.workers import retry, transport
from raysweep.launch.workers.retry import Verdict
from raysweep.plan.resources import Resources
from raysweep.store import layout
from raysweep.store.root import Root
from raysweep.training import guest_errors
from raysweep.training.job import Job
from raysweep.training.loop import train

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

POLL_S = 0.5  # the driver and its event channel share the CPUs with the ranks


class _Reporter(ChannelReporter):
    """Rank 0's reporter; it also asks to stop if Ray says that a node of this training will be taken away."""

    def __init__(self, channel: Any, nodes: list[str]) -> None:
        super().__init__(channel, POLL_S)
        self.notices = Notices(nodes)

    def should_stop(self) -> str | None:
        return super().should_stop() or (retry.PREEMPTED if self.notices.arrived() else None)


def _worker(config: dict[str, Any]) -> None:
    """Runs on every Ray worker. How it ended travels as a message: Ray itself keeps only the text of an error."""
    import ray
    import ray.train

    job: Job = transport.arrived(config["job"])
    rank = ray.train.get_context().get_world_rank()

    def tell(event: RankEvent) -> None:
        ray.get(config["channel"].put.remote(event))

    context = ray.get_runtime_context()
    tell(RankStarted(context.current_actor, context.get_node_id()))
    end: RankEvent
    try:
        reporter = _Reporter(config["channel"], _gather(context.get_node_id()))
        outcome = train(job, reporter)
        end = RankDone(outcome.epochs, outcome.best_acc)
    except (Interrupted, NonFiniteLossError) as error:  # all ranks raise these together
        end = RankFailed(rank, error)
    except RaysweepError as error:
        tell(RankFailed(rank, error, fatal=True))
        raise
    except Exception as error:
        lost, place = _lost_peer(error), guest_errors.where(error)
        in_code = f" (in your code: {place})" if place else ""
        told = TrainingError(f"{type(error).__name__}: {error}{in_code}")
        tell(RankFailed(rank, told, fatal=not lost, lost_peer=lost, traceback=traceback.format_exc()))
        raise
    if rank == 0:
        tell(end)


def _gather(node: str) -> list[str]:
    """The nodes of all ranks."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return [node]
    nodes: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(nodes, node)
    return nodes


def _lost_peer(error: BaseException) -> bool:
    """Whether an error only says that another rank did not answer."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or any(w in str(error) for w in ("gloo/transport", "[gloo", "NCCL"))


def run(
    job: Job,
    fitted: Resources,
    progress: Progress,
    should_stop: Callable[[], str | None],
    flag: StopFlag,
) -> tuple[Verdict, RankTraceback | None]:
    """One ``TorchTrainer`` until it ends; returns what that means, and the traceback of the rank that failed.

    Args:
        should_stop: why to stop, or None; asked again and again besides ``flag``.
    """
    import ray

    timeout = job.settings.scaling.timeout_s
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(timeout)  # Ray hands it to its controller
    name = os.path.basename(job.folder)
    channel = open_channel(name)
    shown = Shown(channel)
    if ray.get_runtime_context().get_actor_id() is None:  # else it is a branch, which its sweep shows
        shown.begin(None, name)
    trainer = _trainer(job, fitted, channel)
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)

    ranks = _Ranks(channel, progress, should_stop, flag, timeout)
    # Not in the main thread: there Ray would replace our signal handler by one that aborts without saving.
    watch(
        threading.Thread(target=fit, name="ray-train", daemon=True), channel, POLL_S, ranks.handle, lambda: flag.reason
    )
    failed = ranks.failed
    shown.close({None: next((str(e.error) for e in failed), None)})
    ray.kill(channel)
    if ranks.hang:
        ranks.said.append(RankFailed(0, TrainingError("timed out"), lost_peer=True))
        failure.clear()
    logs = str(connect.session_logs())
    leaving = bool(failure) and Notices(ranks.nodes).arrived(now=True)
    Root.at(Path(job.folder).parent).refresh(Path(job.folder))  # the ranks may have written from other machines
    verdict = retry.judge(ranks.said, failure[0] if failure else None, timeout, logs, leaving)
    return verdict, next((RankTraceback(e.rank, e.traceback) for e in failed if e.traceback), None)


def _trainer(job: Job, fitted: Resources, channel: Any) -> TorchTrainer:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    return TorchTrainer(
        _worker,
        train_loop_config={"job": transport.portable(job), "channel": channel},
        scaling_config=ScalingConfig(
            num_workers=fitted.workers,
            use_gpu=fitted.use_gpu,
            resources_per_worker={"CPU": fitted.cpus} | ({"GPU": 1} if fitted.use_gpu else {}),
        ),
        torch_config=TorchConfig(timeout_s=max(1, int(job.settings.scaling.timeout_s))),
        run_config=RunConfig(
            name=ascii_form(os.path.basename(job.folder)),
            # From a folder that was used before, Ray would silently resume its state.
            storage_path=os.path.join(
                ray_folder(Root.at(Path(job.folder).parent)), "train", str(int(time.time() * 1000))
            ),
            # Whether another attempt is worth it depends on what happened, see retry.py: Ray cannot tell an error of the
            # program from a process that was lost.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=3, max_preemption_failures=0),
        ),
    )


class _Ranks:
    """What the ranks of one attempt report, and whether they hang."""

    def __init__(
        self, channel: Any, progress: Progress, should_stop: Callable[[], str | None], flag: StopFlag, timeout_s: float
    ) -> None:
        self.channel, self.progress, self.should_stop, self.flag = channel, progress, should_stop, flag
        self.timeout_s = timeout_s
        self.said: list[RankDone | RankFailed] = []
        self.actors: list[Any] = []
        self.nodes: list[str] = []
        self.heard = time.monotonic()
        self.hang = False
        self.stop = Forward(channel)

    @property
    def failed(self) -> list[RankFailed]:
        """The ranks that failed by a fault of their own."""
        return [e for e in self.said if isinstance(e, RankFailed) and e.fatal]

    def handle(self, events: list[Event | RankEvent]) -> None:
        """Called regularly with the new events, also if there are none."""
        for event in events:
            self.heard = time.monotonic()
            match event:
                case RankDone() | RankFailed():
                    self.said.append(event)
                case RankStarted(actor, node):
                    self.actors.append(actor)
                    self.nodes.append(node)
                case _:
                    self.progress(event)
        self.flag.reason = self.flag.reason or self.should_stop()
        self.stop(self.flag.reason)
        self._give_up_if_silent()

    def _give_up_if_silent(self) -> None:
        """Kill the ranks if all are silent. Ranks that only wait for each other time out by themselves before."""
        import ray

        silent = time.monotonic() - self.heard > 1.5 * self.timeout_s
        if self.actors and not self.said and not self.hang and silent:
            self.hang = True
            for actor in self.actors:
                ray.kill(actor)


def ray_folder(root: Root) -> str:
    """Where Ray keeps its own files of runs: with the caches, since nothing in them is ever needed again."""
    return os.path.abspath(root.path / layout.CACHES / "ray")
