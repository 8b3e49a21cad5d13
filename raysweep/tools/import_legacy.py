"""``raysweep import``: a clean copy of an experiment of the old system, with manifest and lineage. The original is only read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from raysweep.config import load as load_config
from raysweep.config.settings import Settings
from raysweep.data import cache
from raysweep.errors import CheckpointError, DataError, InputError, NotFoundError
from raysweep.events import Loading, Progress, ignore
from raysweep.label_sets import not_built
from raysweep.launch import runner
from raysweep.plan import experiment as experiment_plan
from raysweep.plan.upgrade import Upgraded, upgrade
from raysweep.report import images as validation
from raysweep.report.images import ValidationImages
from raysweep.store import checkpoint, files, layout, leftovers, lineage
from raysweep.store import trust as trusting
from raysweep.store.experiment import Experiment
from raysweep.store.records import ExperimentConfig, Json
from raysweep.store.records_manifest import BestEpoch, Manifest, ManifestEntry
from raysweep.store.root import Root
from raysweep.store.trust import NOBODY, Origin, Trust
from raysweep.training.metrics import Summary

History = dict[str, list[Any]]  # column → one value per epoch


def import_folder(
    source: Path,
    root: Root,
    overrides: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    progress: Progress = ignore,
    trust: Trust = NOBODY,
) -> Experiment:
    """Copy one old experiment into ``root`` under its own name. The copy appears when it is complete.

    Args:
        overrides: nested settings of the user: where the images and the model are. With images, every epoch is evaluated,
            so that the copy has predictions and can be compared.
        classes: in the order of the network's outputs.
        trust: whether what a checkpoint names may run.

    Raises:
        UntrustedError: it names code that nobody has approved. NotFoundError: there is no experiment. InputError: it is one of ours, or was imported before. CheckpointError: a
        checkpoint is damaged or unsafe, or the order of its classes is not known.
    """
    data = (overrides or {}).get("data") or {}
    if data.get("multi_label") or data.get("labels"):
        raise not_built("`raysweep import`", "The networks of the old system have one class for each image.")
    original = _Original(Experiment(source), overrides or {}, classes)
    positions = _positions(original.experiment)
    root.check_writable()
    target = _target(source, root.path)
    # Everything is read before anything is written; one checkpoint at a time, since each may take a gigabyte.
    evaluator = _Evaluator(root, original, progress, trust) if _names_images(original.overrides) else None
    results = []
    for position in positions:
        saved = original.read(position)
        results.append(evaluator.evaluate(saved) if evaluator is not None else None)
    temp = files.temp_path(target)
    temp.mkdir()
    with leftovers.importing(temp):  # what a killed import leaves, prune removes
        try:
            _Copy(Experiment(temp), target.name, original, positions, results).write()
            os.rename(temp, target)
        except BaseException:
            shutil.rmtree(temp, ignore_errors=True)
            raise
    files.fsync_folder(root.path)
    root.publish(target)
    return Experiment(target)


def _positions(old: Experiment) -> list[layout.Position]:
    """Where the training was saved, oldest first.

    Raises:
        NotFoundError: it is no experiment. InputError: it is one of ours, or has no checkpoint.
    """
    source = old.folder
    if not (source / layout.CONFIG).is_file():
        raise NotFoundError(f"{source} is not an experiment: it has no {layout.CONFIG}.")
    positions = old.old_checkpoints()
    if positions:
        return positions
    if (source / layout.LINEAGE).exists() or old.has_manifest:
        raise InputError(f"{source} was written by raysweep itself. Copy the folder as it is.")
    raise InputError(f"{source} has no checkpoint_epoch_N.pt, so there is nothing to import.")


def _target(source: Path, root: Path) -> Path:
    """The folder of the copy.

    Raises:
        InputError: there is something already.
    """
    target = root / source.resolve().name
    if target.exists() and target.resolve() == source.resolve():
        raise InputError(
            f"{source} is already in this root, where it stays as it is. Name another --root for its copy."
        )
    if target.exists():
        raise InputError(f"{target} exists already, from an earlier import. Name another --root for a second copy.")
    return target


@dataclass(frozen=True)
class _Original:
    """An experiment of the old system, and what the user says of it."""

    experiment: Experiment
    overrides: Mapping[str, Any]
    classes: Sequence[str] | None

    def read(self, position: layout.Position) -> Upgraded:
        """One of its checkpoints, in the shape of ours.

        Raises:
            CheckpointError: it is damaged or unsafe, a link out of the root, or lacks what the user does not say either.
        """
        path = self._path(position)
        if not files.inside(self.experiment.folder.resolve().parent, path):
            raise CheckpointError(f"{path} is a link that leads out of the root; it was not read.")
        return upgrade(checkpoint.read_checkpoint(path), self.experiment, path, self.overrides, self.classes)

    def sha256(self, position: layout.Position) -> str:
        return files.sha256_file(self._path(position))

    def own_file(self, name: str) -> bytes | None:
        """The content of a file of the folder; None where there is none, or a link that leads elsewhere."""
        path = self.experiment.folder / name
        return files.read_all(path) if path.is_file() and files.inside(self.experiment.folder, path) else None

    def _path(self, position: layout.Position) -> Path:
        return self.experiment.folder / layout.checkpoint_name(position)


# --- evaluating -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Evaluation:
    """What a checkpoint reaches on the user's images."""

    summary: Summary
    labels: np.ndarray  # (n,), of the validation images
    probabilities: np.ndarray  # (n, classes)
    data_sha256: str
    counts: dict[str, int]  # class → training images
    images: ValidationImages

    @property
    def metrics(self) -> dict[str, float | None]:
        """Column of the history → value."""
        overall: dict[str, float | None] = {
            "val_macro_f1": self.summary["val_macro_f1"],
            "balanced_accuracy": self.summary["balanced_accuracy"],
        }
        per_class = {"recall": self.summary["recall"], "f1": self.summary["f1"], "precision": self.summary["precision"]}
        return overall | {f"{what}_{c}": v for what, values in per_class.items() for c, v in values.items()}

    @property
    def worst(self) -> dict[str, str | float]:
        """The class with the lowest recall, as the manifest names it."""
        from raysweep.training import metrics

        worst, recall = metrics.worst_class(self.summary["recall"])
        return {"worst_class": worst, "worst_recall": recall}


