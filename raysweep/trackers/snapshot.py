"""What an experiment's folder tells a tracker: curves, parameters and tags. No torch, no ray; nothing is written."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raysweep._paths import read_regular
from raysweep._text import dotted, truncate
from raysweep.config.settings import TrackersSection
from raysweep.errors import RaysweepError
from raysweep.store import files, layout, ratio
from raysweep.store.experiment import Experiment
from raysweep.store.records import ExperimentConfig

PER_CLASS = ("recall", "f1", "precision", "requested", "realised", "distinct")


_LONGEST = 200  # characters of a metric's name; MLflow takes 250


_ODD = re.compile(r"[^\w .\-]")  # what MLflow, the strictest, does not take in a name


@dataclass(frozen=True)
class Point:
    """One row of ``training_history.csv``."""

    epoch: int
    offset: float  # seconds of training from the experiment's start to this epoch's end; negative in the parent's rows
    values: dict[str, float]  # by the names that the trackers show


@dataclass(frozen=True)
class Snapshot:
    """One experiment as it stands in its folder at one moment."""

    experiment: Experiment
    config: ExperimentConfig
    points: list[Point]
    status: str

    @property
    def started(self) -> float:
        """When the experiment was made, in seconds since 1970; the configuration tells it in local time."""
        try:
            return time.mktime(time.strptime(str(self.config.timestamp), layout.TIME_FORMAT))
        except (ValueError, OverflowError):
            return 0.0

    @cached_property
    def trackers(self) -> TrackersSection:
        return section(self.config)

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Dotted key → value of every setting, with the weights of all classes. Where it is tracked is left out: an
        address may hold a password."""
        settings = dict(self.config.settings or {})
        settings.pop("trackers", None)
        flat = dict(dotted(settings))
        flat = {k: v for k, v in flat.items() if not k.startswith("sampling.weights")}
        weights = self.config.sampling_weights
        flat |= {f"sampling.weights.{name}": weights[c] for c, name in names(weights).items()}
        flat |= {key: getattr(self.config, key) for key in ("threads", "world_size", "data_sha256")}
        return {k: v for k, v in flat.items() if v is not None and v != ""}

    @cached_property
    def tags(self) -> dict[str, str]:
        """What ties the experiment to others, and the ratio it was trained with."""
        parent, branch = self.config.parent, self.config.branch
        found: dict[str, Any] = {"experiment": self.experiment.id}
        if parent:
            where = f" batch {parent.batch}" if parent.batch else ""
            found["parent"] = parent.experiment
            found["parent_checkpoint"] = f"{parent.reference}{where}"
            found["parent_sha256"] = parent.sha256
        found["sweep"] = self.config.sweep
        if branch:
            found["branch"], found["control"] = branch.name, branch.control
        found["seed"] = self.config.setting("seed")
        found["weights"] = json.dumps(self.config.sampling_weights, ensure_ascii=False)
        with contextlib.suppress(RaysweepError):  # a damaged log
            change = ratio.of_fork(self.experiment.folder)
            found["ratio_change"] = None if change is None else change.describe(with_shares=True)
        return {k: truncate(text(v), 4000) for k, v in found.items() if v is not None}

    def digest(self, count: int) -> str:
        """SHA-256 of the first ``count`` rows: a tracker that was given others has to begin anew."""
        rows = [[p.epoch, p.values] for p in self.points[:count]]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def section(config: ExperimentConfig) -> TrackersSection:
    """Where an experiment is tracked; one that was made before there were trackers has the defaults."""
    return TrackersSection.model_validate(config.setting("trackers") or {})


def read(folder: Path) -> Snapshot:
    """The story of an experiment.

    Raises:
        StoreError: its configuration, log or history is damaged or cannot be read.
    """
    experiment = Experiment(folder)
    config = experiment.config()
    return Snapshot(experiment, config, _points(folder, config), experiment.status())


def _points(folder: Path, config: ExperimentConfig) -> list[Point]:
    path = folder / layout.HISTORY_CSV
    if not path.exists():
        return []
    with files.reading(path):
        told = read_regular(path, files.LIMIT).decode()
    rows = list(csv.DictReader(io.StringIO(told, newline="")))
    shown = _columns(config.classes or [])
    epochs = [int(row.get("epoch") or number) for number, row in enumerate(rows, start=1)]
    seconds = [float(row.get("seconds") or 0) for row in rows]
    before = sum(s for s, epoch in zip(seconds, epochs, strict=True) if epoch <= config.fork)
    points, passed = [], -before
    for row, epoch, took in zip(rows, epochs, seconds, strict=True):
        passed += took
        cells = {shown.get(column, column): cell for column, cell in row.items() if column != "epoch"}
        points.append(Point(epoch, round(passed, 3), {k: float(cell) for k, cell in cells.items() if cell}))
    return points


def _columns(classes: Sequence[str]) -> dict[str, str]:
    """Column of the history → what the trackers call it: ``recall_cat`` is ``recall/cat``, which they show in one group."""
    return {f"{what}_{c}": f"{what}/{name}" for what in PER_CLASS for c, name in names(classes).items()}


def names(classes: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    """Class → a name that every tracker takes, different for each class, whatever the class is called."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for number, c in enumerate(classes):
        name = _ODD.sub("_", c)[:_LONGEST]
        name = name if name.strip(". ") else "_"
        if name.casefold() in taken:
            name = f"{name}_{number}"
        taken.add(name.casefold())
        found[c] = name
    return found


def text(value: Any) -> str:
    """A value as a tracker's text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
