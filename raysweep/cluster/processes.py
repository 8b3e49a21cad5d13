"""The processes of a Ray cluster that this program has started: none of them outlives it.

Ray's own end takes its agents a minute and more, and its processes start others, of which nobody knows the parent any more.
So each of them carries a mark in its environment, which everything that it starts inherits.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "RAYSWEEP_CLUSTER_OF"
# Ray's processes give themselves titles. Without this variable, a title is written over the beginning of the process's
# environment, and the mark is lost where it stands there.
KEEP = "SPT_NOENV"
_PROC = Path("/proc")  # where there is none, as on macOS, Ray's own end has to do


@contextlib.contextmanager
def marked() -> Iterator[str]:
    """Processes that are started within this block carry the mark that it yields."""
    mark = f"{os.getpid()}-{secrets.token_hex(4)}"
    before = os.environ.get(KEEP)
    os.environ.update({MARK: mark, KEEP: "1"})
    try:
        yield mark
    finally:
        for name, value in {MARK: None, KEEP: before}.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


def with_mark(mark: str) -> list[int]:
    """Process ids of the living processes that carry ``mark``; never this process."""
    entry = f"{MARK}={mark}".encode()
    found = []
    for folder in _PROC.iterdir() if _PROC.is_dir() else ():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                if entry in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def is_mine(mark: str) -> bool:
    """Whether this process has started the cluster with this mark. A fork of it has not, although it knows the mark."""
    return mark.partition("-")[0] == str(os.getpid())


def end(mark: str, patience_s: float = 2.0) -> None:
    """Kill all processes that carry ``mark``, also those that they start meanwhile."""
    deadline, none = time.monotonic() + patience_s, 0
    # Twice none: at the moment in which a process begins another program, nobody can read its environment.
    while none < 2 and time.monotonic() < deadline:
        left = with_mark(mark)
        none = 0 if left else none + 1
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
