"""Durable writes and bounded reads of an experiment's files.

A write goes to a temporary file in the same folder: write, fsync, close, rename, fsync the folder. The rename, and every
other change, passes :mod:`raysweep.store.gate`. Nothing else in the package opens a file of an experiment for writing. A failed fsync is never retried on the same file, because the kernel
may have dropped the unwritten pages (https://lwn.net/Articles/752063/); the temporary file is removed, and the error names
the path and the bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from raysweep import _locks
from raysweep._paths import read_regular
from raysweep.errors import StoreError
from raysweep.store.gate import changing, refuse_if_lost
from raysweep.store.layout import TEMP_PREFIX
from raysweep.store.remote import copies

LIMIT = 64_000_000  # bytes of a manifest, a log or a history: far more than 10,000 epochs need
_CHUNK = 1 << 22
_FICLONE = 0x40049409  # of linux/fs.h: share the blocks of another file
_DEEP = 100  # levels of a JSON file
# An argument or path that is not UTF-8 has lone surrogates. They are written as \udc80, which JSON reads back unchanged.
_SURROGATES = "backslashreplace"


def failed(path: Path, size: int | None, error: OSError) -> StoreError:
    """What to raise where a file could not be written.

    Args:
        size: of its content, if that is known.
    """
    what = f"{size:,} bytes could not be written to {path}" if size is not None else f"{path} could not be written"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "Free space on that disk"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        remedy = "Make the folder writable"
    elif error.errno == errno.ELOOP:
        remedy = "It is a link, and links are not followed here. Replace it by a file"
    else:
        remedy = "Check the disk or the network file system"
    return StoreError(f"{what}: {error.strerror or error}. {remedy}. Everything that was committed before is intact.")


def fsync_folder(folder: Path) -> None:
    """Make renames and new links in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot fsync a folder
            raise
    finally:
        os.close(fd)


def temp_path(path: Path) -> Path:
    """A new name for a temporary file beside ``path``, by which :func:`clean_temps` recognises leftovers."""
    return path.with_name(f"{TEMP_PREFIX}{secrets.token_hex(4)}-{path.name}"[:200])


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write ``data`` to ``path``. Afterwards the file has either the whole new content, durably, or still the old one.

    Raises:
        StoreError: a write, an fsync, a close or the rename failed; the temporary file is removed.
        LockedError: another process writes to the folder.
    """
    write_stream(path, lambda sink: sink.write(data), len(data))


def write_stream(path: Path, produce: Callable[[Sink], object], size: int = 0) -> tuple[int, str]:
    """Like :func:`write_atomic`, for content that is never completely in memory: ``produce`` writes it piece by piece.

    Args:
        size: the bytes of the content if they are known, for error messages.

    Returns:
        The bytes and the SHA-256 of the content.
    """
    refuse_if_lost(path)
    temp = temp_path(path)
    sink = Sink()
    try:
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            sink.fd = fd
            produce(sink)
            sink.finish()
            os.fsync(fd)
        finally:
            os.close(fd)
        with changing(path), copies.writing(path):
            os.replace(temp, path)
            fsync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temp.unlink()
        if isinstance(error, OSError):
            raise failed(path, max(size, sink.size) or None, error) from error
        raise
    return sink.size, sink.digest.hexdigest()


class Sink(io.RawIOBase):
    """A file that is written once from start to end, in large pieces, and hashed at the same time.

    The error of a failed write is raised only by :meth:`finish`, because torch's C++ writer loses exceptions of its callbacks.
    """

    def __init__(self) -> None:
        self.fd = -1
        self.size = 0
        self.digest = hashlib.sha256()
        self.error: OSError | None = None
        self._small = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = memoryview(data).cast("B")
        self.size += len(piece)
        if len(self._small) + len(piece) > _CHUNK:
            self._out()
        if len(piece) > _CHUNK:
            self._put(piece)
        else:
            self._small += piece
        return len(piece)

    def finish(self) -> None:
        """Write the rest.

        Raises:
            OSError: that of the first write that failed.
        """
        self._out()
        if self.error is not None:
            raise self.error

    def _out(self) -> None:
        if self._small:
            self._put(memoryview(self._small))
            self._small = bytearray()

    def _put(self, rest: memoryview) -> None:
        if self.error is not None:
            return
        try:
            self.digest.update(rest)
            while rest:
                rest = rest[os.write(self.fd, rest[:_CHUNK]) :]  # after a short write, continue with the rest
        except OSError as error:
            self.error = error


@contextlib.contextmanager
def change(path: Path) -> Iterator[None]:
    """As :func:`raysweep.store.gate.changing`, for a caller that lets no OSError through.

    Raises:
        StoreError: the gate, or what is done inside, failed. LockedError: another process writes to the folder.
    """
    try:
        with changing(path):
            yield
    except OSError as error:
        raise failed(path, None, error) from error


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with :func:`write_atomic`.

    Raises:
        ValueError: the value contains NaN or infinity.
        StoreError: the write failed.
    """
    write_atomic(
        path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(errors=_SURROGATES)
    )