def _names_images(overrides: Mapping[str, Any]) -> bool:
    data = overrides.get("data") or {}
    return bool(data.get("path") or data.get("source"))


class _Evaluator:
    """Evaluates checkpoints on the CPU, on the images that the user names. The images are read once, for the first checkpoint."""

    def __init__(self, root: Root, original: _Original, progress: Progress, trust: Trust) -> None:
        self.progress = progress
        self.given, self.trust = original.overrides, trust
        self.overrides = {**original.overrides, "root": root.address}
        folder = original.experiment.folder
        self.origin = Origin(folder, folder, root, (original.experiment.id,))
        self.root = root
        self.found: cache.Dataset | None = None

    def evaluate(self, saved: Upgraded) -> _Evaluation:
        import torch

        from raysweep.data.order import in_order
        from raysweep.training import evaluate, metrics, models
        from raysweep.training.feed import Feed
        from raysweep.training.world import World

        device = torch.device("cpu")
        trusting.settle(self.trust, self.origin, saved.settings, self.given)
        settings = Settings.model_validate(load_config.merge(saved.settings, self.overrides))
        images = in_order(self._images(settings), settings.data.classes)
        moments = saved.checkpoint["preprocessing"]
        feed = Feed(images, moments["mean"], moments["std"], device, channels_last=False)  # which every network takes
        name, options = settings.model.name, settings.model.options
        model = models.build(
            name,
            options,
            len(images.classes),
            images.shape[2],
            pretrained=False,
            trusted=True,
            path=settings.model.path,
            size=images.shape[:2],
        )
        models.load_weights(model, saved.checkpoint, "the old checkpoint")
        labels, probabilities, _ = evaluate.validate(
            model, feed, images.val, len(images.classes), World(device), contextlib.nullcontext()
        )
        matrix = metrics.confusion(labels, probabilities.argmax(1), len(images.classes))
        return _Evaluation(
            metrics.summarise(matrix, images.classes),
            labels,
            probabilities,
            images.sha256,
            images.train.counts(images.classes),
            validation.of_data(images),
        )

    def _images(self, settings: Settings) -> cache.Dataset:
        if self.found is None:
            self.progress(Loading())
            found = experiment_plan.read_images(settings, self.root, self.progress)
            if (fault := found.settle()) is not None:
                raise DataError(fault)
            self.found = found
        return self.found


