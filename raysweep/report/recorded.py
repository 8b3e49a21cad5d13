"""What a folder itself records of its last epoch: all there is to compare where the old system kept no predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raysweep.errors import NotFoundError, StoreError
from raysweep.report import figures
from raysweep.report.effects import ALL, METRICS, OVERALL, UNKNOWN, Effect
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
    """The last epoch of an experiment as its history, or of an old one its history and its classification report, tell.

    Raises:
        NotFoundError: it tells nothing. StoreError: the history is damaged.
    """
    history = figures.read_history(experiment)
    rows = len(history["epoch"])
    if not rows:
        raise NotFoundError(f"{experiment.id} has no finished epoch yet, so there is nothing to compare.")
    last = {name: column[-1] for name, column in history.items()}
    values = {(ALL, m): last.get(c) for m, c in _COLUMNS.items()}
    for metric in METRICS:
        start = f"{metric}_"
        values |= {(c.removeprefix(start), metric): v for c, v in last.items() if c.startswith(start)}
    counts: dict[str, int] = {}
    if is_old(experiment):
        told, counts = _report(experiment)
        values = told | {k: v for k, v in values.items() if v is not None}
    return Recorded(int(last["epoch"] or rows), {k: float(v) for k, v in values.items() if v is not None}, counts)


def _report(experiment: Experiment) -> tuple[dict[tuple[str, str], float | None], dict[str, int]]:
    """scikit-learn's table of the last epoch: a class, then precision, recall, F1 and its images."""
    values: dict[tuple[str, str], float | None] = {}
    counts: dict[str, int] = {}
    try:
        text = files.read_all(experiment.folder / layout.REPORT).decode()
    except (StoreError, UnicodeDecodeError):
        return values, counts
    for line in text.splitlines():
        words = line.rsplit(maxsplit=4)
        try:
            numbers, images = [float(w) for w in words[1:4]], int(words[4])
        except (ValueError, IndexError):  # the head, an empty line, the accuracy
            continue
        target = words[0].strip()
        if target == "macro avg":
            values[ALL, "macro_f1"] = numbers[2]
        elif target != "weighted avg":
            values |= dict(zip(((target, "precision"), (target, "recall"), (target, "f1")), numbers, strict=True))
            counts[target] = images
    return values, counts


def effects(name: str, classes: Sequence[str], mine: Recorded, reference: Recorded) -> list[Effect]:
    """Differences without interval and label: nobody knows what of them is noise. NaN where one side does not tell."""
    found = []
    for target, metric in [*((c, m) for c in classes for m in METRICS), *((ALL, m) for m in OVERALL)]:
        value = mine.values.get((target, metric), math.nan)
        before = reference.values.get((target, metric), math.nan)
        found.append(
            Effect(
                name,
                target,
                metric,
                before,
                value,
                value - before,
                math.nan,
                math.nan,
                math.nan,
                math.nan,
                None,
                UNKNOWN,
            )
        )
    return found
