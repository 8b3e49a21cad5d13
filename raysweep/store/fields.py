"""The fields of an experiment in ``raysweep list --json``, in order. They are documented; a change needs a line in CHANGELOG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from raysweep._text import decimals, percent
from raysweep.label_sets import MAP
from raysweep.store.records import ParentRef


@dataclass(slots=True)
class Row:
    """One experiment. The defaults are those of one that cannot be read."""

    id: str
    name: str
    created: str | None = None
    status: str = "damaged"
    epochs_done: int = 0
    epochs_target: int | None = None
    best_acc: float | None = None
    best_epoch: int | None = None
    best_macro_f1: float | None = None
    worst_class: str | None = None  # of the best epoch, with its recall
    worst_recall: float | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)  # the user's own, of the best epoch
    sampling_weights: Mapping[str, float] = field(default_factory=dict)
    seed: int | None = None
    parent: ParentRef | None = None
    parent_best_acc: float | None = None  # the best of the epochs before the fork
    parent_seed: int | None = None
    change: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # class → weight before the fork, after it
    sweep: str | None = None
    branch: str | None = None
    control: bool = False
    path: str = ""
    note: str | None = None  # which of its files is damaged

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Row:
        """A row as :meth:`to_json` gives it."""
        row = cls(**value)  # ten thousand times in a list
        if row.parent is not None:
            row.parent = ParentRef.from_json(value["parent"])
            row.change = {c: (before, after) for c, (before, after) in row.change.items()}
        return row

    @property
    def mean_precision(self) -> float | None:
        """mAP at the best epoch, where an image has several labels."""
        return self.metrics.get(MAP)

    def best_text(self, accuracy: str = "") -> str:
        """``best 56.1% (epoch 5)``, of several labels ``best mAP 0.611 (epoch 5)``; empty before the first epoch.

        Args:
            accuracy: put before the number where it is the accuracy.
        """
        if self.mean_precision is not None:
            value = f"{MAP} {decimals(self.mean_precision)}"
        elif self.best_acc is not None:
            value = f"{accuracy}{percent(self.best_acc)}"
        else:
            return ""
        return f"best {value}{'' if self.best_epoch is None else f' (epoch {self.best_epoch})'}"

    def to_json(self) -> dict[str, Any]:
        value = {name: getattr(self, name) for name in FIELDS}
        value["change"] = {c: list(pair) for c, pair in self.change.items()}
        if self.parent is not None:
            parent = self.parent.to_json()
            value["parent"] = {"experiment": parent["experiment"], "epoch": parent["epoch"]} | parent
        return value if self.note is None else value | {"note": self.note}


FIELDS = tuple(f.name for f in fields(Row) if f.name != "note")