def append_line(path: Path, text: str) -> None:
    """Append a text that ends in a newline: one ``O_APPEND`` write, then fsync. An incomplete last line is removed first.

    Raises:
        StoreError: the write failed or was short, or the path is a link (which may point out of the root).
        LockedError: another process writes to the folder.
    """
    data = text.encode(errors=_SURROGATES)
    try:
        with changing(path), copies.writing(path, append=True):
            fd = _open_log(path)
            try:
                size = os.fstat(fd).st_size
                if size and os.pread(fd, 1, size - 1) != b"\n":
                    whole = os.pread(fd, size, 0)  # a killed process left it incomplete; readers ignore it, too
                    os.ftruncate(fd, whole.rfind(b"\n") + 1)
                if os.write(fd, data) != len(data):
                    raise OSError(errno.ENOSPC, "only a part of the line was written")
                os.fsync(fd)
            finally:
                os.close(fd)
    except OSError as error:
        raise failed(path, len(data), error) from error


def _open_log(path: Path) -> int:
    """A log, open for appending. One that has further names, as ``cp -al`` of a folder makes them, is copied apart first: what
    happens in one folder must not appear in the log of the other."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o666)
    if os.fstat(fd).st_nlink <= 1:
        return fd
    temp = temp_path(path)
    try:
        with open(fd, "rb") as src, open(temp, "xb") as dst:
            _fill(src, dst)
            os.fsync(dst.fileno())
        os.replace(temp, path)
        fsync_folder(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            temp.unlink()
        raise
    return os.open(path, flags, 0o666)


def clone_or_copy(source: Path, target: Path) -> str:
    """Make ``target`` a file of its own with the content of ``source``: a reflink, which shares the blocks on the disk until one
    of the two is changed, or a copy where the file system has none. Never a hard link: who writes to one file of a folder must
    not change another.

    Returns:
        ``"clone"`` or ``"copy"``.

    Raises:
        StoreError: ``target`` could not be written. LockedError: another process writes to the folder.
    """
    with change(target):
        if copies.copied(source, target):
            return "copy"
    temp = temp_path(target)
    try:
        with open_regular(source) as src, open(temp, "xb") as dst:
            how = _fill(src, dst)
            os.fsync(dst.fileno())
        with changing(target):
            os.replace(temp, target)
            fsync_folder(target.parent)
        return how
    except BaseException as error:
        with contextlib.suppress(OSError):
            temp.unlink()
        if isinstance(error, OSError):
            raise failed(target, None, error) from error
        raise


def _fill(source: io.BufferedReader, target: io.BufferedWriter) -> str:
    """Fill an empty file: ``"clone"`` or ``"copy"``, as :func:`clone_or_copy`."""
    try:
        _locks.clone(target.fileno(), _FICLONE, source.fileno())
        return "clone"
    except OSError:  # each file system has another number for "I cannot", and an error that is real stops the copy, too
        pass
    shutil.copyfileobj(source, target, _CHUNK)
    target.flush()
    return "copy"


def remove(path: Path) -> None:
    """Delete a file.

    Raises:
        OSError: it does not exist, or could not be deleted. LockedError: another process writes to the folder.
    """
    with changing(path):
        copies.removed(path)
        path.unlink()


def open_regular(path: str | Path) -> io.BufferedReader:
    """A regular file, open for reading.

    Raises:
        OSError: as :func:`open` does; also for a pipe, which might never end, a device and a folder (EINVAL).
    """
    copies.fetch(path)
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if copies.is_empty(path, fd):
        os.close(fd)
        return open_regular(path)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def read_all(path: Path) -> bytes:
    """The content of a regular file of any size.

    Raises:
        StoreError: it cannot be read.
    """
    with reading(path), open_regular(path) as file:
        return file.read()


def read_json(path: Path, any_depth: bool = False) -> Any:
    """The value of a JSON file.

    Args:
        any_depth: skip the check for deep nesting; for callers that use only numbers and texts of the value.

    Raises:
        OSError: the file cannot be read, is not a regular file or has more than LIMIT bytes.
        ValueError: it is not JSON, or is nested deeper than any file that raysweep writes.
    """
    try:
        value = json.loads(read_regular(path, LIMIT))
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    rows, depth = [] if any_depth else [value], 0
    while rows := [v for row in rows for v in _inner(row) if isinstance(v, (dict, list))]:
        depth += 1
        if depth > _DEEP:
            raise ValueError("it is nested too deep")
    return value


def _inner(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV, with None as an empty cell.

    Whatever the name of a class is, no spreadsheet takes a text for a formula, and no reader splits it into two cells.
    """
    return "".join(",".join(map(_cell, row)) + "\n" for row in rows)


def _cell(value: Any) -> str:
    if not isinstance(value, str):
        return "" if value is None else str(value)
    text = f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


def sha256_file(path: Path) -> str:
    """SHA-256 of a regular file, read in pieces."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def clean_temps(folder: Path) -> list[str]:
    """Remove the temporary files that a killed writer left, and return their names. Only the folder's writer may call this.

    Raises:
        LockedError: another process writes to the folder. StoreError: the folder cannot be written.
    """
    removed = []
    with change(folder / TEMP_PREFIX):
        for path in folder.glob(f"{TEMP_PREFIX}*"):
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path.name)
    return removed


def inside(root: Path, path: Path) -> bool:
    """Whether ``path`` is under ``root`` after every link is followed."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return False


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError into a StoreError that names the file."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path} could not be read: {error.strerror or error}. Check the path and its permissions."
        ) from error
