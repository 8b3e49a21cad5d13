"""Events from processes elsewhere to the driver, and the wish to stop back to them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from raysweep.cluster import dashboard
from raysweep.events import BatchDone, BranchEvent, BranchStarted, Event, RankEvent

JOIN_S = 120


class Channel:
    """An actor between rank 0 and the driver: events one way, the wish to stop the other."""

    def __init__(self, title: str = "") -> None:
        self.title = title
        self.events: list[Event | RankEvent] = []
        self.reason: str | None = None
        self.begun: set[str] = set()
        self.shown: dict[str | None, threading.Event] = {}
        self.problems: dict[str | None, str] = {}

    def __repr__(self) -> str:
        return self.title or type(self).__name__  # the dashboard shows it among the actors

    def put(self, event: Event | RankEvent) -> str | None:
        self.events.append(event)
        return self.reason

    def begin(self, branch: str) -> tuple[str | None, bool]:
        """A branch asks whether it may begin: why it may not, and whether it has begun before, so that it has a folder."""
        again = branch in self.begun
        if self.reason is None:
            self.begun.add(branch)
        self.events.append(BranchEvent(branch, BranchStarted()))
        return self.reason, again

    def take(self) -> list[Event | RankEvent]:
        taken, self.events = self.events, []
        return taken

    def stop(self, reason: str) -> None:
        self.reason = reason

    def show(self, key: str | None) -> None:
        """Return when :meth:`hide` is called for ``key``; see :mod:`raysweep.cluster.dashboard`."""
        self.shown.setdefault(key, threading.Event()).wait()
        del self.shown[key]
        problem = self.problems.pop(key, None)
        if problem is not None:
            raise RuntimeError(problem)

    def hide(self, key: str | None, problem: str | None) -> None:
        if problem is not None:
            self.problems[key] = problem
        self.shown.setdefault(key, threading.Event()).set()


class ChannelReporter:
    """Rank 0's reporter on a worker: sends without waiting, and reads the answer when it has come.

    Args:
        batch_every_s: of the batches, no more than one in so many seconds is told.
        branch: whose events these are; None: of a run of its own.
    """

    def __init__(self, mailbox: Any, batch_every_s: float, branch: str | None = None) -> None:
        import ray

        self.ray, self.mailbox, self.answer, self.reason = ray, mailbox, None, None
        self.batch_every_s, self.told, self.branch = batch_every_s, -math.inf, branch

    def __call__(self, event: Event) -> None:
        if isinstance(event, BatchDone):
            if time.monotonic() - self.told < self.batch_every_s:
                return
            self.told = time.monotonic()
        answer = self.mailbox.put.remote(event if self.branch is None else BranchEvent(self.branch, event))
        if self.answer is None:
            self.answer = answer

    def should_stop(self) -> str | None:
        if self.answer is not None and self.ray.wait([self.answer], timeout=0)[0]:
            self.reason = self.ray.get(self.answer) or self.reason
            self.answer = None
        return self.reason


def open_channel(title: str = "", shown: int = 1) -> Any:
    """A new mailbox actor; Ray must be connected.

    Args:
        title: what the dashboard calls it. shown: how many trainings it may show as running at once.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Beside the driver: the loss of any other node must not take away what the nodes that are left have to tell. Ray puts
    # an actor without CPUs on a random node unless it is bound to one.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(
        num_cpus=0,
        scheduling_strategy=here,
        concurrency_groups={dashboard.GROUP: min(shown, dashboard.MOST)},
        enable_task_events=False,  # on the job's page the many letters would hide what it is about
    )(Channel)
    return actor.remote(title)


def take(mailbox: Any) -> list[Event | RankEvent]:
    """What has come in since the last call; nothing where the mailbox does not answer."""
    import ray

    try:
        return ray.get(mailbox.take.remote(), timeout=30)
    except ray.exceptions.RayError:
        return []


def watch(
    thread: threading.Thread, mailbox: Any, poll_s: float, handle: Callable[[list[Event | RankEvent]], None]
) -> None:
    """Start ``thread`` and give what comes by mail to ``handle`` until it has ended and the last mail is read.

    An error in ``handle`` stops what is being trained before it is raised: nothing may go on that nobody watches.
    """
    thread.start()
    try:
        while True:
            running = thread.is_alive()
            handle(take(mailbox))
            if not running:
                return
            thread.join(timeout=poll_s)
    except BaseException:
        mailbox.stop.remote("an error in the driver")
        thread.join(timeout=JOIN_S)
        raise
