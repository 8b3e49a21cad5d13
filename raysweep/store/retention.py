"""Which checkpoints may be deleted, and deleting them. The best, the newest, and all that a child or a sweep starts from stay.

Between the look at the children and the deletion another process may start a child. So the file of a checkpoint is locked:
shared by who records that it starts from it, exclusively by who deletes it, who looks again under that lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raysweep import _locks
from raysweep._text import short_repr
from raysweep.errors import CheckpointError, RaysweepError, StoreError
from raysweep.store import files, layout, lineage
from raysweep.store.catalog import experiments
from raysweep.store.experiment import Experiment
from raysweep.store.records_manifest import ManifestEntry
from raysweep.store.root import Root

_AT_ONCE = 200  # files that are open at the same time: a process may often have 1,024


class InUse:
    """The checkpoints that an experiment or a sweep under a root starts from. To look again is cheap: what a folder starts from
    never changes, so only new ones are read.

    Attributes:
        unknown: folders that do not say what they start from, because their files are damaged.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self._known: dict[Path, str | None] = {}
        self.unknown: list[str] = []

    def look(self) -> set[str]:
        """SHA-256 of each of them, as it is now."""
        self._root.refresh()  # a training may run for days, and its children may have been made on other machines
        self.unknown = []
        for experiment in experiments(self._root):
            if experiment.folder not in self._known:
                with contextlib.suppress(RaysweepError):
                    self._known[experiment.folder] = _source(experiment)
            if experiment.folder not in self._known:
                self.unknown.append(experiment.id)
        for path in (self._root.path / layout.SWEEPS).glob(f"*/{layout.SWEEP}"):
            if path not in self._known:
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    self._known[path] = _hash_in(files.read_json(path).get("parent"))
            if path not in self._known:
                self.unknown.append(path.parent.name)
        return {sha for sha in self._known.values() if sha is not None}


def _hash_in(parent: Any) -> str | None:
    sha = parent.get("sha256") if isinstance(parent, Mapping) else None
    return sha if isinstance(sha, str) else None


def _source(experiment: Experiment) -> str | None:
    """The hash of the checkpoint that an experiment starts from, even if other parts of its configuration are wrong.

    Raises:
        RaysweepError: neither its configuration nor its log can be read.
    """
    try:
        return _hash_in(experiment.written_config().get("parent"))
    except RaysweepError:
        events = lineage.early(experiment.folder)
        if not events:
            raise
        return next((_hash_in(e.fields) for e in events if e.type == lineage.RESUME), None)


