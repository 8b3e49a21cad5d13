"""The gate that every change of an experiment's or sweep's folder passes: who holds the folder, and whether it is this process.

The token of the folder's writer is compared, and a file renamed, appended to or deleted, under the same kernel lock under which
another writer takes the folder over. So who has lost a folder changes nothing in it, however long it stood still before.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from raysweep._paths import read_regular
from raysweep.errors import LockedError
from raysweep.store import fence, layout

_LOCK_BYTES = 64_000
_MARKS = (layout.LOCK, layout.CONFIG, layout.LINEAGE, layout.SWEEP)  # one of these is in every folder that has a writer

_tokens: dict[str, str] = {}  # folder → the token by which this process writes to it
_lost: dict[str, str] = {}  # folder → what was said when another writer turned out to have it


class _Inside(threading.local):
    def __init__(self) -> None:
        self.folders: set[str] = set()


_inside = _Inside()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _inside.folders.clear())


@cache
def boot() -> str | None:
    """Which start of which machine this is; None where the system does not say it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None


def namespace() -> str | None:
    """In which space the process ids of this process mean something; containers have their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def started(pid: int) -> str | None:
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
    """The writer that holds a folder, as its lock file names it."""

    folder: Path
    host: str
    pid: int
    started: str | None  # when the process started, as its system counts; None if unknown
    since: str  # when it took the lock
    token: str
    boot: str | None = None  # of its machine; None if unknown, as in a lock of version 0.1
    namespace: str | None = None  # of its process id

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "folder"}


def holder(folder: Path) -> Holder | None:
    """The holder of the lock, as the lock file names it; None if there is no lock or its file is damaged."""
    try:
        return named(folder, read_regular(folder / layout.LOCK, _LOCK_BYTES))
    except OSError:
        return None


def named(folder: Path, content: bytes) -> Holder | None:
    """The holder that the content of a lock's file names; None if it is damaged."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or type(value.get("pid")) is not int:
        return None
    host, since, token = (str(value.get(key)) for key in ("host", "since", "token"))
    known = [None if (v := value.get(key)) is None else str(v) for key in ("started", "boot", "namespace")]
    return Holder(folder, host, value["pid"], known[0], since, token, known[1], known[2])


def alive(who: Holder) -> bool | None:
    """Whether the holder still runs; None if that cannot be found out, as on another machine.

    From another container of its machine, the kernel's lock tells it. After a restart nobody holds that.
    """
    here = who.host == socket.gethostname()
    known = who.boot is not None and boot() is not None
    if here and (not known or (who.boot, who.namespace) == (boot(), namespace())):
        found = started(who.pid)
        return found is not None and who.started in (found, None)
    held = fence.is_held(who.folder, base(who.token)) if known else None
    if who.boot == boot():
        return held
    return False if held is False and here else None


def base(token: str) -> str:
    """What a token and its renewals have in common."""
    return token.partition(".")[0]


def _key(folder: Path) -> str:
    return os.path.realpath(folder)


def enter(folder: Path, token: str) -> None:
    """From now on this process writes to a folder by this token."""
    _lost.pop(_key(folder), None)
    _tokens[_key(folder)] = token


def leave(folder: Path) -> None:
    """This process no longer writes to a folder. If it has lost the folder, it still remembers that."""
    _tokens.pop(_key(folder), None)


def check(folder: Path, token: str) -> Holder:
    """Make sure that a folder is still held by this token; returns its holder.

    Raises:
        LockedError: another process has taken it, or the lock's file is gone.
    """
    return _compared(folder, token, holder(folder))


def confirm(folder: Path, content: bytes) -> None:
    """As :func:`check`, for the token by which this process writes to a folder, if it does; ``content`` is the lock's, as
    the object store has it now."""
    token = _tokens.get(_key(folder))
    if token is not None:
        _compared(folder, token, named(folder, content))


def _compared(folder: Path, token: str, who: Holder | None) -> Holder:
    if who is None or who.token != token:
        what = f"taken by process {who.pid} on {who.host}" if who else "removed"
        told = f"{folder}: the lock of this writer was {what}. This process stops writing; let only one process write."
        if _tokens.get(_key(folder)) == token:
            _lost[_key(folder)] = told
        raise LockedError(told)
    return who


def lost(folder: Path) -> str | None:
    """What was said when this process found out that another writer has its folder; None if it did not."""
    return _lost.get(_key(folder)) if _lost else None


def refuse_if_lost(path: Path) -> None:
    """Raises LockedError if this process has found out before that another writer has the folder of a file."""
    for folder in (path.parent, path.parent.parent):
        if (told := lost(folder)) is not None:
            raise LockedError(told)


@contextlib.contextmanager
def alone(folder: Path, patience_s: float | None = None) -> Iterator[None]:
    """As :func:`raysweep.store.fence.alone`; the thread that has it passes :func:`changing` without another look."""
    key = _key(folder)
    with fence.alone(folder, patience_s):
        _inside.folders.add(key)
        try:
            yield
        finally:
            _inside.folders.discard(key)


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Wraps every change of a file: a rename, a deletion, a line that is appended.

    In a folder that has no writer, a single change needs no lock of its own: nobody can take the folder meanwhile.

    Raises:
        LockedError: another process writes to the folder.
    """
    refuse_if_lost(path)
    folder = _home(path)
    if folder is None or _key(folder) in _inside.folders:
        yield
        return
    with alone(folder):
        token = _tokens.get(_key(folder))
        if token is not None:
            check(folder, token)
        elif (who := holder(folder)) is not None and (state := alive(who)) is not False:
            raise refusal(who, state)
        yield


def refusal(who: Holder, state: bool | None) -> LockedError:
    """What to tell somebody who wants to write beside a holder; ``state`` is what :func:`alive` says of it."""
    remedy = (
        "Wait for it or stop it"
        if state
        else "If you are sure that it has ended, `raysweep continue --steal` takes it over"
    )
    return LockedError(f"{who.folder} is being written by process {who.pid} on {who.host} since {who.since}. {remedy}.")


def _home(path: Path) -> Path | None:
    """The folder with a writer that a path is in; None for any other file, such as one that the user names.

    What a tracker has got is written by a process of its own, which must tell it also while another one trains.
    """
    if path.name.startswith(layout.TRACKER_PREFIX):
        return None
    for folder in (path.parent, path.parent.parent):
        if _key(folder) in _tokens or any(os.path.lexists(os.path.join(folder, name)) for name in _MARKS):
            return folder
    return None
