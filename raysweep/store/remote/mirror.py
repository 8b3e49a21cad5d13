"""The local copy of a root on an object store, and how the two are kept equal.

A local file that is a copy of an object has the object's modification time. The fraction of the second says what kind of
copy it is: ``SAME``, ``YOUNG`` or ``ABSENT`` (a placeholder of the same size, whose content was not downloaded). A file
with any other fraction was written here and has not been uploaded; unless its writer is still working, it is replaced.

The store gives times in whole seconds, so an object may be replaced by one of the same size and time. A copy that was
downloaded in an object's first seconds is therefore ``YOUNG`` and is downloaded again next time. A lock is always read anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING

from raysweep import _locks
from raysweep.store import layout
from raysweep.store.remote.uploads import ABSENT, NS, SAME, YOUNG, Uploads, home_of, mark, put_back, state

if TYPE_CHECKING:  # every command imports this module; few need the other
    from raysweep.store.remote.bucket import Bucket, Found

_AT_ONCE = 32
_LOOKS = 5  # comparisons of a folder that changes at the same time
_PAUSE_S = 0.02
# The files that ``list`` and ``lineage`` read of every experiment.
_SMALL = {
    layout.CONFIG,
    layout.MANIFEST,
    layout.LINEAGE,
    layout.LOCK,
    layout.SWEEP,
    layout.HISTORY_CSV,
    layout.EVALUATION,
}
_OURS = _SMALL | {layout.CHANGES, layout.BEST, layout.PREDICTIONS, layout.VAL_IMAGES, layout.ROLES, layout.RESULTS}


class Mirror(Uploads):
    """One root on an object store, and its local copy."""

    def __init__(self, root: Path, bucket: Bucket) -> None:
        super().__init__(root, bucket)
        self.claims: dict[str, str] = {}  # folder → the object that reserves its name until it has content

    def told(self, path: Path) -> bool:
        """Whether a path belongs into the object store; caches, this machine's locks and temporary files do not."""
        return not any(
            p in (layout.CACHES, layout.FENCE) or p.startswith(layout.TEMP_PREFIX) for p in self.key(path).split("/")
        )

    @contextlib.contextmanager
    def alone(self, path: str | Path, writes: bool = False) -> Iterator[None]:
        """Let only one thread of this machine at a time change the copy of a folder.

        Args:
            writes: the caller changes the content, which may take as long as an upload.
        """
        fd = self._claimed(path)
        try:
            _locks.flock(fd, _locks.ALONE)
            os.ftruncate(fd, 0)
            if writes:
                os.pwrite(fd, b"w", 0)
            yield
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def undisturbed(self, path: str | Path) -> Iterator[bool]:
        """The same for a caller that only compares. Yields False at once if another one is writing to the folder."""
        fd = self._claimed(path)
        try:
            while True:
                try:
                    _locks.flock(fd, _locks.ALONE | _locks.AT_ONCE)
                    mine = True
                    os.ftruncate(fd, 0)
                    break
                except BlockingIOError:
                    mine = False
                if os.pread(fd, 1, 0) == b"w":
                    break
                time.sleep(_PAUSE_S)  # another one is comparing; the copy may be out of date until it is done
            yield mine
        finally:
            os.close(fd)

    def _claimed(self, path: str | Path) -> int:
        _locks.demand()  # a copy that two programs bring up to date at the same time is nobody's
        locks = self.root / layout.CACHES / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(os.fsencode(self.home(path))).hexdigest()[:32]
        return os.open(locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def claim(self, folder: Path) -> bool:
        """Reserve a new folder's name in the store; False if another machine has it or reserves it at the same time.

        Each machine writes an object and then lists the folder. One that sees another object gives up, so at most one wins.
        """
        key = f"{self.key(folder)}/{layout.TEMP_PREFIX}{secrets.token_hex(8)}"
        self.bucket.put_empty(key)
        if {*self.bucket.list(self.key(folder))} - {key}:
            self.bucket.delete(key)
            return False
        self.claims[self.home(folder)] = key
        return True

    def push(self, path: Path, append: bool = False) -> None:
        """Upload a file. The caller holds :meth:`alone`.

        Args:
            append: the file continues the object as this process has seen it last.

        Raises:
            LockedError: another process has the folder. Changed: an object that was to be continued is another one now.
        """
        if path.name == layout.LOCK:
            self.push_lock(path)
        else:
            mark(path, self.upload(path, lambda before: self.send(path, before), append), SAME)
        claim = self.claims.pop(self.home(path), None)
        if claim is not None:
            self.bucket.delete(claim)
        if path.suffix == ".pt":  # else the copy would grow to the size of the whole root
            for old in path.parent.glob("*.pt"):
                if old != path and state(old) in (SAME, YOUNG):
                    here = old.stat()
                    self.stand_in(old, here.st_size, here.st_mtime_ns // NS)

    def fetch(self, path: Path) -> None:
        """Make sure that a file's content is on this machine, and that a lock is up to date."""
        if path.name == layout.LOCK:
            self._look_at_lock(path)
        while state(path) == ABSENT:
            temp = self.temp(path)
            try:
                there = self.bucket.get(self.key(path), temp)  # without the lock, so that others can compare
                with self.alone(path):
                    if state(path) == ABSENT:
                        put_back(temp, path, there)
            finally:
                temp.unlink(missing_ok=True)

    def _look_at_lock(self, path: Path) -> None:
        found = self.locks.found[self.key(path)] = self.bucket.read(self.key(path))
        if (found[0] if found else None) == _content(path):
            return
        with self.alone(path):
            changed = self.renew(path)
        if changed:  # the writer is another one, or this copy was deleted: other files have changed, too
            self.pull(self.home(path))

    def bring(self, path: Path) -> None:
        """Download a file of which there is only a placeholder. The caller holds :meth:`alone`."""
        if state(path) == ABSENT:
            self._download(path)

    def renew(self, path: Path) -> bool:
        """Bring a file up to date with its object; True if it has changed. The caller holds :meth:`alone`."""
        there = self.bucket.info(self.key(path))
        self.known[self.key(path)] = (there.etag if there else None), False
        before = _content(path) if path.name == layout.LOCK else None
        if there is None:
            found = path.exists()
            path.unlink(missing_ok=True)
            return found
        if before is None and _same(path, there) and state(path) != ABSENT:
            return False
        self._download(path)
        return before is None or before != _content(path)

    def stand_in(self, path: Path, size: int, when: int) -> None:
        """Replace a file by a placeholder of the object's size. The caller holds :meth:`alone`."""
        temp = self.temp(path)
        with open(temp, "xb") as file:
            file.truncate(size)
        os.utime(temp, ns=(when * NS + ABSENT, when * NS + ABSENT))
        os.replace(temp, path)

    def _download(self, path: Path) -> Found:
        temp = self.temp(path)
        try:
            there = self.bucket.get(self.key(path), temp)
            self.known[self.key(path)] = there.etag, False
            if path.name == layout.LOCK:
                self.locks.found[self.key(path)] = temp.read_bytes(), there.etag
            put_back(temp, path, there)
        finally:
            temp.unlink(missing_ok=True)
        return there

    def pull(self, below: str = "", patient: bool = False) -> None:
        """Bring the copy up to date, or only one folder of it.

        Args:
            patient: wait while this machine writes to a folder; else skip such a folder, whose files are the newest anyway.

        Raises:
            StoreError: the object store cannot be listed or read.
        """
        homes: dict[str, dict[str, Found]] = {home: {} for home in self._homes_here(below)}
        for key, there in self.bucket.list(below).items():
            home = self._home_of_object(key)
            if home is None:
                continue
            homes.setdefault(home, {})[key] = there
            if home == below and not self.known.get(key, (None, False))[1]:
                self.known[key] = there.etag, False  # it will be written, perhaps
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(lambda home: self._settle(home, homes[home], patient), homes):
                pass

    def _homes_here(self, below: str) -> list[str]:
        if below:
            return [below]
        found = []
        for above in ("", *(f"{group}/" for group in layout.GROUPS)):
            with contextlib.suppress(FileNotFoundError), os.scandir(self.root / above) as rows:
                found += [above + r.name for r in rows if r.is_dir(follow_symlinks=False) and r.name[0] != "."]
        return [home for home in found if home not in layout.GROUPS]

    def _home_of_object(self, key: str) -> str | None:
        """The folder that an object belongs to; None if it is not raysweep's or cannot be a path of this machine."""
        parts = key.split("/")
        if any(p in ("", ".", "..") or "\0" in p or len(os.fsencode(p)) > 255 for p in parts) or parts[0][0] == ".":
            return None
        home = home_of(parts)
        inner = parts[home.count("/") + 1 :]
        if len(inner) == 2 and inner[0] in layout.FOLDERS:
            return home
        return home if len(inner) == 1 and not inner[0].startswith(layout.TEMP_PREFIX) else None

    def _settle(self, home: str, wanted: dict[str, Found], patient: bool) -> None:
        """Bring one folder up to date with its objects."""
        folder = self.root / home
        if os.path.islink(folder) or os.path.islink(folder.parent):
            return  # a link may lead out of the copy
        if not folder.exists() and not any(k.endswith(".pt") or k.rpartition("/")[2] in _SMALL for k in wanted):
            return  # not an experiment; it may have a million images
        for _ in range(_LOOKS):
            if not self._differences(home, wanted):
                return
            with self._settling(folder, patient) as mine:
                if not mine:  # this machine is writing to it, so its files are the newest
                    return
                if all([self._adopt(key, there) for key, there in self._differences(home, wanted)]):
                    with contextlib.suppress(OSError):
                        if not wanted:
                            folder.rmdir()  # only where it is empty
                    return
            wanted = self.bucket.list(home)  # it has changed since the listing
            wanted = {key: there for key, there in wanted.items() if self._home_of_object(key) == home}

    @contextlib.contextmanager
    def _settling(self, folder: Path, patient: bool) -> Iterator[bool]:
        if patient:
            with self.alone(folder):
                yield True
        else:
            with self.undisturbed(folder) as mine:
                yield mine

    def _adopt(self, key: str, there: Found | None) -> bool:
        """Bring one file up to date with its object, or delete it with it; False if the object has changed again."""
        path = self.root / key
        if there is None:
            if self.bucket.info(key) is not None:
                return False
            path.unlink(missing_ok=True)
            return True
        try:
            if path.name in _SMALL:
                return self._download(path) == there
            self.stand_in(path, there.size, there.time)
            return True
        except FileNotFoundError:
            return False
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            return True  # only a store can have both a folder and a file of one name; not raysweep's

    def _differences(self, home: str, wanted: dict[str, Found]) -> list[tuple[str, Found | None]]:
        """Objects whose local copies differ (or are missing), and local files whose objects are gone (None)."""
        found: list[tuple[str, Found | None]] = []
        inner = [f"{home}/{name}" for name in layout.FOLDERS]
        root = f"{self.root}/"  # text; a Path takes ten times as long, and a root may have a million objects
        linked = tuple(f"{place}/" for place in inner if os.path.islink(root + place))
        for key, there in wanted.items():
            if not _same(root + key, there) and not key.startswith(linked):
                found.append((key, there))
        for place in (home, *(place for place in inner if f"{place}/" not in linked)):
            try:
                with os.scandir(root + place) as rows:
                    names = [e.name for e in rows if not e.is_dir(follow_symlinks=False)]
            except (FileNotFoundError, NotADirectoryError):
                continue
            for name in names:
                key = f"{place}/{name}"
                if key in wanted:
                    continue
                known = name in _OURS or layout.parse_checkpoint_name(name) is not None
                if known or state(root + key) in (SAME, YOUNG, ABSENT):
                    found.append((key, None))
        return sorted(found, key=lambda pair: pair[0].endswith("/" + layout.MANIFEST))


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _same(path: str | Path, there: Found) -> bool:
    try:
        here = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    marks = (there.time * NS + SAME, there.time * NS + ABSENT)
    return S_ISREG(here.st_mode) and here.st_size == there.size and here.st_mtime_ns in marks
