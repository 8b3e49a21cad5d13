"""A root on an object store, as a local folder: the rest of the package sees ordinary paths.

The objects are the original; the folder is a copy, which may be deleted while nothing runs. Small files are downloaded when
a root is opened, large ones when they are read; until then, a placeholder of the same size takes their place. Each durable
write is followed by its upload, in the same order. So in the store, too, data come first and the manifest last, and an
incomplete upload is never taken for a checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from raysweep import _paths
from raysweep._paths import is_address
from raysweep.errors import RootError, StoreError
from raysweep.store import layout
from raysweep.store.remote import mirror
from raysweep.store.remote.mirror import Mirror

if TYPE_CHECKING:  # every command imports this module, but few need an object store
    from raysweep.store.remote.bucket import Bucket

_COPY_OF = "copy_of"  # a file in each copy that has the address of its root
_open: dict[str, Mirror] = {}  # path of the copy → its root


def open_root(text: str | Path, pull: bool = True) -> Path:
    """The folder of a root that a user names; for an address in an object store its local copy, brought up to date.

    Args:
        pull: False does not update the copy; for a command that only adds to the root.

    Raises:
        RootError: there is no such bucket, no access or no answer, or the address is not supported.
    """
    if not is_address(text):
        return _no_copy(_paths.user_path(text), 1)
    from raysweep.store.remote.bucket import Bucket

    found = _attach(Bucket.parse(str(text)))
    if pull:
        try:
            found.pull()
        except StoreError as error:
            raise RootError(str(error)) from None
    return found.root


def place(text: str | Path, attach: bool = True) -> Path:
    """The local path of a file or folder, which may be named by its address under a root.

    Args:
        attach: open the root of the address if it is not open yet. False for a text that a stranger may have written.
    """
    if not is_address(text):
        return _no_copy(Path(text), 4)
    from raysweep.store.remote.bucket import Bucket

    wanted = Bucket.parse(str(text))
    parts = wanted.prefix.split("/")
    for found in _open.values():
        known = found.bucket
        above = known.prefix.split("/") if known.prefix else []
        if known.name == wanted.name and parts[: len(above)] == above and wanted.options in ({}, known.options):
            return found.root.joinpath(*parts[len(above) :])
    if not attach:
        return Path(text)
    up = 2 if parts[-1].endswith(".pt") or parts[-2:-1] == [layout.SWEEPS] else 1
    wanted.prefix = "/".join(parts[:-up])
    return open_root(wanted.address + wanted.query).joinpath(*parts[-up:])


def address(path: str | Path) -> str:
    """The name of a path that also works on other machines: its address, if it is under a root on an object store."""
    found = _of(path)
    return str(path) if found is None else found.bucket.url(found.key(path))


def root_address(root: Path) -> str:
    """The value of ``--root`` for a root: its address with its options, or its path."""
    found = _of(root)
    return str(root) if found is None else found.bucket.url(found.key(root)) + found.bucket.query


def named(text: str) -> str:
    """A text for people, in which the path of each open copy is replaced by its address."""
    for root, found in _open.items():
        text = text.replace(root, found.bucket.address)
    return text


def is_open() -> bool:
    """Whether this process has opened a root on an object store."""
    return bool(_open)


def latest(path: Path) -> None:
    """Bring a log up to date to which several machines append in turn."""
    found = _of(path)
    if found is not None:
        with found.alone(path):
            found.renew(path)


def fetch(path: str | Path) -> None:
    """Download a file if only its placeholder is on this machine. Called before a file is read.

    Raises:
        StoreError: the object store cannot be read.
    """
    if _open:
        real = os.path.realpath(path)  # the path may be a link to the file
        found = _of(real)
        if found is not None:
            found.fetch(Path(real))


def is_empty(path: str | Path, fd: int) -> bool:
    """Whether an open file is a placeholder, because it was replaced by one after :func:`fetch`."""
    return (
        bool(_open)
        and os.fstat(fd).st_mtime_ns % mirror.NS == mirror.ABSENT
        and _of(os.path.realpath(path)) is not None
    )


@contextlib.contextmanager
def writing(path: Path, append: bool = False) -> Iterator[None]:
    """Wraps the change of a file, and uploads the file afterwards.

    Args:
        append: bring the file up to date first; on a cluster, several machines append to the same log in turn.

    Raises:
        StoreError: the upload failed.
    """
    found = _of(path)
    if found is None or not found.told(path):
        yield
        return
    with found.alone(path, writes=True):
        if append:
            found.renew(path)
        yield
        found.push(path)


def copied(source: Path, target: Path) -> bool:
    """Make ``target`` a copy of ``source`` inside the object store; False if the root is an ordinary folder."""
    found = _of(target)
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
        OSError: the object could not be deleted.
    """
    found = _of(path)
    if found is None or not found.told(path):
        return
    try:
        found.bucket.delete(found.key(path))
    except StoreError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error


def refresh(folder: Path, patient: bool = True) -> None:
    """Bring the folder of an experiment or a sweep, or a whole root, up to date with what other machines have written.

    Args:
        patient: wait while a process of this machine writes to it.
    """
    found = _of(folder)
    if found is not None:
        found.pull(found.home(folder), patient)


def claim(folder: Path) -> bool:
    """Reserve the name of a new local folder in the object store; False if another machine already uses it."""
    found = _of(folder)
    return found is None or found.claim(folder)


def check(root: Path) -> None:
    """Make sure that a root on an object store can be written to; does nothing for an ordinary folder.

    Raises:
        RootError: it cannot.
    """
    found = _of(root)
    if found is not None:
        found.bucket.check_writable(f"{layout.TEMP_PREFIX}{secrets.token_hex(8)}")


def publish(folder: Path) -> None:
    """Upload a folder that was filled under another name. The manifest comes last, so that nothing counts before it."""
    found = _of(folder)
    if found is None:
        return
    files = sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: (p.name == layout.MANIFEST, str(p)))
    with found.alone(folder, writes=True):
        for path in files:
            found.push(path)


def _attach(bucket: Bucket) -> Mirror:
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
            f"The local copy of {bucket.address} cannot be made in {root.parent}: {why}. Set RAYSWEEP_CACHE to another folder."
        )
    root = root.resolve()
    _paths.before_reading, _paths.stands_in = fetch, is_empty
    return _open.setdefault(str(root), Mirror(root, bucket))


def _no_copy(path: Path, levels: int) -> Path:
    """``path``, if it is not in the local copy of a root that is not open; a write to it would never be uploaded.

    Raises:
        RootError: it is.
    """
    text = os.path.abspath(path)
    for above in [text, *map(str, Path(text).parents)][:levels]:
        with contextlib.suppress(OSError, ValueError):  # ValueError: NUL in the path
            address = _paths.read_regular(os.path.join(above, layout.CACHES, _COPY_OF), 1000).decode()
            if _of(text) is None:
                raise RootError(
                    f"{text} is in the local copy of {address}, which must not be used directly. Use the address."
                )
    return path


def _of(path: str | Path) -> Mirror | None:
    """The open root whose copy a path is in, or None."""
    if not _open:
        return None
    text = os.path.abspath(path)
    for root, found in _open.items():
        if text == root or text.startswith(root + os.sep):
            return found
    return None
