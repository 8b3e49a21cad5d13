"""Names on Ray's dashboard: of the job, and of every run or branch while it trains.

A branch has no process of its own that Ray could name after it: actors train one after another. So a task that does
nothing stands for it, called like its experiment and running as long; the page of the job lists it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from raysweep.events import BranchEnded, BranchEvent, Event, ExperimentStarted

GROUP = "shown"  # the mailbox's threads in which these tasks wait
MOST = 64  # at once; more wait for their turn


def job_config(name: str | None) -> Any:
    """What ``ray.init`` takes to call the job so. A job that was submitted keeps the name it was given there."""
    from ray.job_config import JobConfig

    return JobConfig(metadata={"job_name": name}) if name else JobConfig()


class Shown:
    """The tasks that stand for what trains, by branch (None: a run of its own). Trouble with them is nobody's trouble."""

    def __init__(self, mailbox: Any) -> None:
        self.mailbox = mailbox
        self.running: dict[str | None, Any] = {}
        self.failed: list[Any] = []

    def __call__(self, event: Event) -> None:
        """Takes the events of a sweep."""
        match event:
            case BranchEvent(branch, ExperimentStarted(id=name)):
                self.begin(branch, name)
            case BranchEvent(branch, BranchEnded(status=status, reason=reason)):
                self.end(branch, reason if status == "failed" else None)

    def begin(self, branch: str | None, name: str) -> None:
        """Show ``name`` as running, unless it is already: a branch begins again where its process was lost."""
        with contextlib.suppress(Exception):
            if branch not in self.running:
                method = self.mailbox.show.options(name=name, concurrency_group=GROUP, enable_task_events=True)
                self.running[branch] = method.remote(branch)

    def end(self, branch: str | None, problem: str | None = None) -> None:
        """Show it as finished, or as failed with the reason."""
        with contextlib.suppress(Exception):
            task = self.running.pop(branch, None)
            if task is not None:
                self.mailbox.hide.remote(branch, problem)
                if problem is not None:  # kept: Ray prints an error that nobody has asked for
                    self.failed.append(task)

    def close(self, problems: Mapping[Any, str | None]) -> None:
        """End what is left, and wait a moment for it: the mailbox will be killed."""
        import ray

        left = list(self.running.values())
        for branch in list(self.running):
            self.end(branch, problems.get(branch))
        for task in {*left, *self.failed}:
            with contextlib.suppress(Exception):
                ray.get(task, timeout=2)
