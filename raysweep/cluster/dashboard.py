"""Names on Ray's dashboard: the job's, and those of every run or branch while it trains.

An actor trains one branch after another, so that Ray cannot name a process after a branch. Instead a task that only waits
stands for it: it has the experiment's name, runs as long as the branch, and is listed on the job's page.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from raysweep._text import ascii_form
from raysweep.events import BranchEnded, BranchEvent, Event, ExperimentStarted

GROUP = "shown"  # the concurrency group of the channel's actor in which these tasks wait
MOST = 64  # tasks at once; further ones are shown as pending


def job_config(name: str | None) -> Any:
    """The ``job_config`` for ``ray.init`` that names the job. A submitted job keeps the name it was submitted with."""
    from ray.job_config import JobConfig

    return JobConfig(metadata={"job_name": ascii_form(name)}) if name else JobConfig()


class Shown:
    """The tasks that stand for trainings, by branch (None: a run). Errors of these tasks are ignored: they are for display only."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.running: dict[str | None, Any] = {}
        self.failed: list[Any] = []

    def __call__(self, event: Event) -> None:
        """Begin and end the tasks of branches. Takes the events of a sweep."""
        match event:
            case BranchEvent(branch, ExperimentStarted(id=name)):
                self.begin(branch, name)
            case BranchEvent(branch, BranchEnded(status=status, reason=reason)):
                self.end(branch, reason if status == "failed" else None)

    def begin(self, branch: str | None, name: str) -> None:
        """Show ``name`` as running, unless it is shown already: a branch whose process was lost begins again."""
        with contextlib.suppress(Exception):
            if branch not in self.running:
                method = self.channel.show.options(
                    name=ascii_form(name), concurrency_group=GROUP, enable_task_events=True
                )
                self.running[branch] = method.remote(branch)

    def end(self, branch: str | None, problem: str | None = None) -> None:
        """Show the branch as finished, or, with a problem, as failed."""
        with contextlib.suppress(Exception):
            task = self.running.pop(branch, None)
            if task is not None:
                self.channel.hide.remote(branch, problem)
                if problem is not None:  # close() gets its error, because Ray prints errors that nobody gets
                    self.failed.append(task)

    def close(self, problems: Mapping[Any, str | None]) -> None:
        """End the remaining tasks, and wait up to two seconds for each, before the channel is killed.

        Args:
            problems: why branches failed, by branch.
        """
        import ray

        left = list(self.running.values())
        for branch in list(self.running):
            self.end(branch, problems.get(branch))
        for task in {*left, *self.failed}:
            with contextlib.suppress(Exception):
                ray.get(task, timeout=2)
