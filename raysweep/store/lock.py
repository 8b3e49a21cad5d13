"""One writer per experiment: a lock file that names its holder, and that a new writer takes over if the holder is dead."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from raysweep.errors import LockedError, StoreError
from raysweep.store.files import read_json, remove, write_atomic
from raysweep.store.layout import LOCK


def _started(pid: int) -> str | None:
    """When a process of this machine started, or None if it has ended. Distinguishes it from a later one with its pid."""
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


@dataclass(frozen=True)
class Holder:
    """The writer that holds a lock, as the lock file names it."""

    host: str
    pid: int
    started: str | None  # when the process started, as its system counts; None if unknown
    since: str  # when it took the lock
    token: str


def holder(folder: Path) -> Holder | None:
    """The holder of the lock, as the lock file names it; None if there is no lock or its file is damaged."""
    try:
        value = read_json(folder / LOCK)
    except (OSError, ValueError):
        return None
    if not isinstance(value, dict) or type(value.get("pid")) is not int:
        return None
    host, since, token = (str(value.get(key)) for key in ("host", "since", "token"))
    started = value.get("started")
    return Holder(host, value["pid"], None if started is None else str(started), since, token)


def alive(who: Holder) -> bool | None:
    """Whether the holder still runs; None if it is on another host, where that cannot be checked."""
    if who.host != socket.gethostname():
        return None
    found = _started(who.pid)
    return found is not None and who.started in (found, None)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let only one process of this host at a time read and replace the lock. If it dies, the kernel lets the next one in."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a network file system without flock; the token is still checked
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write(folder: Path, who: Holder) -> None:
    write_atomic(folder / LOCK, json.dumps(asdict(who)).encode())


class WriterLock:
    """The lock of one writer. With ``token``, :meth:`check` finds out in any process whether another writer has taken it."""

    def __init__(self, folder: Path, token: str) -> None:
        self.folder = folder
        self.token = token

    @classmethod
    def acquire(cls, folder: Path, steal: bool = False) -> WriterLock:
        """Take the lock. A dead process of this host loses it; a process of another host loses it only with ``steal``.

        Raises:
            LockedError: another process writes; the message says which, where and since when.
            StoreError: the lock file could not be written.
        """
        token = secrets.token_hex(8)
        since = datetime.now().isoformat(timespec="seconds")
        me = Holder(socket.gethostname(), os.getpid(), _started(os.getpid()), since, token)
        try:
            with _alone(folder):
                who = holder(folder)
                state = alive(who) if who else False
                if who and (state is True or (state is None and not steal)):
                    remedy = (
                        "Wait for it or stop it" if state else "If you are sure that it has ended, repeat with --steal"
                    )
                    raise LockedError(
                        f"{folder} is being written by process {who.pid} on {who.host} since {who.since}. {remedy}."
                    )
                # Written only now: a holder that still runs may remove temporary files at any time.
                _write(folder, me)
        except OSError as error:
            raise StoreError(
                f"{folder / LOCK} could not be written: {error.strerror}. Make the folder writable."
            ) from error
        lock = cls(folder, token)
        lock.check()
        return lock

    def check(self) -> Holder:
        """Make sure that the lock is still ours, because two writers must never share a folder. Returns its holder.

        Raises:
            LockedError: another process has taken it, or its file is gone.
        """
        who = holder(self.folder)
        if who is None or who.token != self.token:
            what = f"taken by process {who.pid} on {who.host}" if who else "removed"
            raise LockedError(
                f"{self.folder}: the lock of this writer was {what}. This process stops writing; let only one process write."
            )
        return who

    def renew(self) -> WriterLock:
        """The same lock with a new token: a process that still writes with the old token stops at its next save.

        Used before another attempt, because a process of the failed attempt may still run. An object with the old token can
        still release the lock.

        Raises:
            LockedError: the lock is no longer ours.
        """
        base, _, number = self.token.partition(".")
        with _alone(self.folder):
            who = self.check()
            fresh = WriterLock(self.folder, f"{base}.{int(number or 0) + 1}")
            _write(self.folder, replace(who, token=fresh.token))
        return fresh

    def release(self) -> None:
        """Remove the lock if it is still ours, renewed or not."""
        with contextlib.suppress(OSError), _alone(self.folder):
            who = holder(self.folder)
            if who is not None and who.token.partition(".")[0] == self.token.partition(".")[0]:
                remove(self.folder / LOCK)
