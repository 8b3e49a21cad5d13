"""The copies of object stores that this process has open, and what reading and writing a file means under one of them.

The objects are the truth. The folder on this machine is a copy, and may be deleted while nothing runs. Small files are
copied when a root is opened. Large ones are copied when they are read: until then an empty file of the same size stands
in their place. Each durable write is followed by its upload, in the same order. So here, too, data come first and the
manifest last, and what was cut off is never seen as a checkpoint.

Reading and writing know a file by its path only, so the copies are found by their folders: this is the package's one
registry of open roots, and these functions are called by :mod:`raysweep.store.files` and :mod:`raysweep._paths` alone, and
where another library writes the file. Everything else is handed a :class:`raysweep.store.root.Root`. Once writing goes
through one gate that knows its root, and uploads are conditional, the registry can go.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from raysweep import _paths
from raysweep.errors import RootError, StoreError
from raysweep.store import layout
from raysweep.store.remote import mirror
from raysweep.store.remote.mirror import Mirror

if TYPE_CHECKING:  # every command imports this module; few need the other
    from raysweep.store.remote.bucket import Bucket

_COPY_OF = "copy_of"  # a file that names the address
_open: dict[str, Mirror] = {}  # by the folder's path


def holding(path: str | Path) -> Mirror | None:
    """The mirror of the root that a path is in; None where that is a folder of this machine."""
    if not _open:
        return None
    text = os.path.abspath(path)
    for root, found in _open.items():
        if text == root or text.startswith(root + os.sep):
            return found
    return None


def opened() -> list[Mirror]:
    """The mirrors of all roots on object stores that this process has open."""
    return list(_open.values())


def named(text: str) -> str:
    """A text for people, in which the path of a copy is replaced by the address that it is the copy of."""
    for root, found in _open.items():
        text = text.replace(root, found.bucket.address)
    return text


def latest(path: Path) -> None:
    """See to it that a log that several machines in turn add to is here as it is there."""
    found = holding(path)
    if found is not None:
        with found.alone(path):
            found.renew(path)


def fetch(path: str | Path) -> None:
    """Called before a file is read: see to it that it is here.

    Raises:
        StoreError: the object store cannot be read.
    """
    if _open:
        real = os.path.realpath(path)  # also of a link to it
        found = holding(real)
        if found is not None:
            found.fetch(Path(real))


def is_empty(path: str | Path, fd: int) -> bool:
    """Whether an open file only stands for one that is not here: it took its place after :func:`fetch`."""
    return (
        bool(_open)
        and os.fstat(fd).st_mtime_ns % mirror.NS == mirror.ABSENT
        and holding(os.path.realpath(path)) is not None
    )


@contextlib.contextmanager
def writing(path: Path, append: bool = False) -> Iterator[None]:
    """Around the moment in which a file changes: it is uploaded afterwards.

    Args:
        append: it is brought up to date first: on a cluster, several machines in turn add to the same log.

    Raises:
        StoreError: it did not arrive.
    """
    found = holding(path)
    if found is None or not found.told(path):
        yield
        return
    with found.alone(path, writes=True):
        if append:
            found.renew(path)
        yield
        found.push(path)


def copied(source: Path, target: Path) -> bool:
    """Make ``target`` a copy of ``source`` within the object store; False where the root is a folder."""
    found = holding(target)
    if found is None or not found.told(target):
        return False
    with found.alone(target, writes=True):
        there = found.bucket.copy(found.key(source), found.key(target))
        if there is None or there.size != source.stat().st_size:
            found.bring(source)
            there = found.bucket.put(found.key(target), source)
        found.stand_in(target, there.size, there.time)
    return True


def removed(path: Path) -> None:
    """Delete the object of a file that is about to be deleted.

    Raises:
        OSError: it could not be.
    """
    found = holding(path)
    if found is None or not found.told(path):
        return
    try:
        found.bucket.delete(found.key(path))
    except StoreError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error


def attach(bucket: Bucket) -> Mirror:
    """Open a root on an object store: make its copy's folder where there is none, and see to it that files in it are
    fetched and uploaded from now on.

    Raises:
        RootError: the copy's folder cannot be made or used.
    """
    where = f"{bucket.address}?{sorted(bucket.place.items())}"
    key = hashlib.sha256(where.encode()).hexdigest()[:12]
    base = os.environ.get("RAYSWEEP_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "raysweep")
    root = _paths.user_path(base) / "roots" / f"{bucket.name}-{key}"
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.utime(root, ns=(mirror.SAME, mirror.SAME))
        fine = mirror.state(root) == mirror.SAME
        (root / layout.CACHES).mkdir(exist_ok=True)
        (root / layout.CACHES / _COPY_OF).write_text(bucket.address)
        why = "its file system does not keep a file's time to the nanosecond"
    except OSError as error:
        fine, why = False, error.strerror or str(error)
    if not fine:
        raise RootError(
            f"The copy of {bucket.address} cannot be made in {root.parent}: {why}. Name another folder with RAYSWEEP_CACHE."
        )
    root = root.resolve()
    _paths.before_reading, _paths.stands_in = fetch, is_empty
    return _open.setdefault(str(root), Mirror(root, bucket))


def check_outside(path: Path, levels: int) -> None:
    """Raises RootError where a path is in a copy that is not open: what is written there would never arrive.

    Args:
        levels: how many folders to look at, from the path upwards.
    """
    text = os.path.abspath(path)
    for above in [text, *map(str, Path(text).parents)][:levels]:
        with contextlib.suppress(OSError, ValueError):  # ValueError: NUL in the path
            address = _paths.read_regular(os.path.join(above, layout.CACHES, _COPY_OF), 1000).decode()
            if holding(text) is None:
                raise RootError(f"{text} is in the local copy of {address}. Name it by its address.")
