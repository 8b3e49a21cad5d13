"""The write protocol, in one place: temp file in the same folder, write, flush, fsync, close, replace, fsync the folder.

Nothing else in the package opens a file of an experiment for writing. A failed fsync is never retried on the same file
(the kernel may have dropped the dirty pages: https://lwn.net/Articles/752063/); the temp file is removed and the error
names the path and the bytes.
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

from raysweep._paths import read_regular
from raysweep.errors import StoreError
from raysweep.store.layout import TEMP_PREFIX
from raysweep.store.remote import copies

LIMIT = 64_000_000  # bytes of a manifest, a log or a history that are read: far more than 10,000 epochs need
_CHUNK = 1 << 22
_DEEP = 100  # levels of a JSON file
# An argument or path that is no UTF-8 has lone surrogates: written as \udc80, which JSON reads back as the same text.
_SURROGATES = "backslashreplace"


def _failed(path: Path, size: int | None, error: OSError) -> StoreError:
    what = f"{size:,} bytes could not be written to {path}" if size is not None else f"{path} could not be written"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "Free space on that disk; what was committed before is intact"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        remedy = "Make the folder writable; what was committed before is intact"
    elif error.errno == errno.ELOOP:
        remedy = "It is a link, which is not followed; put a file in its place"
    else:
        remedy = "Check the disk or the network file system; what was committed before is intact"
    return StoreError(f"{what}: {error.strerror or error}. {remedy}.")


def fsync_folder(folder: Path) -> None:
    """Make renames and links in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no fsync of folders
            raise
    finally:
        os.close(fd)


def temp_path(path: Path) -> Path:
    """A name for a temporary file beside ``path``; leftovers of it are recognised and cleaned."""
    return path.with_name(f"{TEMP_PREFIX}{secrets.token_hex(4)}-{path.name}"[:200])


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Put ``data`` under ``path``: afterwards either all of it is there, durably, or what was there before.

    Raises:
        StoreError: any failed write, fsync, close or rename; nothing of the temp file stays.
    """
    write_stream(path, lambda sink: sink.write(data), len(data))


def write_stream(path: Path, produce: Callable[[Sink], object], size: int = 0) -> tuple[int, str]:
    """Like :func:`write_atomic`, for a content that never is in memory as a whole: ``produce`` writes it piece by piece.

    Args:
        size: its bytes, where they are known, for the message of an error.

    Returns:
        Its bytes and its SHA-256.
    """
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
        with copies.writing(path):
            os.replace(temp, path)
            fsync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temp.unlink()
        if isinstance(error, OSError):
            raise _failed(path, max(size, sink.size) or None, error) from error
        raise
    return sink.size, sink.digest.hexdigest()


class Sink(io.RawIOBase):
    """A file that is written once from its start to its end, in large pieces, and hashed on the way.

    A failed write is raised by :meth:`finish`: torch's writer, which is C++, does not pass on what a callback raises.
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
        """Write what is left. Raises the OSError of the first write that failed."""
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
                rest = rest[os.write(self.fd, rest[:_CHUNK]) :]  # a short write goes on with what is left
        except OSError as error:
            self.error = error


def write_json(path: Path, value: Any) -> None:
    """JSON, indented for people, by :func:`write_atomic`. NaN and infinity are refused."""
    write_atomic(
        path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(errors=_SURROGATES)
    )


def append_line(path: Path, text: str) -> None:
    """Append text ending in a newline: one ``O_APPEND`` write, then fsync. A torn last line is first cut off.

    Raises:
        StoreError: the write failed or was short, or the path is a link (it may point out of the root).
    """
    data = text.encode(errors=_SURROGATES)
    try:
        with copies.writing(path, append=True):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
            try:
                size = os.fstat(fd).st_size
                if size and os.pread(fd, 1, size - 1) != b"\n":
                    whole = os.pread(fd, size, 0)  # a kill tore the last line: readers drop it too
                    os.ftruncate(fd, whole.rfind(b"\n") + 1)
                if os.write(fd, data) != len(data):
                    raise OSError(errno.ENOSPC, "the line was cut short")
                os.fsync(fd)
            finally:
                os.close(fd)
    except OSError as error:
        raise _failed(path, len(data), error) from error


def link_or_copy(source: Path, target: Path) -> str:
    """Make ``target`` another name of ``source`` (``"link"``), or a copy where the file system has no hard links."""
    if copies.copied(source, target):
        return "copy"
    temp = temp_path(target)
    try:
        try:
            os.link(source, temp)
            how = "link"
        except OSError:
            with open_regular(source) as src, open(temp, "xb") as dst:
                shutil.copyfileobj(src, dst, _CHUNK)
                dst.flush()
                os.fsync(dst.fileno())
            how = "copy"
        os.replace(temp, target)
        with contextlib.suppress(OSError):
            temp.unlink()  # rename(2) does nothing when both already are the same file
        fsync_folder(target.parent)
        return how
    except OSError as error:
        with contextlib.suppress(OSError):
            temp.unlink()
        raise _failed(target, None, error) from error


def remove(path: Path) -> None:
    """Delete a file.

    Raises:
        OSError: there is none, or it could not be deleted.
    """
    copies.removed(path)
    path.unlink()


def open_regular(path: str | Path) -> io.BufferedReader:
    """A regular file, open for reading.

    Raises:
        OSError: as :func:`open` does; also for a pipe, which could wait for ever, a device and a folder (EINVAL).
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
        any_depth: do not look for deep nesting: the caller takes nothing out of the value but numbers and texts.

    Raises:
        OSError: it cannot be read, is no regular file or has more than LIMIT bytes.
        ValueError: it is no JSON, or nested deeper than anything that is written here.
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
    """Rows as CSV, None as an empty cell. No text in it is taken for a formula by a spreadsheet, nor for two cells by any
    reader, whatever a class is called."""
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
    """Remove what a killed writer left behind; only the folder's one writer may call this."""
    removed = []
    for path in folder.glob(f"{TEMP_PREFIX}*"):
        with contextlib.suppress(OSError):
            path.unlink()
            removed.append(path.name)
    return removed


def inside(root: Path, path: Path) -> bool:
    """Whether ``path``, with every link followed, still lies under ``root``."""
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
