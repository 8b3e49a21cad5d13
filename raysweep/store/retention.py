"""Which checkpoints may be deleted. The best, the newest, and all that a child or a sweep starts from always stay."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from raysweep._text import short_repr
from raysweep.errors import RaysweepError, StoreError
from raysweep.store import files, layout, lineage
from raysweep.store.catalog import experiments
from raysweep.store.experiment import Experiment
from raysweep.store.records_manifest import ManifestEntry
from raysweep.store.root import Root


def in_use(root: Root) -> set[str]:
    """SHA-256 of every checkpoint that an experiment or a sweep under a root starts from."""
    found: set[str] = set()

    def note(value: Any) -> None:
        if isinstance(value, Mapping) and isinstance(value.get("sha256"), str):
            found.add(value["sha256"])

    root.refresh()  # a training may run for days, and its children may have been made on other machines
    for experiment in experiments(root):
        with contextlib.suppress(RaysweepError):
            note(experiment.written_config().get("parent"))  # even if other parts of it are wrong
    for path in (root.path / layout.SWEEPS).glob(f"*/{layout.SWEEP}"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            note(files.read_json(path).get("parent"))
    return found


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


def remove(experiment: Experiment, entries: list[ManifestEntry], why: str) -> int:
    """Take checkpoints out of the manifest, then delete their files and their bare state_dicts; returns the bytes freed.

    The caller holds the writer's lock. The manifest is written first: a kill in between leaves a file without an entry, never
    an entry without its file.
    """
    if not entries:
        return 0
    gone = {e.file for e in entries}
    manifest = experiment.manifest()
    experiment.write_manifest(replace(manifest, entries=[e for e in manifest.entries if e.file not in gone]))
    freed = 0
    for entry in entries:
        for name in (entry.file, layout.model_name(entry.epoch)):
            path = experiment.folder / name
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                files.remove(path)
                freed += size
    lineage.record(experiment.folder, lineage.NOTE, text=f"removed {', '.join(sorted(gone))} ({why})")
    return freed
