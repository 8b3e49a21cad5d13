"""The checkpoint callback: writes the documented folder at every epoch's end, and within epochs when asked.

Used by rank 0 only, in every way of launching. The manifest is written after the files it names: whatever moment a
kill chooses, the folder holds either the state before the save or the state after it.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from raysweep.config.settings import KeepSection
from raysweep.store import checkpoint, files, layout, retention
from raysweep.store.experiment import Experiment
from raysweep.store.layout import Position
from raysweep.store.lock import WriterLock
from raysweep.store.records_manifest import BestEpoch, Manifest, ManifestEntry

MID_EPOCH_KEPT = 3
FIRST_COLUMNS = (
    "train_loss",
    "train_acc",
    "val_loss",
    "val_acc",
    "epoch",
    "lr",
    "seconds",
    "images_per_second",
    "val_macro_f1",
)


class CheckpointWriter:
    """Writes one experiment's folder. Holds the lock's token and stops as soon as somebody else took the lock."""

    def __init__(
        self, folder: str | Path, token: str, classes: Sequence[str], best_metric: str, keep: KeepSection | None = None
    ) -> None:
        self.experiment = Experiment(folder)
        self.folder = Path(folder)
        self.lock = WriterLock(self.folder, token)
        self.classes = list(classes)
        self.keep = keep
        self.best_metric = "val_macro_f1" if best_metric == "macro_f1" else best_metric  # as the history calls it
        _clean(self.experiment)

    def epoch_end(
        self, state: dict[str, Any], epoch: int, metrics: dict[str, Any], predictions: dict[str, np.ndarray]
    ) -> bool:
        """Commit the state after an epoch.

        Args:
            state: the whole checkpoint.
            epoch: the epoch that ended.
            metrics: of this epoch, for the manifest; holds the best metric.
            predictions: ``labels`` (n,), ``probabilities`` (n, classes) of every validation image.

        Returns:
            Whether it is the best epoch of this experiment so far.
        """
        self.lock.check()  # before the first file of this save
        manifest = self.experiment.manifest()
        entries = [e for e in manifest.entries if e.position.order < (epoch, float("inf"))]
        best = manifest.best
        if best is not None and best.epoch >= epoch:
            best = None  # this epoch is trained anew; what came after the point of return does not count
        best = best or _best_of(entries, self.best_metric)
        value = float(metrics[self.best_metric])
        is_best = best is None or value > best.value
        self.save_predictions(epoch, predictions, keep=None if best is None else best.epoch)
        entry = self._write(state, Position(epoch, None), metrics)
        if is_best:
            best = BestEpoch(epoch, entry.file, self.best_metric, value)
        checkpoint.write(self.folder / layout.model_name(epoch), state["model_state_dict"])
        # A finished epoch supersedes the checkpoints within it.
        stale = [e for e in entries if e.batch is not None]
        self._commit(replace(manifest, entries=[*(e for e in entries if e.batch is None), entry], best=best))
        for old in stale:
            with contextlib.suppress(OSError):
                files.remove(self.folder / old.file)
        assert best is not None
        rebuild_best(self.experiment)
        write_history(self.folder, state["history"], self.classes)
        if self.keep is not None:
            self._forget(self.keep)
        return is_best

    def _forget(self, keep: KeepSection) -> None:
        """Remove what ``checkpoint.keep`` does not keep; who uses it as a parent is looked up only if any could go."""
        if retention.removable(self.experiment, keep.last, keep.every, set()):
            used = retention.in_use(self.experiment.root)
            entries = retention.removable(self.experiment, keep.last, keep.every, used)
            retention.remove(self.experiment, entries, "checkpoint.keep")

    def mid_epoch(self, state: dict[str, Any], epoch: int, batch: int) -> ManifestEntry:
        """Commit a state within epoch ``epoch`` after ``batch`` of its batches; the newest three are kept."""
        self.lock.check()
        manifest = self.experiment.manifest()
        entries = [e for e in manifest.entries if e.position.order < (epoch, batch)]
        entry = self._write(state, Position(epoch, batch), {})
        mids = [e for e in entries if e.batch is not None] + [entry]
        stale = mids[:-MID_EPOCH_KEPT]
        self._commit(replace(manifest, entries=[*(e for e in entries if e not in stale), entry]))
        for old in stale:
            with contextlib.suppress(OSError):
                files.remove(self.folder / old.file)
        return entry

    def _write(self, state: dict[str, Any], position: Position, metrics: dict[str, Any]) -> ManifestEntry:
        self.lock.check()
        name = layout.checkpoint_name(position)
        size, digest = checkpoint.write(self.folder / name, {**state, "timestamp": datetime.now().isoformat()})
        return ManifestEntry(
            name, size, digest, position.epoch, position.batch, datetime.now().isoformat(timespec="seconds"), metrics
        )

    def _commit(self, manifest: Manifest) -> None:
        self.lock.check()
        self.experiment.write_manifest(manifest)

    def save_predictions(self, epoch: int, new: dict[str, np.ndarray], keep: int | None) -> None:
        """Validation predictions of this epoch, and of the best one before it (in case this save is never committed)."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        n, k = new["probabilities"].shape
        table = pa.table(
            {
                "epoch": np.full(n, epoch, dtype=np.int32),
                "index": np.arange(n, dtype=np.int64),
                "label": new["labels"].astype(np.int32),
                "prediction": new["probabilities"].argmax(1).astype(np.int32),
                "probabilities": pa.FixedSizeListArray.from_arrays(new["probabilities"].astype(np.float32).ravel(), k),
            }
        ).replace_schema_metadata({"classes": json.dumps(self.classes)})
        path = self.folder / layout.PREDICTIONS
        if keep is not None and keep != epoch and path.exists():
            with files.open_regular(path) as file:
                old = pq.read_table(file)
            table = pa.concat_tables([old.filter(pa.array(old["epoch"].to_numpy() == keep)).cast(table.schema), table])
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        files.write_atomic(path, sink.getbuffer())