def in_use(root: Root) -> set[str]:
    """SHA-256 of every checkpoint that an experiment or a sweep under a root starts from."""
    return InUse(root).look()


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Keep a checkpoint from being deleted until what starts from it is recorded.

    Raises:
        CheckpointError: it has been deleted since it was read.
    """
    gone = f"{path} has been deleted meanwhile, by `raysweep prune` or checkpoint.keep. Start from another checkpoint."
    try:
        file = files.open_regular(path)
    except FileNotFoundError:
        raise CheckpointError(gone) from None
    with file:
        with contextlib.suppress(OSError):  # a file system without locks
            _locks.flock(file.fileno(), _locks.SHARED)
        if os.fstat(file.fileno()).st_nlink == 0:
            raise CheckpointError(gone)
        yield


def rule(experiment: Experiment) -> tuple[int, int | None] | None:
    """(last, every) of the experiment's own ``checkpoint.keep``; None if it keeps all.

    Raises:
        StoreError: the configuration cannot be read, or its ``checkpoint.keep`` is not valid.
    """
    keep = experiment.config().setting("checkpoint", "keep")
    if not isinstance(keep, dict):
        return None
    last, every = keep.get("last", 1), keep.get("every")
    if type(last) is not int or last < 1 or not (every is None or (type(every) is int and every > 0)):
        raise StoreError(
            f"checkpoint.keep in {experiment.folder / layout.CONFIG} is {short_repr(keep)}, which is not valid. Correct it, or give "
            "--last or --every."
        )
    return last, every


def removable(experiment: Experiment, last: int, every: int | None, used: set[str]) -> list[ManifestEntry]:
    """The epochs' checkpoints that are neither among the ``last`` newest, nor at a multiple of ``every``, nor the best,
    nor in ``used``."""
    manifest = experiment.manifest()
    ends = manifest.ends
    keep = {e.file for e in ends[-max(1, last) :]} | {manifest.best_file}
    return [e for e in ends if e.file not in keep and e.sha256 not in used and not (every and e.epoch % every == 0)]


@dataclass
class Removed:
    """What a removal did."""

    entries: list[ManifestEntry] = field(default_factory=list)
    spared: list[ManifestEntry] = field(default_factory=list)  # an experiment starts, or is about to start, from it
    freed: int = 0  # bytes


def remove(experiment: Experiment, entries: Sequence[ManifestEntry], why: str, used: InUse | None = None) -> Removed:
    """Delete committed checkpoints and their bare state_dicts, except those that something has started from meanwhile.

    The caller holds the writer's lock. The manifest is written first: a kill in between leaves a file without an entry, which
    the next prune finds, never an entry without its file.

    Args:
        used: the children known so far; default: none of them.
    """
    done = Removed()
    used = used or InUse(experiment.root)
    for start in range(0, len(entries), _AT_ONCE):
        part = entries[start : start + _AT_ONCE]
        with contextlib.ExitStack() as locks:
            free = [e for e in part if _locked(experiment.folder / e.file, locks)]
            sources = used.look() if free else set()
            going = [e for e in free if e.sha256 not in sources]
            done.spared += [e for e in part if e not in going]
            if going:
                done.freed += _remove(experiment, going)
                done.entries += going
    if done.entries:
        names = ", ".join(sorted(e.file for e in done.entries))
        lineage.record(experiment.folder, lineage.NOTE, text=f"removed {names} ({why})")
    return done


def _locked(path: Path, locks: contextlib.ExitStack) -> bool:
    """Lock a file that is about to be deleted; False if somebody records at this moment that he starts from it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:  # it is gone already, or is a link, which nobody starts from
        return True
    locks.callback(os.close, fd)
    try:
        _locks.flock(fd, _locks.ALONE | _locks.AT_ONCE)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


def _remove(experiment: Experiment, entries: Sequence[ManifestEntry]) -> int:
    gone = {e.file for e in entries}
    manifest = experiment.manifest()
    left = replace(manifest, entries=[e for e in manifest.entries if e.file not in gone])
    freed = 0
    try:
        experiment.write_manifest(left)
    except StoreError as error:
        if not is_full(error):
            raise
        freed = make_room(experiment, entries) or delete(experiment.folder / entries[0].file)
        experiment.write_manifest(left)
    for entry in entries:
        for name in (entry.file, layout.model_name(entry.epoch)):
            freed += delete(experiment.folder / name)
    return freed


def is_full(error: BaseException) -> bool:
    """Whether something could not be written because there is no space."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


def make_room(experiment: Experiment, entries: Sequence[ManifestEntry]) -> int:
    """Free the first bytes on a full disk, on which neither lock nor manifest can be written. Returns how many.

    The bare state_dicts of checkpoints that go are no loss, whatever happens next. Where there are none, the oldest of these
    checkpoints must go before its entry does; if a kill comes there, the next prune removes the entry.
    """
    return sum(delete(experiment.folder / layout.model_name(entry.epoch)) for entry in entries)


def make_room_before_the_lock(experiment: Experiment, entries: Sequence[ManifestEntry], used: InUse) -> int:
    """:func:`make_room`, where not even the writer's lock can be taken because its file cannot be written."""
    if freed := make_room(experiment, entries):
        return freed
    with contextlib.ExitStack() as locks:
        for entry in entries[:1]:
            if _locked(experiment.folder / entry.file, locks) and entry.sha256 not in used.look():
                freed += delete(experiment.folder / entry.file)
    return freed


def delete(path: Path) -> int:
    """Delete a file if it is there; returns the bytes that this frees, which are none where it has another name."""
    try:
        there = path.lstat()
        files.remove(path)
    except OSError:
        return 0
    return there.st_size if there.st_nlink == 1 else 0
