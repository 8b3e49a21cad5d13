"""``python -m raysweep.trackers.worker mlflow``: the process of one tracker, which brings experiments up to date on request.

A tracker's package imports for seconds, draws global random numbers, starts threads and may never return from a call. In a
process of its own it cannot disturb the training. The process reads one JSON object per line: a :class:`Request`, or
``{"end": true}``. It answers each request with the JSON of an :class:`Answer`. If the process that sends the requests
dies, it exits at once.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from raysweep._text import hide_credentials, truncate
from raysweep.store.root import Root
from raysweep.trackers import snapshot
from raysweep.trackers.base import Tracker, make

NICE = 19  # the lowest priority, so that the training is not slowed down


@dataclass(frozen=True, slots=True)
class Request:
    """Bring the experiment in ``folder`` up to date. ``root`` is its root's path, or its address on an object store."""

    folder: str
    root: str
    number: int  # counts the requests of one folder


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of the request ``number`` of a folder.

    ``folder`` is None if the tracker could not be closed, which is an error of every experiment without an answer.
    """

    folder: str | None
    number: int
    error: str | None  # None: the experiment is up to date


class _Requests:
    """The requests that wait: the newest one of each experiment, because every request brings an experiment fully up to
    date."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.waiting: dict[str, int] = {}  # folder → number
        self.ended = False

    def listen(self, stream: Iterable[str]) -> None:
        """Take requests from a stream until its end."""
        for line in stream:
            value = json.loads(line)
            with self.changed:
                if value.get("end"):
                    self.ended = True
                else:
                    request = Request(**value)
                    Root.open(request.root, look=False)  # uploads what is written under this root
                    self.waiting[request.folder] = request.number
                self.changed.notify()
        if not self.ended:  # the other process has died, and another one may soon continue the same experiments
            os._exit(1)

    def next(self) -> tuple[str, int] | None:
        """Wait for a request and return its folder and number; None if there will be no more."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.ended)
            if not self.waiting:
                return None
            folder = next(iter(self.waiting))
            return folder, self.waiting.pop(folder)


def main(name: str) -> None:
    """Serve the tracker ``name`` until the last request is answered."""
    os.nice(NICE)
    stdin, stdout = os.fdopen(os.dup(0), "r", encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):  # packages print what they like and may ask for a login
        os.dup2(nowhere, number)
    requests = _Requests()
    threading.Thread(target=requests.listen, args=(stdin,), daemon=True).start()
    tracker: Tracker | None = None

    def answer(folder: str | None, number: int, error: Exception | None) -> None:
        message = Answer(folder, number, None if error is None else reason(error))
        stdout.write(json.dumps(asdict(message)) + "\n")
        stdout.flush()

    while (request := requests.next()) is not None:
        failed = None
        try:
            tracker = tracker or make(name)
            tracker.sync(snapshot.read(Path(request[0])))
        except Exception as error:
            failed = error
        answer(*request, failed)
    try:
        if tracker is not None:
            tracker.close()
    except Exception as error:
        answer(None, 0, error)
    os._exit(0)  # even if a thread of the package still runs


def reason(error: BaseException) -> str:
    """The type and the first line of an error, as messages show them."""
    lines = str(error).strip().splitlines()
    return truncate(hide_credentials(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__), 300)


if __name__ == "__main__":
    main(sys.argv[1])
