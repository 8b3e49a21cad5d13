"""Events from processes elsewhere to the driver, and the wish to stop back to them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

JOIN_S = 120


class Mailbox:
    """An actor between rank 0 and the driver: events one way, the wish to stop the other."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.reason: str | None = None

    def put(self, event: dict[str, Any]) -> str | None:
        self.events.append(event)
        return self.reason

    def take(self) -> list[dict[str, Any]]:
        taken, self.events = self.events, []
        return taken

    def stop(self, reason: str) -> None:
        self.reason = reason


class MailboxReporter:
    """Rank 0's reporter on a worker: sends without waiting, and reads the answer when it has come."""

    def __init__(self, mailbox: Any) -> None:
        import ray

        self.ray, self.mailbox, self.answer, self.reason = ray, mailbox, None, None

    def __call__(self, event: dict[str, Any]) -> None:
        answer = self.mailbox.put.remote(event)
        if self.answer is None:
            self.answer = answer

    def should_stop(self) -> str | None:
        if self.answer is not None and self.ray.wait([self.answer], timeout=0)[0]:
            self.reason = self.ray.get(self.answer) or self.reason
            self.answer = None
        return self.reason


def open_mailbox() -> Any:
    """A new mailbox actor; Ray must be connected."""
    import ray

    return ray.remote(num_cpus=0)(Mailbox).remote()


def take(mailbox: Any) -> list[dict[str, Any]]:
    """What has come in since the last call; nothing where the mailbox does not answer."""
    import ray

    try:
        return ray.get(mailbox.take.remote(), timeout=30)
    except ray.exceptions.RayError:
        return []


def watch(
    thread: threading.Thread, mailbox: Any, poll_s: float, handle: Callable[[list[dict[str, Any]]], None]
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
            time.sleep(poll_s)
    except BaseException:
        mailbox.stop.remote("an error in the driver")
        thread.join(timeout=JOIN_S)
        raise