def _best_of(entries: Sequence[ManifestEntry], metric: str) -> BestEpoch | None:
    """The best among committed epochs, the earlier one in a tie."""
    ends = [e for e in entries if e.batch is None and metric in e.metrics]
    if not ends:
        return None
    top = max(ends, key=lambda e: (e.metrics[metric], -e.epoch))
    return BestEpoch(top.epoch, top.file, metric, float(top.metrics[metric]))


def rebuild_best(experiment: Experiment) -> None:
    """Make ``best_checkpoint.pt`` the file that the manifest calls best, if it is not already."""
    best = experiment.manifest().best_file  # the name of a checkpoint: it cannot point out of the folder
    if best is None:
        return
    source, target = experiment.folder / best, experiment.folder / layout.BEST
    if not source.is_file() or not files.inside(experiment.folder.resolve().parent, source):
        return
    if target.exists() and target.samefile(source):
        return
    files.link_or_copy(source, target)


def _clean(experiment: Experiment) -> None:
    """Remove what a killed writer left: temporary files, and checkpoints within an epoch that a later commit replaced."""
    files.clean_temps(experiment.folder)
    if not experiment.has_manifest:
        return
    entries = experiment.entries()
    known = {e.file for e in entries}
    for path in experiment.folder.glob("checkpoint_epoch_*_batch_*.pt"):
        position = layout.parse_checkpoint_name(path.name)
        if position and path.name not in known and entries and position.order < entries[-1].position.order:
            with contextlib.suppress(OSError):
                files.remove(path)


def rebuild_derived(experiment: Experiment) -> None:
    """What a kill after the last commit left undone: temporary files, the link to the best, the history. Only the
    experiment's one writer may call this."""
    _clean(experiment)
    rebuild_best(experiment)
    ends = experiment.manifest().ends
    if ends:
        saved = checkpoint.read_checkpoint(experiment.folder / ends[-1].file)
        write_history(experiment.folder, saved["history"], saved["classes"])


def history_columns(classes: Sequence[str]) -> list[str]:
    """The columns of ``training_history.csv`` in their order."""
    per_class = [
        f"{what}_{c}" for what in ("recall", "f1", "requested", "realised", "precision", "distinct") for c in classes
    ]
    return [*FIRST_COLUMNS, *per_class, "balanced_accuracy"]


def write_history(folder: Path, history: Mapping[str, Sequence[Any]], classes: Sequence[str]) -> None:
    """``training_history.csv`` from the history that every checkpoint carries: one row per epoch, the parent's first."""
    columns = [c for c in history_columns(classes) if c in history]
    columns += [c for c in history if c not in columns]
    rows = max((len(v) for v in history.values()), default=0)
    table = [[history[c][i] if i < len(history[c]) else None for c in columns] for i in range(rows)]
    text = files.csv_text([columns, *table])
    files.write_atomic(folder / layout.HISTORY_CSV, text.encode(errors="backslashreplace"))  # half a character is none