# --- writing --------------------------------------------------------------------------------------------------------------


@dataclass
class _Copy:
    """The copy, as training would have left it."""

    new: Experiment
    name: str  # of the folder that it will be
    original: _Original
    positions: Sequence[layout.Position]
    results: Sequence[_Evaluation | None]  # of each position
    sha256: dict[str, str] = field(default_factory=dict)  # file → its hash in the original
    images: str | None = None  # hash of the file of the validation images
    predictions: dict[int, str] = field(
        default_factory=dict
    )  # epoch → hash of its predictions, as far as they are written

    def write(self) -> None:
        last = self.original.read(self.positions[-1])
        history = self._history(last.checkpoint["history"])
        config = self._config(last)
        self._start_log(last)
        entries = self._write_checkpoints(last, history, config)
        self.new.write_config(ExperimentConfig.from_json(config))
        self._commit(entries, history, last)
        self._end_log(entries, config, float(last.checkpoint["best_acc"]))
        if self.results[-1] is not None:
            runner.derive(self.new)

    def _config(self, last: Upgraded) -> dict[str, Any]:
        """``experiment_config.json``. The hashes of the originals are filled in while they are copied."""
        final = self.results[-1]
        old = self.original.experiment
        return {
            **old.written_config(),
            "classes": list(last.checkpoint["classes"]),
            "sampling_weights": last.checkpoint["sampling_weights"],
            "class_counts": final.counts if final else None,
            "data_sha256": final.data_sha256 if final else None,
            "threads": None,
            "world_size": 1,
            "parent": None,
            "imported_from": {"folder": str(old.folder.resolve()), "sha256": self.sha256},
            "settings": last.settings,
        }

    def _history(self, old: Mapping[str, Sequence[Any]]) -> History:
        """The old columns as they were, and what the evaluations add."""
        history = {c: list(v) for c, v in old.items()}
        rows = max((len(v) for v in history.values()), default=0)
        for position, result in zip(self.positions, self.results, strict=True):
            if result is None or position.batch is not None or position.epoch > rows:
                continue
            for column, value in result.metrics.items():
                history.setdefault(column, [None] * rows)[position.epoch - 1] = value
        return history

    def _start_log(self, last: Upgraded) -> None:
        text = self.original.own_file(layout.CHANGES)
        if text:
            files.write_atomic(self.new.folder / layout.CHANGES, text.rstrip(b"\n") + b"\n")
        lineage.record(
            self.new.folder,
            lineage.START,
            imported_from=str(self.original.experiment.folder.resolve()),
            model=last.settings["model"]["name"],
            epochs=last.settings["training"]["epochs"],
            new_weights=last.checkpoint["sampling_weights"],
        )

    def _write_checkpoints(self, last: Upgraded, history: History, config: Json) -> list[ManifestEntry]:
        """Checkpoints, bare weights and predictions; returns the checkpoints as the manifest records them."""
        from raysweep.training.checkpointing import CheckpointWriter

        generators = _seeded(last.settings["seed"])
        images = next((r.images for r in self.results if r is not None), None)
        writer = CheckpointWriter(self.new.folder, None, last.checkpoint["classes"], "val_acc", images=images)
        self.images = writer.save_images(None)
        entries = []
        for old_position, result in zip(self.positions, self.results, strict=True):
            saved = self.original.read(old_position)
            position, rows = saved.position, int(saved.checkpoint["epoch"])
            file = layout.checkpoint_name(position)
            full = {
                **saved.checkpoint,
                "history": {c: v[:rows] for c, v in history.items()},
                "config": {**config, "settings": saved.settings},
                "experiment": self.name,
                "rng_state": [generators],
            }
            size, digest = checkpoint.write(self.new.folder / file, full)
            metrics: dict[str, Any] = {}
            bare_hash = None
            if position.batch is None:
                metrics = _metrics(history, rows) | (result.worst if result else {})
                if bare := self.original.own_file(layout.model_name(position.epoch)):
                    files.write_atomic(self.new.folder / layout.model_name(position.epoch), bare)
                    bare_hash = hashlib.sha256(bare).hexdigest()
                if result:
                    predictions = {"labels": result.labels, "probabilities": result.probabilities}
                    best = _best_epoch(history, rows - 1)
                    self.predictions = writer.save_predictions(position.epoch, predictions, best, self.predictions)
            created = datetime.now().isoformat(timespec="seconds")
            entries.append(ManifestEntry(file, size, digest, *position, created, metrics, bare_hash))
            self.sha256[file] = self.original.sha256(old_position)
        return self._without_overtaken(entries)

    def _without_overtaken(self, entries: list[ManifestEntry]) -> list[ManifestEntry]:
        """A checkpoint within an epoch counts only as long as that epoch's end is missing, as in every folder of ours."""
        ends = {e.epoch for e in entries if e.batch is None}
        kept = [e for e in entries if e.batch is None or e.epoch not in ends]
        for entry in entries:
            if entry not in kept:
                files.remove(self.new.folder / entry.file)
        return kept

    def _commit(self, entries: list[ManifestEntry], history: History, last: Upgraded) -> None:
        """The manifest, and what is derived from it."""
        from raysweep.training.checkpointing import rebuild_best, write_history

        best = _best_epoch(history, int(last.checkpoint["epoch"]))
        ends = [e for e in entries if e.batch is None]
        kept = next((e for e in ends if e.epoch == best), ends[-1] if ends else None)
        record = BestEpoch(kept.epoch, kept.file, value=kept.metrics.get("val_acc", -1.0)) if kept is not None else None
        # Not by write_manifest: the folder still has its temporary name.
        files.write_json(
            self.new.folder / layout.MANIFEST,
            Manifest(entries, record, predictions=self.predictions, images=self.images).to_json(self.name),
        )
        rebuild_best(self.new)
        write_history(self.new.folder, history, last.checkpoint["classes"])

    def _end_log(self, entries: list[ManifestEntry], config: Json, best_acc: float) -> None:
        done = max((e.epoch for e in entries if e.batch is None), default=0)
        finished = done >= int(config.get("num_epochs") or 0)
        kind = lineage.FINISHED if finished else lineage.INTERRUPTED
        lineage.record(self.new.folder, kind, epochs=done, best_acc=best_acc)


def _seeded(seed: int) -> dict[str, Any]:
    """Generators for a child to start from; the old system kept none."""
    from raysweep.training import state

    before = state.rng_state()
    state.seed_everything(seed, 0)
    fresh = state.rng_state()
    state.set_rng_state(before)
    return dict(fresh)


def _metrics(history: Mapping[str, Sequence[Any]], rows: int) -> dict[str, Any]:
    """The metrics of the epoch in the last of the first ``rows``, those of single classes left out."""
    return {
        column: values[rows - 1]
        for column, values in history.items()
        if "_" in column
        and not column.startswith(("recall_", "f1_", "precision_"))
        and rows <= len(values)
        and values[rows - 1] is not None
    }


def _best_epoch(history: Mapping[str, Sequence[Any]], rows: int) -> int | None:
    """The epoch with the best accuracy among the first ``rows``, the earlier one in a tie."""
    values = [v for v in history.get("val_acc", [])[:rows] if v is not None]
    return values.index(max(values)) + 1 if values else None
