"""k-fold sweeps: a parent and a sweep for each fold, tied together by ``folds.json``. No torch, no ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from raysweep.store import layout
from raysweep.store.records import Json, ParentRef, Record
from raysweep.store.untrusted import schema
from raysweep.store.whole import Whole


@dataclass(frozen=True, slots=True)
class FoldPart(Record):
    """One fold: the experiment that is its parent, and its sweep; None where they have not begun."""

    fold: int
    parent: str | None = None
    sweep: str | None = None


@dataclass(frozen=True, slots=True)
class FoldsRecord(Record):
    """``folds.json``: enough to continue after a kill at any moment."""

    id: str
    name: str
    description: str
    timestamp: str
    checkpoint: ParentRef  # after whose settings the parents are trained
    parent_epochs: int
    settings: Json  # of the parents; data.fold is each one's own
    grid: Json
    request: Json  # of the sweeps: epochs, threads, workers, address, max_concurrent, gpus_per_branch, overrides
    parts: tuple[FoldPart, ...] = ()
    format_version: int = 1

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises ValueError with what is wrong."""
        problem = schema.of_folds(value)
        if problem is not None:
            raise ValueError(problem)
        return cls._of(
            value,
            checkpoint=ParentRef.from_json(value["checkpoint"]),
            parts=tuple(map(FoldPart.from_json, value["parts"])),
        )


class Folds(Whole[FoldsRecord]):
    """The folder of a k-fold sweep."""

    FILE, RECORD, WHAT = layout.FOLDS, FoldsRecord, ("a k-fold sweep", "k-fold sweeps")

    def note(self, fold: int, parent: str | None = None, sweep: str | None = None) -> None:
        """Record that the parent or the sweep of a fold has begun."""
        record = self.record()
        parts = tuple(
            replace(p, parent=parent or p.parent, sweep=sweep or p.sweep) if p.fold == fold else p for p in record.parts
        )
        self.write_record(replace(record, parts=parts))


create, find = Folds.create, Folds.find


def settings_of(record: FoldsRecord, fold: int) -> Mapping[str, Any]:
    """The settings of a fold's parent."""
    return {**record.settings, "data": {**record.settings["data"], "fold": fold}}
