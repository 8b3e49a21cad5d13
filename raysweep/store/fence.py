"""The kernel's locks on a folder: one that its writer holds for life, one for the moment of a change.

Both are ranges of one file that is never replaced or deleted. They belong to an open file (``F_OFD_SETLK``): the server of a
network file system knows them, unlike flock's, and closing the file elsewhere in this process does not lose them, as it would
classic POSIX locks. A forked child would share them; so it closes these files, and whoever unlocks does so explicitly.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from raysweep import _locks
from raysweep.store.layout import FENCE

_LIFE, _CHANGE = 0, 1  # the bytes of the file that are locked
_FLOCK = "hhqqi"  # struct flock of 64-bit Linux: type, whence, start, length, pid
_POLL_S = 0.02
_open: set[int] = set()


def _ask(fd: int, command: str, kind: str, byte: int) -> bool:
    """Whether the kernel answers with another kind of lock than ``F_UNLCK``. Raises OSError on systems without such locks."""
    asked = struct.pack(_FLOCK, _locks.number(kind), os.SEEK_SET, byte, 1, 0)
    return bool(struct.unpack(_FLOCK, _locks.control(fd, command, asked))[0] != _locks.number("F_UNLCK"))


def _opened(folder: Path) -> int:
    fd = os.open(folder / FENCE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), 0o666)
    _open.add(fd)
    return fd


def _close(fd: int, byte: int) -> None:
    _open.discard(fd)
    with contextlib.suppress(OSError):
        _ask(fd, "F_OFD_SETLK", "F_UNLCK", byte)
    os.close(fd)


def _in_child() -> None:
    for fd in _open:
        with contextlib.suppress(OSError):
            os.close(fd)
    _open.clear()


if hasattr(os, "register_at_fork"):  # only where processes can be forked
    os.register_at_fork(after_in_child=_in_child)


@contextlib.contextmanager
def alone(folder: Path, patience_s: float | None = None) -> Iterator[None]:
    """Let only one process, and one thread of it, at a time change a folder. If it dies, the kernel lets the next one in.

    Args:
        patience_s: how long to wait for another process; None: as long as it takes.

    Raises:
        TimeoutError: another process did not end its change in time. OSError: the folder cannot be written.
        ResourceError: this system has no locks.
    """
    _locks.demand()
    fd = _opened(folder)
    try:
        _wait(fd, patience_s)
        yield
    finally:
        _close(fd, _CHANGE)


def _wait(fd: int, patience_s: float | None) -> None:
    deadline = None if patience_s is None else time.monotonic() + patience_s
    while True:
        try:
            _ask(fd, "F_OFD_SETLKW" if deadline is None else "F_OFD_SETLK", "F_WRLCK", _CHANGE)
            return
        except (BlockingIOError, PermissionError):
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError from None
            time.sleep(_POLL_S)
        except OSError:  # not on this system or file system
            with contextlib.suppress(OSError):  # nor flock; the token is still checked
                _locks.flock(fd, _locks.ALONE)
            return


def hold(folder: Path, token: str) -> int | None:
    """Lock a folder for the life of its writer, and leave the writer's token in the file. The caller is :func:`alone`.

    Returns:
        What :func:`let_go` takes; None if the kernel cannot lock here, or somebody who has lost the folder still holds it.
    """
    fd = _opened(folder)
    try:
        _ask(fd, "F_OFD_SETLK", "F_WRLCK", _LIFE)
        os.ftruncate(fd, 0)
        os.pwrite(fd, token.encode(), 0)
    except OSError:
        _close(fd, _LIFE)
        return None
    return fd


def let_go(held: int) -> None:
    """Give back what :func:`hold` returned."""
    _close(held, _LIFE)


def is_held(folder: Path, token: str) -> bool | None:
    """Whether the writer with this token still holds its folder; None if the kernel cannot be asked, or the writer could not
    lock this very file, as on another file system. Never waits, and disturbs nobody."""
    try:
        fd = os.open(folder / FENCE, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if os.pread(fd, 100, 0) != token.encode():
                return None
            return _ask(fd, "F_OFD_GETLK", "F_WRLCK", _LIFE)
        finally:
            os.close(fd)
    except OSError:
        return None
