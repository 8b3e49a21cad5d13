"""One writer per experiment: a lock file that names its holder, and that a new writer takes over if the holder is dead."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from raysweep.errors import LockedError
from raysweep.store import fence, gate
from raysweep.store.files import failed, remove, write_atomic
from raysweep.store.gate import Holder, alive, holder
from raysweep.store.layout import LOCK

__all__ = ["Holder", "WriterLock", "alive", "holder"]

PATIENCE_S = 10.0  # for a change of another process, which takes as long as an fsync and an upload


def _write(folder: Path, who: Holder) -> None:
    write_atomic(folder / LOCK, json.dumps(who.to_json()).encode())


def _remove(folder: Path, token: str) -> None:
    """Remove the lock's file, if it can be done, unless it is another writer's. The caller is alone."""
    who = holder(folder)
    if who is not None and gate.base(who.token) == gate.base(token):
        with contextlib.suppress(OSError):
            remove(folder / LOCK)


def _refuse(folder: Path, steal: bool) -> None:
    """Raises LockedError if the folder has a holder that runs, or, without ``steal``, one that may run."""
    who = holder(folder)
    state = alive(who) if who else False
    if who and (state is True or (state is None and not steal)):
        raise gate.refusal(who, state)


class WriterLock:
    """The lock of one writer. With ``token``, any process can write for it: see :meth:`join`."""

    def __init__(self, folder: Path, token: str, life: int | None = None) -> None:
        self.folder = folder
        self.token = token
        self._life = life  # the kernel's lock, which only the process has that took the folder

    @classmethod
    def acquire(cls, folder: Path, steal: bool = False) -> WriterLock:
        """Take the lock. A dead process of this machine loses it; where that cannot be found out, only with ``steal``.

        Raises:
            LockedError: another process writes; the message says which, where and since when.
            StoreError: the lock file could not be written.
        """
        token = secrets.token_hex(8)
        since = datetime.now().isoformat(timespec="seconds")
        pid = os.getpid()
        host, started = socket.gethostname(), gate.started(pid)
        me = Holder(folder, host, pid, started, since, token, gate.boot(), gate.namespace())
        try:
            _refuse(folder, steal)  # without waiting for one that is known to run
            with gate.alone(folder, PATIENCE_S):
                _refuse(folder, steal)
                return cls._take(folder, me)
        except TimeoutError:
            raise LockedError(
                f"{folder} is being changed by another process, which has not gone on for {PATIENCE_S:g} s. It may be suspended: "
                "let it go on or kill it."
            ) from None
        except OSError as error:
            raise failed(folder / LOCK, None, error) from error

    @classmethod
    def _take(cls, folder: Path, me: Holder) -> WriterLock:
        life = fence.hold(folder, me.token)
        gate.enter(folder, me.token)
        try:
            # Written only now: a holder that still runs may remove temporary files at any time.
            _write(folder, me)
            gate.check(folder, me.token)
        except BaseException:
            with contextlib.suppress(LockedError):
                _remove(folder, me.token)
            gate.leave(folder)
            if life is not None:
                fence.let_go(life)
            raise
        return cls(folder, me.token, life)

    def join(self) -> WriterLock:
        """Let this process, too, write by this lock: another process has taken it and handed on the token.

        Raises:
            LockedError: it is no longer ours.
        """
        gate.check(self.folder, self.token)
        gate.enter(self.folder, self.token)
        return self

    def check(self) -> None:
        """Make sure that the lock is still ours, because two writers must never share a folder.

        Raises:
            LockedError: another process has taken it, or its file is gone.
        """
        gate.check(self.folder, self.token)

    def renew(self) -> WriterLock:
        """The same lock with a new token: a process that still writes with the old token stops at its next change.

        Used before another attempt, because a process of the failed attempt may still run. An object with the old token can
        still release the lock.

        Raises:
            LockedError: the lock is no longer ours. StoreError: its file could not be written.
        """
        _, _, number = self.token.partition(".")
        fresh = WriterLock(self.folder, f"{gate.base(self.token)}.{int(number or 0) + 1}")
        try:
            with gate.alone(self.folder):
                who = gate.check(self.folder, self.token)
                _write(self.folder, replace(who, token=fresh.token))
        except OSError as error:
            raise failed(self.folder / LOCK, None, error) from error
        gate.enter(self.folder, fresh.token)
        return fresh

    def release(self) -> None:
        """Remove the lock if it is still ours, renewed or not."""
        with contextlib.suppress(OSError), gate.alone(self.folder, PATIENCE_S):
            _remove(self.folder, self.token)
        gate.leave(self.folder)
        if self._life is not None:
            fence.let_go(self._life)
            self._life = None
