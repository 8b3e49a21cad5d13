"""``python -m raysweep.trackers.worker mlflow``: brings experiments up to date in one tracker, as it is asked to.

A process of its own, because what a tracker does in it (imports of seconds, global random numbers, threads, a call that
never returns) cannot touch the training. It is asked by lines of JSON, ``{"folder": …, "root": …, "number": 3}`` or
``{"end": true}``, answers each with ``{"folder": …, "number": 3, "error": null}``, and ends at once where the asking process has died.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from raysweep._text import truncate
from raysweep.store.root import Root
from raysweep.trackers import snapshot
from raysweep.trackers.base import make

NICE = 19  # the training goes first


class _Wanted:
    """What is still to be done: per experiment only the newest request, since each brings it wholly up to date."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.requests: dict[str, int] = {}
        self.ended = False

    def listen(self, stream: Any) -> None:
        """Take requests from a stream until its end."""
        for line in stream:
            request = json.loads(line)
            with self.changed:
                if request.get("end"):
                    self.ended = True
                else:
                    Root.open(request["root"], look=False)  # what is written there is uploaded
                    self.requests[request["folder"]] = request["number"]
                self.changed.notify()
        if not self.ended:  # whoever asks is gone; another process may soon go on with the same experiments
            os._exit(1)

    def next(self) -> tuple[str, int] | None:
        """The next request; waits for one. None: there will be no more."""
        with self.changed:
            self.changed.wait_for(lambda: self.requests or self.ended)
            if not self.requests:
                return None
            folder = next(iter(self.requests))
            return folder, self.requests.pop(folder)


def main(kind: str) -> None:
    """Serve one tracker until there is nothing more to do."""
    os.nice(NICE)
    requests, answers = os.fdopen(os.dup(0), "r", encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):  # libraries ask for a login and print as they like
        os.dup2(nowhere, number)
    wanted = _Wanted()
    threading.Thread(target=wanted.listen, args=(requests,), daemon=True).start()
    tracker: Any = None

    def answer(**value: Any) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    while (request := wanted.next()) is not None:
        folder, number = request
        error = None
        try:
            tracker = tracker or make(kind)
            tracker.sync(snapshot.read(Path(folder)))
        except Exception as problem:
            error = reason(problem)
        answer(folder=folder, number=number, error=error)
    try:
        if tracker is not None:
            tracker.close()
    except Exception as problem:
        answer(folder=None, number=0, error=reason(problem))
    os._exit(0)  # a library's thread must not keep it


def reason(problem: BaseException) -> str:
    """An error's first line, for people."""
    lines = str(problem).strip().splitlines()
    return truncate(f"{type(problem).__name__}: {lines[0]}" if lines else type(problem).__name__, 300)


if __name__ == "__main__":
    main(sys.argv[1])
