"""A root on an object store, as a folder of this machine: everything else in the package sees ordinary paths.

The objects are the truth; the folder is a copy that may be deleted while nothing runs. Small files are copied when a root
is opened, large ones when they are read: until then an empty file of the same size stands in their place. Each durable
write is followed by its upload, in the same order: so data come first and the manifest last there as well, and what
was cut off is never seen as a checkpoint.
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

if TYPE_CHECKING:  # every command imports this module; few need the other
    from raysweep.store.remote.bucket import Bucket

_COPY_OF = "copy_of"  # a file that names the address
_open: dict[str, Mirror] = {}  # by the folder's path


def open_root(text: str | Path, pull: bool = True) -> Path:
    """The folder of a root as a user names it; for an address of an object store, its copy, brought up to date.

    Args:
        pull: False leaves the copy as it is: for what only adds to the root.

    Raises:
        RootError: no such bucket, no access, no answer, or an address of another kind.
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
    """The path of a file or folder that a user, a record or another machine names, which may be an address under a root.

    Args:
        attach: open the root of an address that is under none yet. False for what a stranger may have written.
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
    """What to call a path where somebody else shall find it: its address, if it belongs to a root on an object store."""
    found = _of(path)
    return str(path) if found is None else found.bucket.url(found.key(path))


def root_address(root: Path) -> str:
    """What to type as ``--root``."""
    found = _of(root)
    return str(root) if found is None else found.bucket.url(found.key(root)) + found.bucket.query


def named(text: str) -> str:
    """A text for people, in which the path of a copy is replaced by the address that it is the copy of."""
    for root, found in _open.items():
        text = text.replace(root, found.bucket.address)
    return text


def is_open() -> bool:
    """Whether this process uses a root on an object store."""
    return bool(_open)


def latest(path: Path) -> None:
    """See to it that a log that several machines in turn add to is here as it is there."""
    found = _of(path)
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
        found = _of(real)
        if found is not None:
            found.fetch(Path(real))


def is_empty(path: str | Path, fd: int) -> bool:
    """Whether an open file only stands for one that is not here: it took its place after :func:`fetch`."""
    return (
        bool(_open)
        and os.fstat(fd).st_mtime_ns % mirror.NS == mirror.ABSENT
        and _of(os.path.realpath(path)) is not None
    )


@contextlib.contextmanager
def writing(path: Path, append: bool = False) -> Iterator[None]:
    """Around the moment in which a file changes: it is uploaded afterwards.

    Args:
        append: it is brought up to date first: on a cluster, several machines in turn add to the same log.

    Raises:
        StoreError: it did not arrive.
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
    """Make ``target`` a copy of ``source`` within the object store; False where the root is a folder."""
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
        OSError: it could not be.
    """
    found = _of(path)
    if found is None or not found.told(path):
        return
    try:
        found.bucket.delete(found.key(path))
    except StoreError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error


def refresh(folder: Path, patient: bool = True) -> None:
    """See what other machines have written into an experiment's or a sweep's folder, or into a whole root.

    Args:
        patient: wait for who writes to it on this machine.
    """
    found = _of(folder)
    if found is not None:
        found.pull(found.home(folder), patient)


def claim(folder: Path) -> bool:
    """Whether a folder that was just made here is new in the object store, too, and nobody else's who makes it now."""
    found = _of(folder)
    return found is None or found.claim(folder)


def check(root: Path) -> None:
    """Raises RootError where the root is on an object store and nothing can be written there."""
    found = _of(root)
    if found is not None:
        found.bucket.check_writable(f"{layout.TEMP_PREFIX}{secrets.token_hex(8)}")


def publish(folder: Path) -> None:
    """Upload a folder that was filled under another name; the manifest is the last, so that nothing counts before."""
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
            f"The copy of {bucket.address} cannot be made in {root.parent}: {why}. Name another folder with RAYSWEEP_CACHE."
        )
    root = root.resolve()
    _paths.before_reading, _paths.stands_in = fetch, is_empty
    return _open.setdefault(str(root), Mirror(root, bucket))


def _no_copy(path: Path, levels: int) -> Path:
    """``path``. Raises RootError where it is in a copy that is not open: what is written there would never arrive."""
    text = os.path.abspath(path)
    for above in [text, *map(str, Path(text).parents)][:levels]:
        with contextlib.suppress(OSError, ValueError):  # ValueError: NUL in the path
            address = _paths.read_regular(os.path.join(above, layout.CACHES, _COPY_OF), 1000).decode()
            if _of(text) is None:
                raise RootError(
                    f"{text} is in the copy of {address}, which only stands for it. Name it by its address."
                )
    return path


def _of(path: str | Path) -> Mirror | None:
    if not _open:
        return None
    text = os.path.abspath(path)
    for root, found in _open.items():
        if text == root or text.startswith(root + os.sep):
            return found
    return None
