"""A disk that fails: within this process, the Nth call that changes something under a folder raises an error.

Python's own calls are watched (``os``, ``open``, ``fcntl``), by audit hooks where there are some. It cannot be undone, so it is
for forked processes.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raysweep.store import layout

FULL, READ_ONLY = "full", "read-only"  # from the Nth call on; the others fail once
MODES = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EACCES": errno.EACCES, FULL: errno.ENOSPC, READ_ONLY: errno.EROFS}
NEEDS_SPACE = {"create", "write", "mkdir", "link", "reserve"}  # what a full disk refuses
FICLONE = 0x40049409


@dataclass
class Call:
    """One call that changes something."""

    kind: str
    path: str

    def __str__(self) -> str:
        return f"{self.kind} {target(self.path)}"


def target(path: str) -> str:
    """The name of the file that a path, perhaps of a temporary file, is for."""
    name = os.path.basename(path)
    found = re.fullmatch(rf"{re.escape(layout.TEMP_PREFIX)}[0-9a-f]+-(.+)", name)
    return found[1] if found else layout.TEMP_PREFIX if name.startswith(layout.TEMP_PREFIX) else name


@dataclass
class FaultyDisk:
    """Counts the calls; see :meth:`install`.

    Args:
        at: which call fails, from 1; 0: none.
        note: a file, elsewhere, that tells all calls, the failed one, and what was committed then.
    """

    folder: Path
    at: int
    mode: str
    note: Path
    calls: list[Call] = field(default_factory=list)
    failed: Call | None = None
    _renamed: str = ""
    _real: dict[str, Callable[..., Any]] = field(default_factory=dict)
    _inside: threading.local = field(default_factory=threading.local)

    def install(self) -> None:
        self._prefix = os.path.realpath(self.folder)
        for name in ("write", "pwrite", "posix_fallocate"):
            self._real[name] = getattr(os, name)
        os.write, os.pwrite = self._written("write"), self._written("pwrite")  # type: ignore[assignment]
        os.fsync = lambda fd: self._of("fsync", fd)  # type: ignore[assignment]  # nobody pulls a plug here
        os.posix_fallocate = lambda fd, *size: self._of("reserve", fd) or self._real["posix_fallocate"](fd, *size)  # type: ignore[assignment,func-returns-value]
        builtins.open = io.open = self._opening(builtins.open)  # type: ignore[assignment]
        sys.addaudithook(self._audited)

    def tell(self) -> None:
        """Write the note."""
        committed = {}
        for path in self.folder.glob(f"*/{layout.MANIFEST}"):
            committed[path.parent.name] = [
                e["file"] for e in json.loads(path.read_bytes())["checkpoints"] if not e["batch"]
            ]
        value = {
            "failed": self.failed and str(self.failed),
            "calls": [str(c) for c in self.calls],
            "committed": committed,
            "modules": [] if self.at else sorted(sys.modules),
        }
        self.note.write_text(json.dumps(value))

    def _call(self, kind: str, path: str) -> int:
        """Count a call; returns the number of the error that it shall fail with, or 0."""
        if getattr(self._inside, "us", False) or not self._is_under(path):
            return 0
        if kind == "fsync" and path == os.path.dirname(self._renamed):  # which makes that durable
            path = self._renamed
        self._renamed = path if kind == "rename" else self._renamed
        call = Call(kind, path)
        self.calls.append(call)
        if self.failed is None:
            if len(self.calls) != self.at or (self.mode == FULL and kind not in NEEDS_SPACE):
                self.at += len(self.calls) == self.at  # a full disk refuses the next call that needs space
                return 0
            self.failed = call
            self._inside.us = True
            self.tell()
            self._inside.us = False
        elif self.mode not in (FULL, READ_ONLY) or (self.mode == FULL and kind not in NEEDS_SPACE):
            return 0
        return MODES[self.mode]

    def _is_under(self, path: str) -> bool:
        return path == self._prefix or path.startswith(f"{self._prefix}/")

    def _check(self, kind: str, path: str) -> None:
        if number := self._call(kind, path):
            raise OSError(number, os.strerror(number), path)

    def _of(self, kind: str, fd: int) -> None:
        self._check(kind, path_of(fd))

    def _written(self, name: str) -> Callable[..., int]:
        """A write that fails has written a half."""

        def write(fd: int, data: Any, *place: int) -> int:
            if number := self._call("write", path_of(fd)):
                view = memoryview(data).cast("B")
                self._real[name](fd, view[: len(view) // 2], *place)
                raise OSError(number, os.strerror(number))
            return int(self._real[name](fd, data, *place))

        return write

    def _opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """``open``, whose files write by :func:`os.write`."""

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                return os.write(self.fileno(), data)

        def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
            ours = isinstance(file, (str, os.PathLike)) and self._is_under(os.path.realpath(file))
            if not ours or not set(mode) & set("wxa") or "+" in mode:
                return real(file, mode, buffering, *rest, **named)
            raw = Raw(os.fspath(file), mode.replace("b", "").replace("t", ""))
            if buffering == 0:
                return raw
            buffered = io.BufferedWriter(raw, buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *rest, **named)

        return opened

    def _audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if (
                isinstance(path, (str, bytes))
                and isinstance(flags, int)
                and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            ):
                name = os.path.realpath(os.fsdecode(path))
                there = os.path.lexists(name)
                self._check("open" if there else "create", name)
        elif event in ("os.rename", "os.link", "os.symlink"):
            self._check("rename" if event == "os.rename" else "link", named(arguments[1]))
        elif event in ("os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.utime"):
            if not isinstance(arguments[0], int):
                path = named(arguments[0])
                if event != "os.mkdir" or not os.path.isdir(path):  # then it fails anyway
                    self._check(event[3:], path)
        elif event == "os.truncate":
            where = arguments[0]
            self._check("truncate", path_of(where) if isinstance(where, int) else os.path.realpath(os.fsdecode(where)))
        elif event == "fcntl.ioctl" and arguments[1] == FICLONE:
            self._check("reflink", path_of(arguments[0]))


def named(path: Any) -> str:
    """The absolute path of a name in a folder, of which links are followed."""
    folder, name = os.path.split(os.fsdecode(path))
    return os.path.join(os.path.realpath(folder), name)


def path_of(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
