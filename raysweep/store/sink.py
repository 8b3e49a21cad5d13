"""The content of a file on its way to the disk: hashed while it is written, and where an earlier file begins alike, copied from there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
from pathlib import Path
from typing import Any

CHUNK = 1 << 22  # bytes that are written, compared and hashed at once


class Beginning:
    """The last one of several files that begin alike, such as the weights of a network of which little is trained. What the next one
    has in common with it is copied within the file system, which shares the blocks where it can, and is not hashed again.

    Attributes:
        hashes: after each of its whole chunks.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._state: tuple[int, ...] = ()
        self.hashes: list[Any] = []

    def is_of(self, path: Path, hashes: list[Any]) -> None:
        """From now on it is that of this file, which was just written."""
        try:
            self._path, self._state, self.hashes = path, _state(os.lstat(path)), hashes
        except OSError:
            self._path = None

    def open(self) -> int | None:
        """The file, open for reading; None where there is none any more, or another one."""
        if self._path is None or not hasattr(os, "copy_file_range"):
            return None
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        if _state(os.fstat(fd)) == self._state:  # else the hashes may be of another content
            return fd
        os.close(fd)
        return None


def _state(there: os.stat_result) -> tuple[int, ...]:
    return stat.S_IFMT(there.st_mode), there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns


class Sink(io.RawIOBase):
    """A file that is written once from start to end, in chunks of one size, and hashed at the same time.

    The error of a failed write is raised only by :meth:`finish`, because torch's C++ writer loses exceptions of its callbacks.

    Attributes:
        hashes: after each whole chunk, where other files may begin alike.
    """

    def __init__(self, beginning: Beginning | None = None) -> None:
        self.fd = -1
        self.size = 0
        self.digest = hashlib.sha256()
        self.error: OSError | None = None
        self.hashes: list[Any] = []
        self._small = bytearray()
        self._before = beginning
        self._like = None if beginning is None else beginning.open()  # as long as all is as in that file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = memoryview(data).cast("B")
        self.size += len(piece)
        rest = piece
        while len(self._small) + len(rest) >= CHUNK:
            if self._small:
                missing = CHUNK - len(self._small)
                self._small += rest[:missing]
                self._out()
            else:
                missing = CHUNK
                self._put(rest[:missing])
            rest = rest[missing:]
        self._small += rest
        return len(piece)

    def finish(self) -> None:
        """Write the rest.

        Raises:
            OSError: that of the first write that failed.
        """
        self._out()
        self._differs()
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        if self._like is not None:
            os.close(self._like)
            self._like = None
        super().close()

    def _out(self) -> None:
        if self._small:
            self._put(self._small)
            self._small = bytearray()

    def _put(self, rest: bytearray | memoryview) -> None:
        whole = len(rest) == CHUNK
        if whole and self._is_alike(rest):
            return
        self._differs()
        if self.error is not None:
            return
        try:
            self.digest.update(rest)
            if whole and self._before is not None:
                self.hashes.append(self.digest.copy())
            _write(self.fd, memoryview(rest))
        except OSError as error:
            self.error = error

    def _is_alike(self, chunk: bytearray | memoryview) -> bool:
        """Whether this chunk is that of the earlier file, as all before it were; then it is only counted."""
        done = len(self.hashes)
        if self._like is None or self._before is None or done >= len(self._before.hashes):
            return False
        try:
            there = os.pread(self._like, CHUNK, done * CHUNK)
        except OSError:
            return False
        if there != (chunk if isinstance(chunk, bytearray) else bytes(chunk)):  # views are compared byte by byte
            return False
        self.hashes.append(self._before.hashes[done])
        self.digest = self._before.hashes[done].copy()
        return True

    def _differs(self) -> None:
        """From here on the file is not as the earlier one, whose beginning is copied now."""
        if self._like is None:
            return
        try:
            _copy(self._like, self.fd, len(self.hashes) * CHUNK)
        except OSError as error:
            self.error = self.error or error
        os.close(self._like)
        self._like = None


def _write(fd: int, rest: memoryview) -> None:
    while rest:
        rest = rest[os.write(fd, rest[:CHUNK]) :]  # after a short write, continue with the rest


def _copy(source: int, target: int, count: int) -> None:
    """Copy the first bytes of a file into an empty one."""
    done = 0
    with contextlib.suppress(
        OSError
    ):  # each file system has another number for "I cannot"; what is real fails below, too
        while done < count and (copied := os.copy_file_range(source, target, count - done, done, done)):
            done += copied
    os.lseek(target, done, os.SEEK_SET)
    while done < count:
        piece = os.pread(source, min(CHUNK, count - done), done)
        if not piece:
            raise OSError(errno.EIO, "the file whose beginning is the same became shorter")
        _write(target, memoryview(piece))
        done += len(piece)
