"""Find the experiments under a root and describe each in a few fields, read from its folder. No torch, no ray."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from raysweep._paths import read_regular
from raysweep.errors import (
    RaysweepError,
    RootError,
)
from raysweep.label_sets import MAP
from raysweep.store import files, layout, lineage, ratio
from raysweep.store.experiment import LEGACY, Experiment
from raysweep.store.fields import Row
from raysweep.store.records import ExperimentConfig
from raysweep.store.root import Root
from raysweep.store.untrusted import schema
from raysweep.weights import Changed


def experiments(root: Root) -> list[Experiment]:
    """All experiments under a root, oldest first. Links that lead out of the root are left out."""
    found = []
    try:
        with os.scandir(root.path) as rows:
            for row in rows:
                if row.name.startswith(".") or row.is_symlink() or not row.is_dir():
                    continue
                if os.path.isfile(os.path.join(row.path, layout.CONFIG)):
                    found.append(Experiment(row.path, root))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise RootError(f"{root} cannot be read: {reason}. Name the folder of the experiments.") from None
    return sorted(found, key=_age)


def _age(experiment: Experiment) -> tuple[str, str, int, str]:
    """Sorts by time; those of one name and second by the number that was appended, so that _2 comes before _10."""
    name, time = layout.split_id(experiment.id)
    return time or "", name, len(experiment.id), experiment.id


def summary(experiment: Experiment) -> Row:
    """The documented fields of ``list --json`` for one experiment, and ``note`` where a file of it is damaged."""
    try:
        return _read(experiment)
    except RaysweepError as error:
        note = str(error)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        note = f"A file in {experiment.folder} has unexpected content ({type(error).__name__}: {error})."
    return _blank(experiment, note=note)


def _blank(experiment: Experiment, **values: Any) -> Row:
    return Row(experiment.id, layout.split_id(experiment.id)[0], path=str(experiment.folder), **values)


def _read(experiment: Experiment) -> Row:
    """The fields, from the folder's files. Raises errors of many kinds if the files have unexpected content."""
    config = experiment.config()
    row = _blank(experiment, status=experiment.status())
    row.created = _created(config, experiment)
    row.sampling_weights = config.sampling_weights
    row.parent, row.sweep = config.parent, config.sweep
    if config.branch is not None:
        row.branch, row.control = config.branch.name, bool(config.branch.control)
    seed = config.setting("seed")
    row.seed = seed if type(seed) is int else None
    if config.parent is not None:
        row.change, row.parent_seed = _fork(experiment, row.seed)
        row.parent_best_acc = _best_before(experiment, config.fork)
    row.epochs_target = config.fork + config.num_epochs if config.num_epochs else None
    manifest = experiment.manifest()
    if manifest.problems:
        row.note = f"{experiment.id}: {'; '.join(manifest.problems)}."
    if ends := manifest.ends:
        row.epochs_done = ends[-1].epoch
        # If the manifest does not say which epoch is the best, take the most accurate one.
        most = max(ends, key=lambda e: (float(e.metrics.get("val_acc") or 0), -e.epoch))
        best = next((e for e in ends if e.file == manifest.best_file), most)
        row.best_acc = _number(best.metrics.get("val_acc"))
        row.best_epoch = best.epoch
        row.best_macro_f1 = _number(best.metrics.get("val_macro_f1"))
        row.worst_class = best.metrics.get("worst_class")
        row.worst_recall = _number(best.metrics.get("worst_recall"))
        own = config.setting("metrics")
        own = {MAP: None} if config.setting("data", "multi_label") else own
        row.metrics = {n: _number(best.metrics.get(n)) for n in own} if isinstance(own, Mapping) else {}
    elif row.status == LEGACY:
        _legacy(row, experiment)
    return row


def _fork(experiment: Experiment, seed: int | None) -> tuple[Changed, int | None]:
    """(class → weights before and after the fork, the seed before the fork), from the experiment's own log."""
    events = lineage.early(experiment.folder)
    change = ratio.of_events(events)
    for event in events:
        with contextlib.suppress(TypeError, ValueError):  # another program may have written the event
            if event.type == lineage.CONFIGURATION and "seed" in event.changes:
                seed = int(event.changes["seed"][0])
    return {} if change is None else change.changed, seed


def _best_before(experiment: Experiment, fork: int) -> float | None:
    """The best accuracy of the parent's epochs, with which the child's history begins."""
    known = [m.get("val_acc") for epoch, m in experiment.history_metrics().items() if epoch <= fork]
    return max((v for v in map(_number, known) if v is not None), default=None)


def _number(value: Any) -> float | None:
    return float(value) if schema.number(value) else None


def _created(config: ExperimentConfig, experiment: Experiment) -> str | None:
    stamp = config.timestamp or layout.split_id(experiment.id)[1]
    try:
        return datetime.strptime(str(stamp), layout.TIME_FORMAT).isoformat()
    except ValueError:
        event = lineage.last(experiment.folder)
        return datetime.fromisoformat(event.time).isoformat() if event else None


def _legacy(row: Row, experiment: Experiment) -> None:
    """The fields of a folder of the old system, which has no manifest: from its file names and its CSV."""
    row.epochs_done = max((p.epoch for p in experiment.old_checkpoints() if p.batch is None), default=0)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, csv.Error):
        text = read_regular(experiment.folder / layout.HISTORY_CSV, files.LIMIT).decode()
        values = [float(line["val_acc"]) for line in csv.DictReader(io.StringIO(text, newline=""))]
        if values:
            row.best_acc = _number(max(values))
            row.best_epoch = values.index(max(values)) + 1
