"""Reading small files that somebody else may have put there: never a pipe that waits for ever, nor a gigabyte."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from raysweep.errors import RootError

# Set where a root on an object store is open (raysweep.store.remote.copies): sees to it that a file is on this machine.
before_reading: Callable[[str | Path], None] | None = None
stands_in: Callable[[str | Path, int], bool] | None = None  # whether what was opened has lost its content meanwhile


def read_regular(path: str | Path, limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises:
        OSError: as :func:`open` does; also for a pipe, a device or a folder (EINVAL, EISDIR) and for a file that is larger
            (EFBIG). ``strerror`` says which, for people.
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
            raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes; at most {limit:,} are read", str(path))
        with open(fd, "rb", closefd=False) as file:
            data = file.read(limit + 1)
        if len(data) > limit:  # it grew meanwhile
            raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
        return data
    finally:
        os.close(fd)


def is_address(text: str | Path) -> bool:
    """Whether a text names a place in an object store. (A ``Path`` made of it has lost one of the slashes.)"""
    return str(text).startswith("s3:/")


def user_path(text: str | Path) -> Path:
    """A path as a user types it: ``~`` is his home; of a user who does not exist it stays as it is.

    Raises:
        RootError: it is the address of an object store or a web page; a folder of that name would be made instead.
    """
    if re.match(r"(s3|gs):|[A-Za-z][A-Za-z0-9+.-]+:/", str(text)):
        raise RootError(
            f"{str(text)[:200]} is an address; here only a folder or file that this machine sees can be used. (The root of "
            "experiments may be s3://bucket/prefix.)"
        )
    return Path(os.path.expanduser(text))
