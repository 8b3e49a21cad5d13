"""The metrics of the last epoch that a folder records itself. Folders of the old system have no predictions, so nothing else of
them can be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raysweep.errors import NotFoundError, StoreError
from raysweep.report.effects import ALL, METRICS, OVERALL, UNKNOWN, Effect
from raysweep.report.findings.findings import Finding
from raysweep.report.history import read_history
from raysweep.store import files, layout
from raysweep.store.experiment import LEGACY, Experiment

_COLUMNS = {"accuracy": "val_acc", "macro_f1": "val_macro_f1"}


@dataclass(frozen=True)
class Recorded:
    """``values``: (class or ALL, metric) → value in [0, 1]; ``counts``: validation images per class, where known."""

    epoch: int
    values: dict[tuple[str, str], float]
    counts: dict[str, int]


def is_old(experiment: Experiment) -> bool:
    """Whether the old system wrote the folder."""
    return experiment.status() == LEGACY


def read(experiment: Experiment) -> Recorded:
    """The last epoch of an experiment, from its history and, of an old one, also from its classification report.

    Raises:
        NotFoundError: it has no finished epoch. StoreError: the history is damaged.
    """
    history = read_history(experiment)
    rows = len(history["epoch"])
    if not rows:
        raise NotFoundError(f"{experiment.id} has no finished epoch yet, so there is nothing to compare.")
    last = {name: column[-1] for name, column in history.items()}
    values = _metrics(last)
    counts: dict[str, int] = {}
    if is_old(experiment):
        reported, counts = _report(experiment)
        values = reported | values
    return Recorded(int(last["epoch"] or rows), values, counts)


def _metrics(row: Mapping[str, float | None]) -> dict[tuple[str, str], float]:
    """(class or ALL, metric) → value, of one row of the history."""
    values = {(ALL, metric): row.get(column) for metric, column in _COLUMNS.items()}
    for metric in METRICS:
        start = f"{metric}_"
        values |= {(c.removeprefix(start), metric): v for c, v in row.items() if c.startswith(start)}
    return {key: float(v) for key, v in values.items() if v is not None}


def _report(experiment: Experiment) -> tuple[dict[tuple[str, str], float], dict[str, int]]:
    """The values and the images per class in scikit-learn's table of the last epoch, whose lines are a class, precision, recall,
    F1 and images. Both are empty if the file is missing or cannot be read."""
    values: dict[tuple[str, str], float] = {}
    counts: dict[str, int] = {}
    try:
        text = files.read_all(experiment.folder / layout.REPORT).decode()
    except (StoreError, UnicodeDecodeError):
        return values, counts
    for line in text.splitlines():
        words = line.rsplit(maxsplit=4)
        try:
            numbers, images = [float(w) for w in words[1:4]], int(words[4])
        except (ValueError, IndexError):  # the head, an empty line or the accuracy
            continue
        target = words[0].strip()
        if target == "macro avg":
            values[ALL, "macro_f1"] = numbers[2]
        elif target != "weighted avg":
            values |= dict(zip(((target, "precision"), (target, "recall"), (target, "f1")), numbers, strict=True))
            counts[target] = images
    return values, counts


def effects(name: str, classes: Sequence[str], mine: Recorded, reference: Recorded) -> list[Effect]:
    """Differences without interval and label, because noise is not known. NaN where one side has no value."""
    found = []
    for target, metric in [*((c, m) for c in classes for m in METRICS), *((ALL, m) for m in OVERALL)]:
        value = mine.values.get((target, metric), math.nan)
        before = reference.values.get((target, metric), math.nan)
        unknown = (math.nan,) * 5  # interval, p, q and the smallest difference
        finding = Finding(name, None, metric, before, value, value - before, *unknown, UNKNOWN, math.nan)
        found.append(Effect(target, finding))
    return found
