"""The write protocol, in one place: temp file in the same folder, write, flush, fsync, close, replace, fsync the folder.

Nothing else in the package opens a file of an experiment for writing. A failed fsync is never retried on the same file
(the kernel may have dropped the dirty pages: https://lwn.net/Articles/752063/); the temp file is removed and the error
names the path and the bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raysweep.errors import StoreError
from raysweep.store.layout import TEMP_PREFIX

_CHUNK = 1 << 22
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
    temp = temp_path(path)
    try:
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest[:_CHUNK]) :]  # a short write goes on with what is left
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temp, path)
        fsync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temp.unlink()
        raise _failed(path, len(data), error) from error


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
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                os.ftruncate(fd, _end_of_last_line(fd, size))  # a kill tore the last line: readers drop it too
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, "the line was cut short")
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise _failed(path, len(data), error) from error


def _end_of_last_line(fd: int, size: int) -> int:
    while size > 0:
        start = max(0, size - 4096)
        at = os.pread(fd, size - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        size = start
    return 0


def link_or_copy(source: Path, target: Path) -> str:
    """Make ``target`` another name of ``source`` (``"link"``), or a copy where the file system has no hard links."""
    temp = temp_path(target)
    try:
        try:
            os.link(source, temp)
            how = "link"
        except OSError:
            with open(source, "rb") as src, open(temp, "xb") as dst:
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


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def zip_problem(path: Path) -> str | None:
    """What is wrong with a zip file by the CRCs inside it (torch's checkpoints are such files), or None.

    Where all CRCs are zero, torch was told not to compute them (``set_crc32_options``): nothing is known then.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip() if any(i.CRC for i in archive.infolist()) else None
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        return str(error) or type(error).__name__
    return None if bad is None else f"the checksum of {bad} does not agree"


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
