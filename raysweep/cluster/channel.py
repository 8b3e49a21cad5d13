"""The event channel: an actor that carries events from the training processes to the driver, and requests to stop back."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from raysweep._text import ascii_form
from raysweep.cluster import dashboard, signals
from raysweep.events import BatchDone, BranchEvent, BranchStarted, Event, RankEvent

GONE_S = 5.0  # how long a channel that shall forward a request to stop may be silent, once it has been heard
LAST_S = 30.0  # how long it may take to answer when nothing trains any more
JOIN_S = 120  # how long a training may take to stop after an error in the driver


class Channel:
    """The actor between the training processes and the driver. It also holds the tasks that the dashboard shows."""

    def __init__(self, title: str = "") -> None:
        self.title = title
        self.events: list[Event | RankEvent] = []  # that the driver has not taken yet
        self.reason: str | None = None  # why to stop
        self.begun: set[str] = set()  # branches
        self.shown: dict[str | None, threading.Event] = {}  # branch, None for a run → set when its task shall end
        self.problems: dict[str | None, str] = {}  # branch, None for a run → why it failed

    def __repr__(self) -> str:
        return self.title or type(self).__name__  # the dashboard lists the actor by it

    def put(self, event: Event | RankEvent) -> str | None:
        """Add an event. Returns why to stop, or None."""
        self.events.append(event)
        return self.reason

    def begin(self, branch: str) -> tuple[str | None, bool]:
        """A branch asks whether it may begin.

        Returns:
            Why to stop instead, or None; and whether the branch has begun before, which means that it has a folder.
        """
        again = branch in self.begun
        if self.reason is None:
            self.begun.add(branch)
            self.events.append(BranchEvent(branch, BranchStarted()))
        return self.reason, again

    def take(self) -> list[Event | RankEvent]:
        """The events since the last call."""
        taken, self.events = self.events, []
        return taken

    def stop(self, reason: str) -> None:
        """Ask every sender to stop. They see it in the answer to their next event."""
        self.reason = reason

    def show(self, key: str | None) -> None:
        """Wait until :meth:`hide` is called for ``key``; see :mod:`raysweep.cluster.dashboard`.

        Raises:
            RuntimeError: ``hide`` was called with a problem. The dashboard then shows this task as failed.
        """
        self.shown.setdefault(key, threading.Event()).wait()
        del self.shown[key]
        problem = self.problems.pop(key, None)
        if problem is not None:
            raise RuntimeError(problem)

    def hide(self, key: str | None, problem: str | None) -> None:
        """End the :meth:`show` of ``key``, with a ``problem`` as failed."""
        if problem is not None:
            self.problems[key] = problem
        self.shown.setdefault(key, threading.Event()).set()


class Sparse:
    """Drops events of batches that come sooner than ``every_s`` seconds after the last one that passed."""

    def __init__(self, every_s: float) -> None:
        self.every_s, self.last = every_s, -math.inf

    def passes(self, event: Event) -> bool:
        if not isinstance(event, BatchDone):
            return True
        now = time.monotonic()
        if now - self.last < self.every_s:
            return False
        self.last = now
        return True


class ChannelReporter:
    """Rank 0's reporter on a worker. It sends events without waiting, and reads an answer once it has arrived.

    Args:
        channel: the handle of the :class:`Channel` actor.
        batch_every_s: seconds between two events of batches; those in between are dropped.
        branch: the branch that sends the events; None: a run.
    """

    def __init__(self, channel: Any, batch_every_s: float, branch: str | None = None) -> None:
        import ray

        self.ray, self.channel, self.answer, self.reason = ray, channel, None, None
        self.sparse, self.branch = Sparse(batch_every_s), branch

    def __call__(self, event: Event) -> None:
        if not self.sparse.passes(event):
            return
        answer = self.channel.put.remote(event if self.branch is None else BranchEvent(self.branch, event))
        if self.answer is None:
            self.answer = answer

    def should_stop(self) -> str | None:
        """Why to stop, or None."""
        if self.answer is not None and self.ray.wait([self.answer], timeout=0)[0]:
            self.reason = self.ray.get(self.answer) or self.reason
            self.answer = None
        return self.reason


class Forward:
    """Passes a request to stop on to the senders, once. The driver calls it regularly; a signal's handler only sets a flag."""

    def __init__(self, channel: Any) -> None:
        self.channel, self.told, self.answer = channel, False, None

    def __call__(self, reason: str | None) -> None:
        if reason is not None and not self.told:
            self.told = True
            self.answer = self.channel.stop.remote(reason)

    def arrived(self) -> bool:
        """Whether the channel has got the request: from then on no branch begins."""
        import ray

        return self.told and bool(ray.wait([self.answer], timeout=0)[0])


def open_channel(title: str = "", shown: int = 1) -> Any:
    """Start the actor of a new event channel. Ray must be connected.

    Args:
        title: the actor's name on the dashboard.
        shown: how many trainings the dashboard may show as running at once.

    Returns:
        The actor's handle.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the driver's node: when another node is lost, the events of the remaining nodes must still arrive. Ray would put an
    # actor without CPUs on a random node.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(
        num_cpus=0,
        scheduling_strategy=here,
        concurrency_groups={dashboard.GROUP: min(shown, dashboard.MOST)},
        enable_task_events=False,  # on the job's page thousands of calls would hide the trainings
    )(Channel)
    return actor.remote(ascii_form(title))


class Inbox:
    """The driver's end of a channel. A call that the channel has not answered in time is kept, so that no event is lost."""

    def __init__(self, channel: Any) -> None:
        self.channel, self.call = channel, None

    def take(self, patience_s: float) -> list[Event | RankEvent] | None:
        """The events since the last call; None if the channel does not answer within ``patience_s``."""
        import ray

        try:
            self.call = self.call or self.channel.take.remote()
            if not ray.wait([self.call], timeout=patience_s)[0]:
                return None
            call, self.call = self.call, None
            taken: list[Event | RankEvent] = ray.get(call)
            return taken
        except ray.exceptions.RayError:
            self.call = None
            return None


def watch(
    thread: threading.Thread,
    channel: Any,
    poll_s: float,
    handle: Callable[[list[Event | RankEvent]], None],
    asked: Callable[[], str | None] = lambda: None,
    over: Callable[[], bool] = lambda: False,
) -> None:
    """Start ``thread``, which trains, and pass the events to ``handle`` until the thread has ended and no event is left.

    An error in ``handle`` stops the training before it is raised, so that nothing trains without a driver.

    Args:
        asked: why to stop, or None. Who asks may have ended Ray's processes, too: then nobody is left to wait for.
        over: whether nothing is left to wait for although the thread has not ended; asked after each ``handle``.
    """
    thread.start()
    inbox, heard, patience_s = Inbox(channel), time.monotonic(), signals.GRACE_S
    try:
        while True:
            running = thread.is_alive()
            events = inbox.take(poll_s if running else LAST_S)
            handle(events or [])
            if not running or over():
                return
            if events is not None:
                heard, patience_s = time.monotonic(), GONE_S
            if asked() and time.monotonic() - heard > patience_s:
                return
            thread.join(timeout=poll_s)
    except BaseException:
        channel.stop.remote("an error in the driver")
        thread.join(timeout=JOIN_S)
        raise
