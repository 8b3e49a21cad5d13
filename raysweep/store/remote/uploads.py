"""Uploads to an object store that replace only what their sender has seen, and the marks of what was uploaded.

Each upload has a condition: the object is new, or is still the one that this process wrote last. If it is not, the process
looks at the object, then at the lock, and only then sends again. In this order a writer that stood still meanwhile, and lost
its lock, either sees the lock or is refused by the store. Who takes a lock over replaces the manifest by the same one with a
line break more, so that nobody who has seen the old one can commit after that.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from raysweep.errors import StoreError
from raysweep.store import gate, layout

if TYPE_CHECKING:  # every command imports this module; few need the other
    from raysweep.store.remote.bucket import Bucket, Found

SAME, YOUNG, ABSENT = 123_456_789, 555_555_555, 987_654_321
NS = 1_000_000_000
_YOUNG_S = 10.0  # more than the clocks of this machine and of the store may differ
_LOOKS = 5  # uploads of an object that others replace at the same time


class _LocksSeen(threading.local):
    """The locks as this thread has read them last: it decides by them."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[bytes, str] | None] = {}  # key → content and ETag


class Uploads:
    """What this process has uploaded to a root, and how it uploads more."""

    def __init__(self, root: Path, bucket: Bucket) -> None:
        self.root, self.bucket = root, bucket
        self.known: dict[str, tuple[str | None, bool]] = {}  # key → ETag, and whether this process wrote the object
        self.locks = _LocksSeen()

    def key(self, path: str | Path) -> str:
        """The key of the object that belongs to a path."""
        relative = os.path.relpath(os.path.abspath(path), self.root)
        return "" if relative == "." else relative.replace(os.sep, "/")

    def home(self, path: str | Path) -> str:
        """The experiment's or sweep's folder that a path is in."""
        return home_of(self.key(path).split("/"))

    def temp(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f"{layout.TEMP_PREFIX}{secrets.token_hex(8)}")

    def upload(self, path: Path, send: Callable[[str | None], Found], once: bool = False) -> Found:
        """Replace the object of a path by ``send``, which takes the ETag of the object that is there, or None.

        Raises:
            LockedError: another process has the folder. Changed: with ``once``, if the object is not the one seen last.
            StoreError: others write the object all the time, or what ``send`` raises.
        """
        from raysweep.store.remote.bucket import Changed

        key = self.key(path)
        etag, own = self.known.pop(key, (None, True))
        for _ in range(_LOOKS):
            if not own:
                self._confirm(path)
            try:
                there = send(etag)
            except Changed:
                if once:
                    raise
            else:
                self.known[key] = there.etag, True
                return there
            found = self.bucket.info(key)
            etag, own = found.etag if found else None, False
        raise StoreError(f"{self.bucket.url(key)} is replaced by others all the time. Let only one process write it.")

    def send(self, path: Path, before: str | None) -> Found:
        """Upload a file. Where the store honours no conditions, it goes to a key of this upload's own, which may arrive late,
        and is copied into its place only after another look at the lock."""
        key = self.key(path)
        if self.bucket.conditional:
            return self.bucket.put(key, path, before)
        own = f"{self.home(path)}/{layout.TEMP_PREFIX}{secrets.token_hex(8)}-{path.name}"
        try:
            size = self.bucket.put(own, path, None).size
            self._confirm(path)
            there = self.bucket.copy(own, key, None)
            return there if there is not None and there.size == size else self.bucket.put(key, path, None)
        finally:
            self.bucket.delete(own)

    def _confirm(self, path: Path) -> None:
        """Make sure that no other writer has the folder of a path, by the lock as the store has it now."""
        home = self.home(path)
        found = self.bucket.read(f"{home}/{layout.LOCK}")
        gate.confirm(self.root / home, found[0] if found else b"")

    def push_lock(self, path: Path) -> None:
        """Take or renew a lock, if it is still the one that this thread has seen."""
        from raysweep.store.remote.bucket import Changed

        key = self.key(path)
        seen = self.locks.found.get(key)
        try:
            there = self.bucket.put(key, path, seen[1] if seen else None)
        except Changed:
            found = self.bucket.read(key)
            who = gate.named(path.parent, found[0]) if found else None
            if who is None:
                raise
            raise gate.refusal(who, gate.alive(who)) from None
        mark(path, there, SAME)
        mine = path.read_bytes()
        self.locks.found[key] = mine, there.etag
        before, after = (gate.named(path.parent, content) for content in (seen[0] if seen else b"", mine))
        if before is not None and after is not None and gate.base(before.token) != gate.base(after.token):
            self._shut_out(path.with_name(layout.MANIFEST))

    def _shut_out(self, manifest: Path) -> None:
        """Replace the manifest of an experiment that was taken over, so that its last writer cannot any more."""
        if self.key(manifest).startswith(f"{layout.SWEEPS}/"):
            return
        temp = self.temp(manifest)

        def send(before: str | None) -> Found:
            with contextlib.suppress(FileNotFoundError):  # without a manifest, an empty one prevents the first commit
                before = self.bucket.get(self.key(manifest), temp).etag
            with open(temp, "ab") as file:
                file.write(b"\n")
            return self.bucket.put(self.key(manifest), temp, before)

        try:
            put_back(temp, manifest, self.upload(manifest, send))
        finally:
            temp.unlink(missing_ok=True)

    def remove(self, path: Path) -> None:
        """Delete the object of a path, if it is still the one that this process has written.

        Raises:
            LockedError: another process has the folder. StoreError: it cannot be deleted.
        """
        from raysweep.store.remote.bucket import Changed

        key = self.key(path)
        etag, own = self.known.pop(key, (None, False))
        if path.name == layout.LOCK:
            seen = self.locks.found.pop(key, None)
            with contextlib.suppress(Changed):  # then it is another writer's
                self.bucket.delete(key, seen[1] if seen else None)
            return
        try:
            self.bucket.delete(key, etag if own else None)
        except Changed:
            self._confirm(path)
            self.bucket.delete(key)

    def is_current(self, path: Path) -> bool:
        """Whether a file is what this process has uploaded last. If another one has replaced the object since then, the
        next upload finds it out."""
        return self.known.get(self.key(path), (None, False))[1] and state(path) == SAME


def home_of(parts: list[str]) -> str:
    return "/".join(parts[: 2 if parts[0] in layout.GROUPS else 1])


def put_back(temp: Path, path: Path, there: Found) -> None:
    mark(temp, there, SAME if time.time() - there.time > _YOUNG_S else YOUNG)
    os.replace(temp, path)


def mark(path: Path, there: Found, how: int) -> None:
    when = there.time * NS + how
    os.utime(path, ns=(when, when))


def state(path: str | Path) -> int | None:
    """The fraction of the file's modification time: ``SAME``, ``YOUNG``, ``ABSENT`` or another; None if there is no file."""
    try:
        return os.stat(path, follow_symlinks=False).st_mtime_ns % NS
    except OSError:
        return None
