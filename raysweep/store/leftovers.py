"""What a killed program has left under a root, and that nothing uses: found and deleted by ``raysweep prune``."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from raysweep import _locks
from raysweep.store import files, layout, lineage, retention
from raysweep.store.experiment import Experiment
from raysweep.store.retention import InUse
from raysweep.store.root import Root

_QUIET_S = 600  # an import that still runs, on a machine whose locks are not seen here, has written something since


def of_experiment(experiment: Experiment) -> list[Path]:
    """Files of no commit: temporary ones, and those of checkpoints that a killed prune took out of the manifest.

    What is newer than the newest commit is none of them: the training may go on from there. Neither is anything in a folder whose
    manifest is damaged. Only its writer may delete them.
    """
    manifest = experiment.manifest()
    if not experiment.has_manifest or manifest.problems or not manifest.entries:
        return []
    known = {e.file for e in manifest.entries}
    epochs = {e.epoch for e in manifest.entries}
    newest = manifest.entries[-1].position.order
    found = []
    for name in sorted(os.listdir(experiment.folder)):
        position = layout.parse_checkpoint_name(name)
        epoch = layout.parse_model_name(name)
        older = position is not None and name not in known and position.order < newest
        bare = epoch is not None and epoch not in epochs and (epoch, float("inf")) < newest
        if older or bare or name.startswith(layout.TEMP_PREFIX):
            found.append(experiment.folder / name)
    return [path for path in found if path.is_file() and not path.is_symlink()]


def remove(experiment: Experiment, paths: Sequence[Path], used: InUse) -> int:
    """Delete files that :func:`of_experiment` found, except a checkpoint that something starts from. Returns the bytes."""
    freed, gone = 0, []
    for path in paths:
        if layout.parse_checkpoint_name(path.name) is None or files.sha256_file(path) not in used.look():
            freed += retention.delete(path)
            gone.append(path.name)
    told = [name for name in gone if not name.startswith(layout.TEMP_PREFIX)]
    if told:
        lineage.record(experiment.folder, lineage.NOTE, text=f"removed {', '.join(told)} (left by a killed program)")
    return freed


def imports(root: Root) -> list[Path]:
    """Folders of imports that were killed."""
    found = []
    for path in sorted(root.path.glob(f"{layout.TEMP_PREFIX}*")):
        if path.is_dir() and not path.is_symlink() and _quiet(path):
            with importing(path) as alone:
                if alone:
                    found.append(path)
    return found


def _quiet(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        newest = max(p.lstat().st_mtime for p in (folder, *folder.rglob("*")))
        return time.time() - newest > _QUIET_S
    return False


@contextlib.contextmanager
def importing(folder: Path) -> Iterator[bool]:
    """Hold the kernel's lock on the temporary folder of an import. Whether it is held; if not, another process has it."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            _locks.flock(fd, _locks.ALONE | _locks.AT_ONCE)
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks; how long nothing was written tells it
            pass
        yield True
    finally:
        os.close(fd)


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    inner = path.rglob("*") if path.is_dir() else [path]
    total = 0
    for file in inner:
        with contextlib.suppress(OSError):
            there = file.lstat()
            total += there.st_size if file.is_file() and there.st_nlink == 1 else 0
    return total


def remove_import(folder: Path) -> int:
    """Delete the folder of a killed import; returns the bytes that this frees."""
    with importing(folder) as alone:
        if not alone:
            return 0
        freed = size(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return freed - (size(folder) if folder.exists() else 0)
