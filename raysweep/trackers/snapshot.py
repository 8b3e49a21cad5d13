"""What a tracker shows of an experiment, read from its folder: curves, parameters and tags. Nothing is written."""

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
from raysweep.config.tracking import TrackersSection
from raysweep.errors import RaysweepError
from raysweep.store import files, layout, ratio
from raysweep.store.experiment import Experiment
from raysweep.store.records import ExperimentConfig

PER_CLASS = ("recall", "f1", "precision", "requested", "realised", "distinct")
_LONGEST = 200  # characters of a metric's name; MLflow allows 250
_NOT_ALLOWED = re.compile(r"[^\w .\-]")  # in a metric's name, by the rules of MLflow, which are the strictest


@dataclass(frozen=True)
class Point:
    """One row of ``training_history.csv``."""

    epoch: int
    offset: float  # seconds of training from the experiment's start to this epoch's end; negative in the parent's rows
    values: dict[str, float]  # name in the tracker → value


@dataclass(frozen=True)
class Snapshot:
    """One experiment as its folder describes it at one moment."""

    experiment: Experiment
    config: ExperimentConfig
    points: list[Point]
    status: str

    @property
    def started(self) -> float:
        """When the experiment was made, in seconds since 1970; 0 if the configuration, which has local time, does not say."""
        try:
            return time.mktime(time.strptime(str(self.config.timestamp), layout.TIME_FORMAT))
        except (ValueError, OverflowError):
            return 0.0

    @cached_property
    def trackers(self) -> TrackersSection:
        return section(self.config)

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Dotted key → value of every setting, with the weights of all classes. The section ``trackers`` is omitted
        because the address of a server may contain a password."""
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
        """How the experiment is related to others (parent, sweep, branch), and the weights it was trained with."""
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
        with contextlib.suppress(RaysweepError):  # the log may be damaged
            change = ratio.of_fork(self.experiment.folder)
            found["ratio_change"] = None if change is None else change.describe(with_shares=True)
        return {k: truncate(text(v), 4000) for k, v in found.items() if v is not None}

    def digest(self, count: int) -> str:
        """SHA-256 of the first ``count`` rows. A tracker that has other rows has to begin a new run."""
        rows = [[p.epoch, p.values] for p in self.points[:count]]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def section(config: ExperimentConfig) -> TrackersSection:
    """The trackers of an experiment. An experiment that is older than the trackers has the defaults."""
    return TrackersSection.model_validate(config.setting("trackers") or {})


def read(folder: Path) -> Snapshot:
    """Read the snapshot of an experiment.

    Raises:
        StoreError: its configuration, log or history is damaged or cannot be read.
    """
    experiment = Experiment(folder)
    config = experiment.config()
    return Snapshot(experiment, config, _points(folder, config), experiment.status())


def _points(folder: Path, config: ExperimentConfig) -> list[Point]:
    rows = _rows(folder / layout.HISTORY_CSV)
    titles = _titles(config.classes or [])
    epochs = [int(row.get("epoch") or number) for number, row in enumerate(rows, start=1)]
    seconds = [float(row.get("seconds") or 0) for row in rows]
    before_fork = sum(s for s, epoch in zip(seconds, epochs, strict=True) if epoch <= config.fork)
    points, passed = [], -before_fork
    for row, epoch, took in zip(rows, epochs, seconds, strict=True):
        passed += took
        points.append(Point(epoch, round(passed, 3), _values(row, titles)))
    return points


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of ``training_history.csv``, column → cell; none if the file does not exist yet."""
    if not path.exists():
        return []
    with files.reading(path):
        content = read_regular(path, files.LIMIT).decode()
    return list(csv.DictReader(io.StringIO(content, newline="")))


def _values(row: Mapping[str, str], titles: Mapping[str, str]) -> dict[str, float]:
    cells = {titles.get(column, column): cell for column, cell in row.items() if column != "epoch"}
    return {title: float(cell) for title, cell in cells.items() if cell}


def _titles(classes: Sequence[str]) -> dict[str, str]:
    """Column of the history → name in the trackers, of the columns per class. ``recall_cat`` becomes ``recall/cat``, so that
    trackers show the classes' recalls in one group."""
    return {f"{what}_{c}": f"{what}/{name}" for what in PER_CLASS for c, name in names(classes).items()}


def names(classes: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    """Class → a name that every tracker accepts, different for each class, whatever the class is called."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for number, c in enumerate(classes):
        name = _NOT_ALLOWED.sub("_", c)[:_LONGEST]
        name = name if name.strip(". ") else "_"
        if name.casefold() in taken:
            name = f"{name}_{number}"
        taken.add(name.casefold())
        found[c] = name
    return found


def text(value: Any) -> str:
    """A value as text: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
