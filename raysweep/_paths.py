"""Paths that users type, and small files that a stranger may have written: never a pipe, never gigabytes."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from raysweep.errors import DataError, RootError

# Both are set while a root on an object store is open (raysweep.store.remote.copies).
before_reading: Callable[[str | Path], None] | None = None  # downloads a file that is not yet on this machine
stands_in: Callable[[str | Path, int], bool] | None = None  # whether an opened file has become an empty placeholder


def read_regular(path: str | Path, limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises:
        OSError: as :func:`open` does; also for a pipe or a device (EINVAL), a folder (EISDIR) and a larger file (EFBIG).
            ``strerror`` is a text for people.
    """
    if before_reading is not None:
        before_reading(path)
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if stands_in is not None and stands_in(path, fd):
        os.close(fd)
        return read_regular(path, limit)
    try:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            raise OSError(errno.EISDIR, "it is a folder", str(path))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if found.st_size > limit:
            raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes; at most {limit:,} are allowed", str(path))
        with open(fd, "rb", closefd=False) as file:
            data = file.read(limit + 1)
        if len(data) > limit:  # it has grown since
            raise OSError(errno.EFBIG, f"it has more than the {limit:,} bytes that are allowed", str(path))
        return data
    finally:
        os.close(fd)


def must_be_there(path: Path) -> None:
    """Raises DataError if there is nothing at the path of the images."""
    if not os.path.exists(path):  # unlike Path.exists, also False for a text that cannot be a path
        raise DataError(f"data.path: there is no {path} (looked in {Path.cwd()}). Give an existing folder or file.")


def is_no_folder(path: str | Path) -> bool:
    """Whether there is something at a path that may be read as a file; False for a text that cannot be a path."""
    return os.path.exists(path) and not os.path.isdir(path)


def is_address(text: str | Path) -> bool:
    """Whether a text is an address in an object store. (A ``Path`` of it has only one of the two slashes.)"""
    return str(text).startswith("s3:/")


def user_path(text: str | Path) -> Path:
    """The path that a user typed. ``~`` and ``~name`` become a home folder, or stay as they are if there is none.

    Raises:
        RootError: the text is the address of an object store or a web page. As a path, it would create a folder of that name.
    """
    if re.match(r"(s3|gs):|[A-Za-z][A-Za-z0-9+.-]+:/", str(text)):
        raise RootError(
            f"{str(text)[:200]} is an address, but here only a folder or file of this machine can be used. Give its path. "
            "(Only the root of the experiments may be an address: s3://bucket/prefix.)"
        )
    return Path(os.path.expanduser(text))
