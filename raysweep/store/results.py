"""Writing ``sweep.json`` and ``results.csv`` from the branches' folders.

While a sweep runs, only branches with news are read again. With ten thousand branches the files have megabytes, so they
are written only so often that it takes a small share of the time. A kill loses nothing: the branches' folders have it all.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raysweep.errors import StoreError
from raysweep.events import BranchEnded, BranchEvent, EpochDone, Event, ExperimentStarted
from raysweep.label_sets import MAP
from raysweep.store import catalog, class_metrics, files, layout
from raysweep.store.experiment import CRASHED, FINISHED, Experiment
from raysweep.store.records import ExperimentConfig
from raysweep.store.records_sweep import BranchRecord, SweepRecord
from raysweep.store.sweep import Sweep

MISSING = "missing"  # a branch that has not started
SHARE = 0.05  # of the driver's time, for writing while the sweep runs
_NUMBERS = ("val_acc", "val_macro_f1", "balanced_accuracy", "val_loss", "worst_recall")


class Results:
    """The state of every branch of a sweep, as it was when its folder was last read.

    Args:
        clock: gives the time in seconds, to measure how long writing takes.
    """

    def __init__(self, sweep: Sweep, clock: Callable[[], float] = time.monotonic) -> None:
        self.sweep, self.clock = sweep, clock
        self.record = sweep.record()
        self.branches = {b.name: b for b in self.record.branches}
        self.found = sweep.experiments()
        self.rows: dict[str, dict[str, Any]] = {}
        self.news: dict[str, None] = dict.fromkeys((*self.branches, *self.found))  # a set that keeps the order
        self.reasons = 0
        self.next = 0.0  # when writing is due again

    def told(self, event: Event) -> None:
        """Note an event of a branch: its folder is read again before the files are next written."""
        match event:
            case BranchEvent(branch, ExperimentStarted(folder=folder)):
                self.found[branch] = Experiment(self.sweep.root.path / Path(folder).name, self.sweep.root)
                self.news[branch] = None
            case BranchEvent(branch, EpochDone() | BranchEnded()):
                self.news[branch] = None

    def write_when_due(self, reasons: Mapping[str, str]) -> None:
        """Write if there is news, but so rarely that writing takes at most ``SHARE`` of the driver's time.

        Raises:
            StoreError: a file cannot be written.
        """
        began = self.clock()
        if (self.news or len(reasons) != self.reasons) and began >= self.next:
            self.write(reasons)
            now = self.clock()
            self.next = now + (now - began) * (1 / SHARE - 1)

    def write(self, reasons: Mapping[str, str]) -> SweepRecord:
        """Read the branches with news and write both files; returns what ``sweep.json`` holds.

        Args:
            reasons: branch → why it failed, for branches whose own folders do not say it.
        """
        news, self.news, self.reasons = self.news, {}, len(reasons)
        for name in news:
            found = self.found.get(name)
            branch = self.branches.get(name)
            if found is not None and branch is None:  # a search has chosen it
                branch = _searched(found.config())
            if branch is not None:
                status = found.status() if found else MISSING
                branch = replace(branch, experiment=found.id if found else None, status=status)
                self.branches[name], self.rows[name] = branch, _row(branch, found)
        for name, branch in self.branches.items():
            reason = reasons.get(name) or (None if branch.status == FINISHED else branch.reason)
            if reason != branch.reason:
                self.branches[name] = replace(branch, reason=reason)
        self.record = replace(self.record, branches=tuple(self.branches.values()))
        self.sweep.write_record(self.record)
        text = _csv([self.rows[name] for name in self.branches])
        files.write_atomic(self.sweep.folder / layout.RESULTS, text.encode())
        return self.record


def _searched(config: ExperimentConfig) -> BranchRecord:
    """The branch that an experiment says it is."""
    assert config.branch is not None  # only such experiments are found as branches
    told = {**config.branch.to_json(), "weights": config.sampling_weights, "searched": True}
    return BranchRecord.from_json(told)


def _row(branch: BranchRecord, experiment: Experiment | None) -> dict[str, Any]:
    """What a branch is and what its last epoch reached."""
    row: dict[str, Any] = {
        "branch": branch.name,
        "experiment": branch.experiment,
        "control": int(branch.control),
        "seed": branch.seed,
        "status": branch.status,
    }
    if experiment and (ends := experiment.manifest().ends):
        summary = catalog.summary(experiment)
        row |= {"epoch": ends[-1].epoch, "best_acc": summary.best_acc, "best_epoch": summary.best_epoch}
        row |= {k: ends[-1].metrics.get(k) for k in _NUMBERS}
        if experiment.config().label_sets is not None:
            row[MAP] = ends[-1].metrics.get(MAP)
        row["worst_class"] = ends[-1].metrics.get("worst_class")
        row |= class_metrics.of_epoch(experiment, ends[-1].epoch)
    row |= {"arm": branch.arm, "reference": branch.reference}
    return row | {f"weight_{c}": w for c, w in branch.weights.items()}


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """One row per branch, with the difference of its last epoch to the control of the same seed, that of its cell if it has one."""
    table = [dict(row) for row in rows]
    for row, control in zip(table, controls(table), strict=True):
        row |= _minus_control(row, control or {})
    columns = ["branch", "experiment", "control", "seed", "status", "epoch", "best_acc", "best_epoch", *_NUMBERS]
    columns += ["worst_class", "val_acc_minus_control", "val_macro_f1_minus_control"]
    columns += [MAP, f"{MAP}_minus_control"] if any(MAP in row for row in table) else []
    columns += ["arm", "reference"] if any(row.get("reference") for row in table) else []
    starts = ("weight_", *(f"{kind}_" for kind in class_metrics.KINDS))
    of_classes = dict.fromkeys(c for start in starts for row in table for c in row if c.startswith(start))
    names = [*columns, *(c for c in of_classes if c not in columns)]
    return files.csv_text([names, *([row.get(c) for c in names] for row in table)])


def controls(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any] | None]:
    """For each row of ``results.csv`` that of its control, with the same seed: the control of its cell if it has one."""
    known = {(None, r.get("seed")): r for r in rows if r["control"]}
    known |= {(r["arm"], r.get("seed")): r for r in rows if r.get("arm") is not None}
    return [known.get((row.get("reference"), row.get("seed"))) for row in rows]


def _minus_control(row: Mapping[str, Any], control: Mapping[str, Any]) -> dict[str, float]:
    """The differences of a branch to its control, where both have ended the same epoch."""
    if row.get("epoch") is None or row["epoch"] != control.get("epoch"):
        return {}
    both = [k for k in ("val_acc", "val_macro_f1", MAP) if row.get(k) is not None and control.get(k) is not None]
    return {f"{k}_minus_control": row[k] - control[k] for k in both}


def refresh(sweep: Sweep, reasons: Mapping[str, str] | None = None) -> SweepRecord:
    """Read every branch and write ``sweep.json`` and ``results.csv``; returns what ``sweep.json`` holds.

    Args:
        reasons: branch → why it failed, for branches whose own folders do not say it.
    """
    return Results(sweep).write(reasons or {})


def read_results(sweep: Sweep) -> list[dict[str, Any]]:
    """The rows of ``results.csv`` with numbers as numbers.

    Raises:
        StoreError: the file is missing or cannot be read.
    """
    path = sweep.folder / layout.RESULTS
    with files.reading(path), open(path, newline="", encoding="utf-8") as file:
        rows = [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]
    for row in rows:
        if row.get("status") == "dead":  # the word of the first files
            row["status"] = CRASHED
    return rows


_REACHED = (
    "val_acc", "val_acc_minus_control", "val_macro_f1", "val_macro_f1_minus_control", "worst_class", "worst_recall",
)  # fmt: skip


def rows_of(sweep: Sweep) -> list[dict[str, Any]]:
    """The rows of ``results.csv``; of a sweep that has not written it yet, its branches.

    Raises:
        StoreError: neither file can be read.
    """
    try:
        return read_results(sweep)
    except StoreError:
        empty = dict.fromkeys(_REACHED)
        return [
            {"branch": b.name, "control": b.control, "seed": b.seed, "status": b.status or MISSING, **empty}
            for b in sweep.record().branches
        ]


def _number(text: str) -> Any:
    if text == "":
        return None
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() and math.isfinite(value) and "." not in text else value
