"""Writes an experiment's folder at the end of every epoch, and within epochs where the user asks for it.

Only rank 0 does this. The manifest is written after the files that it names. So a kill at any moment leaves either the state
before the save or the state after it.
"""

from __future__ import annotations

import contextlib
import io
import json
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from raysweep.config.running import KeepSection
from raysweep.report import images as validation
from raysweep.report.images import ValidationImages
from raysweep.report.predictions import LABELS, Predictions
from raysweep.store import checkpoint, files, frozen, layout, retention
from raysweep.store.checkpoint_format import State
from raysweep.store.experiment import Experiment
from raysweep.store.layout import Position
from raysweep.store.lock import WriterLock
from raysweep.store.records_manifest import BestEpoch, Manifest, ManifestEntry, SealedRef
from raysweep.store.remote import copies

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
    """Writes the folder of one experiment.

    Every method raises LockedError as soon as another process has taken the lock.

    Args:
        token: of the writer's lock; None for a folder that no other process can know.
        best_metric: ``training.best_metric``, which decides the best epoch.
        keep: which checkpoints stay; None: all of them.
        sealed: the test images, for the manifest; None: there are none, or they are not known any more.
        images: that the training is validated on; None where that is not known.
        part: the frozen part of the network, which checkpoints with the key ``frozen`` do not hold.
        models: whether each epoch's bare weights are written, too.
    """

    def __init__(
        self,
        folder: str | Path,
        token: str | None,
        classes: Sequence[str],
        best_metric: str,
        keep: KeepSection | None = None,
        sealed: SealedRef | None = None,
        images: ValidationImages | None = None,
        part: frozen.Part | None = None,
        models: bool = True,
    ) -> None:
        self.experiment = Experiment(folder)
        self.folder = Path(folder)
        self.lock = None if token is None else WriterLock(self.folder, token).join()
        self.classes = list(classes)
        self.keep = keep
        self.sealed = sealed
        self.part, self.models = part, models
        self._images, self._images_hash = images, None if images is None else images.sha256
        self._used: retention.InUse | None = None
        self._best: str | None = None  # the epoch's file that best_checkpoint.pt is a copy of, once that is known
        self.best_metric = "val_macro_f1" if best_metric == "macro_f1" else best_metric  # as the history calls it
        _clean(self.experiment)

    def epoch_end(self, state: State, epoch: int, metrics: dict[str, Any], predictions: dict[str, np.ndarray]) -> bool:
        """Commit the state at the end of an epoch.

        Args:
            state: the whole checkpoint.
            epoch: the epoch that has ended.
            metrics: of this epoch, for the manifest; they include the metric that decides the best epoch.
            predictions: ``labels`` (n,) and ``probabilities`` (n, classes) of every validation image.

        Returns:
            Whether this is the best epoch of the experiment so far.
        """
        self._check()
        manifest = self.experiment.manifest()
        entries = [e for e in manifest.entries if e.position.order < Position(epoch, None).order]
        best = self._best_before(manifest, epoch)
        value = float(metrics[self.best_metric])
        is_best = best is None or value > best.value
        hashes = self.save_predictions(
            epoch, predictions, keep=None if best is None else best.epoch, known=manifest.predictions
        )
        state, bare_state = self._with_part(state)
        entry = self._write(state, Position(epoch, None), metrics)
        if is_best:
            best = BestEpoch(epoch, entry.file, self.best_metric, value)
        if self.models:
            _, bare = checkpoint.write(self.folder / layout.model_name(epoch), bare_state)
            entry = replace(entry, model_sha256=bare)
        # The checkpoint of a finished epoch replaces those within epochs.
        ends = [e for e in entries if e.batch is None]
        sealed = manifest.sealed or self.sealed  # those of the beginning stay
        images = self.save_images(manifest.images)
        manifest = replace(
            manifest, entries=[*ends, entry], best=best, predictions=hashes, sealed=sealed, images=images
        )
        self.experiment.write_manifest(manifest)
        self._remove([e for e in entries if e.batch is not None])
        if best is not None and (is_best or best.file != self._best):
            rebuild_best(self.experiment)
            self._best = best.file
        write_history(self.folder, state["history"], self.classes)
        if self.keep is not None:
            self._forget(self.keep)
        return is_best

    def _best_before(self, manifest: Manifest, epoch: int) -> BestEpoch | None:
        """The best epoch of the manifest, or of the epochs before ``epoch`` where the training has gone back to repeat some."""
        if manifest.best is not None and manifest.best.epoch < epoch:
            return manifest.best
        return _best_of([e for e in manifest.ends if e.epoch < epoch], self.best_metric)

    def _forget(self, keep: KeepSection) -> None:
        """Remove the checkpoints that ``checkpoint.keep`` does not keep, except parents of other experiments."""
        # the search for children reads many folders; it runs only where there is something to remove
        entries = retention.removable(self.experiment, keep.last, keep.every, set())
        if entries:
            self._used = self._used or retention.InUse(self.experiment.root)
            retention.remove(self.experiment, entries, "checkpoint.keep", self._used)

    def mid_epoch(self, state: State, epoch: int, batch: int) -> ManifestEntry:
        """Commit the state after ``batch`` batches of ``epoch``. Only the newest three of these are kept."""
        self._check()
        manifest = self.experiment.manifest()
        entries = [e for e in manifest.entries if e.position.order < Position(epoch, batch).order]
        entry = self._write(self._with_part(state)[0], Position(epoch, batch), {})
        mids = [e for e in entries if e.batch is not None] + [entry]
        stale = mids[:-MID_EPOCH_KEPT]
        kept = [*(e for e in entries if e not in stale), entry]
        self.experiment.write_manifest(replace(manifest, entries=kept, sealed=manifest.sealed or self.sealed))
        self._remove(stale)
        return entry

    def _check(self) -> None:
        """Before the first file of a save, which is large; the store checks each change again."""
        if self.lock is not None:
            self.lock.check()

    def _remove(self, entries: Sequence[ManifestEntry]) -> None:
        for entry in entries:
            with contextlib.suppress(OSError):  # the manifest no longer names the file; the next writer removes it
                files.remove(self.folder / entry.file)

    def _with_part(self, state: State) -> tuple[State, State]:
        """(the checkpoint with what it says of the frozen part, whose file is there; the whole state of the network)."""
        told, own = state.get(frozen.KEY), state["model_state_dict"]
        if told is None or self.part is None:
            return state, own
        together = {**self.part.tensors, **own}
        told = {**told, **self.part.committed(self.folder, checkpoint.write)}
        return {**state, frozen.KEY: told}, {name: together[name] for name in told["names"]}

    def _write(self, state: State, position: Position, metrics: dict[str, Any]) -> ManifestEntry:
        name = layout.checkpoint_name(position)
        size, digest = checkpoint.write(self.folder / name, {**state, "timestamp": datetime.now().isoformat()})
        return ManifestEntry(
            name, size, digest, position.epoch, position.batch, datetime.now().isoformat(timespec="seconds"), metrics
        )

    def save_images(self, known: str | None) -> str | None:
        """Write which images are validated on, unless the file says it already.

        Args:
            known: the hash that the manifest records.

        Returns:
            The hash to record now.
        """
        if self._images is not None:
            if known != self._images_hash or not (self.folder / layout.VAL_IMAGES).is_file():
                validation.write(self.experiment, self._images)
            known, self._images = self._images_hash, None  # once is enough
        return known

    def save_predictions(
        self, epoch: int, new: dict[str, np.ndarray], keep: int | None, known: Mapping[int, str]
    ) -> dict[int, str]:
        """Write the validation predictions of this epoch. Those of the best epoch before it, ``keep``, stay in the file:
        this save may never be committed.

        Args:
            known: hashes of the epochs that the file holds, as the manifest records them.

        Returns:
            The hashes of what it holds now.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        n, k = new["probabilities"].shape
        mine = Predictions.of(epoch, self.classes, new["labels"], new["probabilities"])
        if mine.several:
            decided = {LABELS: pa.FixedSizeListArray.from_arrays(mine.labels.astype(np.int8).ravel(), k)}
        else:
            decided = {"label": mine.labels.astype(np.int32), "prediction": mine.predicted.astype(np.int32)}
        table = pa.table(
            {
                "epoch": np.full(n, epoch, dtype=np.int32),
                "index": np.arange(n, dtype=np.int64),
                **decided,
                "probabilities": pa.FixedSizeListArray.from_arrays(mine.probabilities.astype(np.float32).ravel(), k),
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
        kept = {} if keep is None or keep not in known else {keep: known[keep]}
        return kept | {epoch: mine.sha256}


def _best_of(entries: Sequence[ManifestEntry], metric: str) -> BestEpoch | None:
    """The best of the committed epochs; of equal ones, the earliest."""
    ends = [e for e in entries if e.batch is None and metric in e.metrics]
    if not ends:
        return None
    top = max(ends, key=lambda e: (e.metrics[metric], -e.epoch))
    return BestEpoch(top.epoch, top.file, metric, float(top.metrics[metric]))


def rebuild_best(experiment: Experiment) -> None:
    """Let ``best_checkpoint.pt`` be a copy of the checkpoint that the manifest names as the best."""
    manifest = experiment.manifest()
    best = next((e for e in manifest.entries if e.file == manifest.best_file), None)
    if best is None:
        return
    # the name is that of a checkpoint, so it cannot lead out of the folder; the file may
    source, target = experiment.folder / best.file, experiment.folder / layout.BEST
    if source.is_file() and files.inside(experiment.folder.resolve().parent, source) and not _is_copy(target, best):
        files.clone_or_copy(source, target)


def _is_copy(target: Path, entry: ManifestEntry) -> bool:
    """Whether a file is a copy of a committed checkpoint, and of its own. Earlier versions made hard links."""
    try:
        there = target.lstat()
        alone = stat.S_ISREG(there.st_mode) and there.st_nlink == 1 and there.st_size == entry.bytes
        # an object store copies faster than this machine can look
        return alone and copies.holding(target) is None and files.sha256_file(target) == entry.sha256
    except OSError:
        return False


def _clean(experiment: Experiment) -> None:
    """Remove what a killed writer left: temporary files, and checkpoints within an epoch that are older than the newest
    commit and not part of it."""
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
    """Do what a kill after the last commit prevented: remove temporary files, write the best checkpoint and the history.

    Only the writer of the experiment may call this.
    """
    _clean(experiment)
    rebuild_best(experiment)
    ends = experiment.manifest().ends
    if ends:
        saved = checkpoint.read_checkpoint(experiment.folder / ends[-1].file)
        write_history(experiment.folder, saved["history"], saved["classes"])


def history_columns(classes: Sequence[str]) -> list[str]:
    """The columns of ``training_history.csv``, in order."""
    per_class = [
        f"{what}_{c}" for what in ("recall", "f1", "requested", "realised", "precision", "distinct") for c in classes
    ]
    return [*FIRST_COLUMNS, *per_class, "balanced_accuracy"]


def write_history(folder: Path, history: Mapping[str, Sequence[Any]], classes: Sequence[str]) -> None:
    """Write ``training_history.csv``: one row per epoch, the parent's epochs first.

    Args:
        history: column → values, as every checkpoint holds it. Columns may be shorter than others.
    """
    files.write_atomic(folder / layout.HISTORY_CSV, history_csv(history, classes))


def history_csv(history: Mapping[str, Sequence[Any]], classes: Sequence[str]) -> bytes:
    """The content of ``training_history.csv``; the arguments are those of :func:`write_history`."""
    columns = [c for c in history_columns(classes) if c in history]
    columns += [c for c in history if c not in columns]
    rows = max((len(v) for v in history.values()), default=0)
    table = [[history[c][i] if i < len(history[c]) else None for c in columns] for i in range(rows)]
    # a class name from a folder may hold surrogates, which UTF-8 cannot encode
    return files.csv_text([columns, *table]).encode(errors="backslashreplace")
