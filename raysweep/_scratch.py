"""Temporary folders of a process. What a killed process has left goes with the next one that is made, and at the end of a cluster.

Each is locked by its process for as long as it lives, so that nobody deletes what is in use: the kernel knows that also of
processes in other containers, and of processes whose number another one has by now.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from raysweep import _locks

_PREFIX = "raysweep-scratch-"
_NAME = re.compile(_PREFIX + r"[a-z]+-[0-9]+\.[a-z0-9_]{8}")
_mine: dict[Path, int] = {}  # folder → the open file that holds its lock, or -1
_process = 0  # in which they were made: a fork is not their owner


def folder(kind: str) -> Path:
    """A new folder that lasts as long as this process.

    Args:
        kind: a word in its name, such as ``code``.

    Raises:
        OSError: the temporary folder cannot be written, or is full.
    """
    global _process
    sweep()
    if _process != os.getpid():
        _mine.clear()
        _process = os.getpid()
        atexit.register(clean)
    while True:
        path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{kind}-{os.getpid()}.")).resolve()
        held = _held(path)
        if held is not None:  # else another process took it for a dead one's, in the moment before it was locked
            _mine[path] = held
            return path


@contextlib.contextmanager
def within(kind: str) -> Iterator[Path]:
    """A folder for this block."""
    path = folder(kind)
    try:
        yield path
    finally:
        _remove(path)


def clean() -> None:
    """Delete the folders of this process. A fork of it deletes none."""
    if _process == os.getpid():
        for path in [*_mine]:
            _remove(path)


def sweep() -> None:
    """Delete what processes of this user that have ended have left."""
    if not _locks.there():
        return
    here = Path(tempfile.gettempdir()).resolve()
    for path in (here / name for name in os.listdir(here) if _NAME.fullmatch(name)):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid != os.geteuid() or path in _mine:
                continue
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                _locks.flock(fd, _locks.ALONE | _locks.AT_ONCE)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(fd)


def _held(path: Path) -> int | None:
    """The lock on a new folder; -1 where there are no locks, and None if the folder is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        return None
    except OSError:  # a system where folders cannot be opened
        return -1
    with contextlib.suppress(OSError):  # a file system without locks, where nobody sweeps
        _locks.flock(fd, _locks.SHARED)
    if not path.is_dir():
        os.close(fd)
        return None
    return fd


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    held = _mine.pop(path, -1)
    if held >= 0:
        with contextlib.suppress(OSError):
            os.close(held)
