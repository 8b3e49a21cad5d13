"""One writer per experiment: a lock file that says who holds it, survives nothing it should not, and can be checked."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from raysweep.errors import LockedError, StoreError
from raysweep.store.files import read_json, remove, write_atomic
from raysweep.store.layout import LOCK


def _started(pid: int) -> str | None:
    """When a process of this machine started (so that a reused pid is not mistaken for it), or None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:  # systems without /proc
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


def holder(folder: Path) -> dict[str, Any] | None:
    """Who holds the lock, as written in it, or None if there is none (or it is torn)."""
    try:
        value = read_json(folder / LOCK)
        return value if isinstance(value, dict) and type(value.get("pid")) is int else None
    except (OSError, ValueError):
        return None


def alive(who: dict[str, Any]) -> bool | None:
    """Whether the holder still runs; None if it is on another host and cannot be asked."""
    if who.get("host") != socket.gethostname():
        return None
    found = _started(who["pid"])
    return found is not None and who.get("started") in (found, None)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process of this host at a time looks at the lock and replaces it; the kernel frees this at death."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # network file systems without flock: the token check still guards
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class WriterLock:
    """Held while writing. ``token`` proves to :meth:`check`, in any process, that nobody took the lock over."""

    def __init__(self, folder: Path, token: str) -> None:
        self.folder = folder
        self.token = token

    @classmethod
    def acquire(cls, folder: Path, steal: bool = False) -> WriterLock:
        """Take the lock, also from a dead process of this host; from a process elsewhere only with ``steal``.

        Raises:
            LockedError: somebody else writes; the message says who, where and since when.
        """
        token = secrets.token_hex(8)
        me = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "since": datetime.now().isoformat(timespec="seconds"),
            "token": token,
        }
        try:
            with _alone(folder):
                who = holder(folder)
                state = alive(who) if who else False
                if who and (state is True or (state is None and not steal)):
                    remedy = "Wait for it or stop it" if state else "If it is gone for certain, repeat with --steal"
                    raise LockedError(
                        f"{folder} is being written by process {who['pid']} on {who.get('host')} since {who.get('since')}. "
                        f"{remedy}."
                    )
                # Not before: the holder may clean up temporary files at any time.
                write_atomic(folder / LOCK, json.dumps(me).encode())
        except OSError as error:
            raise StoreError(
                f"{folder / LOCK} could not be written: {error.strerror}. Make the folder writable."
            ) from error
        lock = cls(folder, token)
        lock.check()
        return lock

    def check(self) -> None:
        """Raises LockedError if the lock is no longer ours: two writers must never share a folder."""
        who = holder(self.folder)
        if who is None or who.get("token") != self.token:
            taken = f"by process {who['pid']} on {who.get('host')}" if who else "away"
            raise LockedError(f"{self.folder}: the writer's lock was taken {taken}. This process stops writing.")

    def renew(self) -> WriterLock:
        """The same lock under a new token: a process that still writes with the old one stops at its next save.

        For another attempt after a failure, when a process of the first may yet come back to life. Whoever holds the
        lock from before can still release it.

        Raises:
            LockedError: the lock is no longer ours.
        """
        base, _, number = self.token.partition(".")
        with _alone(self.folder):
            self.check()
            fresh = WriterLock(self.folder, f"{base}.{int(number or 0) + 1}")
            write_atomic(self.folder / LOCK, json.dumps({**(holder(self.folder) or {}), "token": fresh.token}).encode())
        return fresh

    def release(self) -> None:
        """Give the lock back if it still is ours, renewed or not."""
        with contextlib.suppress(OSError), _alone(self.folder):
            token = str((holder(self.folder) or {}).get("token"))
            if token.partition(".")[0] == self.token.partition(".")[0]:
                remove(self.folder / LOCK)
