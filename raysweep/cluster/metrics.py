"""Gauges of runs and branches for Prometheus: see :data:`GAUGES`. Ray's nodes serve them with the prefix ``ray_``.

The driver sets them, wherever the training runs, and only while it is connected to Ray.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

from raysweep.events import EpochDone, Event, ExperimentStarted, SweepStarted, opened

LABELS = ("experiment", "sweep")  # the sweep is empty for a run
# name → (description, how to get the value from the event of an epoch)
GAUGES: dict[str, tuple[str, Callable[[EpochDone], Any]]] = {
    "raysweep_epoch": ("Completed epochs, the parent's included.", lambda e: e.epoch),
    "raysweep_train_loss": ("Mean training loss of the last epoch.", lambda e: e.row["train_loss"]),
    "raysweep_val_loss": ("Mean cross-entropy on the validation images.", lambda e: e.row["val_loss"]),
    "raysweep_val_accuracy": ("Share of validation images classified correctly.", lambda e: e.row["val_acc"]),
    "raysweep_val_macro_f1": ("Mean of the classes' F1 on the validation images.", lambda e: e.row["val_macro_f1"]),
    "raysweep_images_per_second": ("Training images per second.", lambda e: e.row["images_per_second"]),
    "raysweep_checkpoint_seconds": ("Seconds the last checkpoint took to write.", lambda e: e.save_seconds),
    "raysweep_blocked_seconds": (
        "Seconds for which the last checkpoint blocked training.",
        lambda e: e.blocked_seconds,
    ),
}
RECALL = "raysweep_recall"  # has a further label, class
# The limit for one sweep. Ray forgets no series: with 15 series for each of 5,000 branches its agent keeps a CPU busy for good.
MOST_SERIES = 10_000


class Gauges:
    """Sets the gauges from the events of a run or a sweep. Errors of metrics are ignored: no training may fail by them."""

    def __init__(self) -> None:
        self.sweep = ""
        self.experiments: dict[str | None, str] = {}  # branch, None for a run → experiment
        self.made: dict[str, Any] = {}  # name → gauge
        self.shown: set[str] = set()  # experiments
        self.series = 0

    def __call__(self, event: Event) -> None:
        branch, inner = opened(event)
        match inner:
            case SweepStarted(id=sweep):
                self.sweep = sweep
            case ExperimentStarted(id=experiment):
                self.experiments[branch] = experiment
            case EpochDone() if _connected():
                with contextlib.suppress(Exception):
                    self._set(inner, {"experiment": self.experiments.get(branch, ""), "sweep": self.sweep})

    def _set(self, event: EpochDone, labels: dict[str, str]) -> None:
        if labels["experiment"] not in self.shown:
            self.series += len(GAUGES) + sum(column.startswith("recall_") for column in event.row)
            if self.series > MOST_SERIES:  # the branches that began first stay shown
                return
            self.shown.add(labels["experiment"])
        for name, (text, of) in GAUGES.items():
            self._gauge(name, text, LABELS).set(float(of(event)), labels)
        recall = self._gauge(RECALL, "Recall of a class on the validation images.", (*LABELS, "class"))
        for column, value in event.row.items():
            if column.startswith("recall_") and value is not None:
                recall.set(float(value), {**labels, "class": column.removeprefix("recall_")})

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Any:
        if name not in self.made:
            from ray.util.metrics import Gauge

            self.made[name] = Gauge(name, description=text, tag_keys=labels)
        return self.made[name]


def _connected() -> bool:
    ray = sys.modules.get("ray")  # not imported: not connected, and the import would take seconds
    return ray is not None and bool(ray.is_initialized())
