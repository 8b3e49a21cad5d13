"""The local copies of the roots on object stores that this process has open.

The objects are the original; the folder is a copy, which may be deleted while nothing runs. Small files are downloaded when
a root is opened, large ones when they are read; until then, a placeholder of the same size takes their place. Each durable
write is followed by its upload, in the same order. So in the store, too, data come first and the manifest last, and an
incomplete upload is never taken for a checkpoint.

What reads and writes files knows only their paths, so a copy is found by its folder: this module has the only registry of
open roots. Its functions are the hooks of :mod:`raysweep.store.files`, :mod:`raysweep._paths` and of a library that writes
files itself. Everything else is handed a :class:`raysweep.store.root.Root`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from raysweep import _paths
from raysweep.errors import RootError, StoreError
from raysweep.store import layout
from raysweep.store.remote import uploads
from raysweep.store.remote.mirror import Mirror

if TYPE_CHECKING:  # every command imports this module, but few need an object store
    from raysweep.store.remote.bucket import Bucket, Found

_T = TypeVar("_T")
_COPY_OF = "copy_of"  # a file in each copy that has the address of its root
_open: dict[str, Mirror] = {}  # path of the copy → its root


def holding(path: str | Path) -> Mirror | None:
    """The mirror of the open root that a path is in; None if the path is in an ordinary folder."""
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
    """A text for people, in which the path of each open copy is replaced by its address."""
    for root, found in _open.items():
        text = text.replace(root, found.bucket.address)
    return text


def latest(path: Path) -> None:
    """Bring a log up to date to which several machines append in turn."""
    found = holding(path)
    if found is not None and not found.is_current(path):
        with found.alone(path):
            found.renew(path)


def repeated(path: Path, action: Callable[[], _T], again: Callable[[], _T] | None = None) -> _T:
    """The result of an action that reads a log and appends to it; done again if another machine appended meanwhile.

    Args:
        again: what is done then, if it is not the same.

    Raises:
        StoreError: others append all the time.
    """
    if holding(path) is None:
        return action()
    from raysweep.store.remote.bucket import Changed

    for last in (False,) * 4 + (True,):
        try:
            return action()
        except Changed:
            if last:
                raise
            action = again or action
    raise AssertionError  # not reached


def fetch(path: str | Path) -> None:
    """Download a file if only its placeholder is on this machine. Called before a file is read.

    Raises:
        StoreError: the object store cannot be read.
    """
    if _open:
        real = os.path.realpath(path)  # the path may be a link to the file
        found = holding(real)
        if found is not None:
            found.fetch(Path(real))


def is_empty(path: str | Path, fd: int) -> bool:
    """Whether an open file is a placeholder, because it was replaced by one after :func:`fetch`."""
    return (
        bool(_open)
        and os.fstat(fd).st_mtime_ns % uploads.NS == uploads.ABSENT
        and holding(os.path.realpath(path)) is not None
    )


@contextlib.contextmanager
def writing(path: Path, append: bool = False) -> Iterator[None]:
    """Wraps the change of a file, and uploads the file afterwards.

    Args:
        append: bring the file up to date first; on a cluster, several machines append to the same log in turn.

    Raises:
        StoreError: the upload failed. LockedError: another process has the folder.
        Changed: another machine has appended at the same moment; see :func:`repeated`.
    """
    found = holding(path)
    if found is None or not found.told(path):
        yield
        return
    with found.alone(path, writes=True):
        if append and not found.is_current(path):
            found.renew(path)
        yield
        found.push(path, append)


def copied(source: Path, target: Path) -> bool:
    """Make ``target`` a copy of ``source`` inside the object store; False if the root is an ordinary folder."""
    found = holding(target)
    if found is None or not found.told(target):
        return False

    def send(before: str | None) -> Found:
        there = found.bucket.copy(found.key(source), found.key(target), before)
        if there is None or there.size != source.stat().st_size:
            found.bring(source)
            there = found.bucket.put(found.key(target), source, there.etag if there else before)
        return there

    with found.alone(target, writes=True):
        there = found.upload(target, send)
        found.stand_in(target, there.size, there.time)
    return True


def removed(path: Path) -> None:
    """Delete the object of a file that is about to be deleted.

    Raises:
        OSError: the object could not be deleted. LockedError: another process has the folder.
    """
    found = holding(path)
    if found is None or not found.told(path):
        return
    try:
        found.remove(path)
    except StoreError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error


def attach(bucket: Bucket) -> Mirror:
    """Open a root on an object store: make the folder of its copy, and install the hooks that download and upload files.

    Raises:
        RootError: the folder of the copy cannot be made or used.
    """
    where = f"{bucket.address}?{sorted(bucket.place.items())}"
    key = hashlib.sha256(where.encode()).hexdigest()[:12]
    base = os.environ.get("RAYSWEEP_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "raysweep")
    root = _paths.user_path(base) / "roots" / f"{bucket.name}-{key}"
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.utime(root, ns=(uploads.SAME, uploads.SAME))
        fine = uploads.state(root) == uploads.SAME
        (root / layout.CACHES).mkdir(exist_ok=True)
        (root / layout.CACHES / _COPY_OF).write_text(bucket.address)
        why = "its file system does not keep a file's time to the nanosecond"
    except OSError as error:
        fine, why = False, error.strerror or str(error)
    if not fine:
        raise RootError(
            f"The local copy of {bucket.address} cannot be made in {root.parent}: {why}. Set RAYSWEEP_CACHE to another folder."
        )
    root = root.resolve()
    _paths.before_reading, _paths.stands_in = fetch, is_empty
    return _open.setdefault(str(root), Mirror(root, bucket))


def check_outside(path: Path, levels: int) -> None:
    """Refuse a path in the copy of a root that is not open: files written there would never be uploaded.

    Args:
        levels: how many folders to look at, from the path upwards.

    Raises:
        RootError: the path is in such a copy.
    """
    text = os.path.abspath(path)
    for above in [text, *map(str, Path(text).parents)][:levels]:
        with contextlib.suppress(OSError, ValueError):  # ValueError: NUL in the path
            address = _paths.read_regular(os.path.join(above, layout.CACHES, _COPY_OF), 1000).decode()
            if holding(text) is None:
                raise RootError(
                    f"{text} is in the local copy of {address}, which must not be used directly. Use the address."
                )
