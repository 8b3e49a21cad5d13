"""k-fold sweeps: a parent and a sweep for each fold, tied together by ``folds.json``. No torch, no ray.

The parents' and sweeps' own folders are the original record. What ``folds.json`` lacks after a kill is made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from raysweep.errors import StoreError
from raysweep.store import files, groups, layout
from raysweep.store.records import Json, ParentRef, Record
from raysweep.store.root import Root
from raysweep.store.untrusted import schema


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


@dataclass(frozen=True)
class Folds:
    """A view of the folder of a k-fold sweep. Every call reads the file again."""

    folder: Path
    root: Root = field(compare=False)

    @property
    def id(self) -> str:
        return self.folder.name

    def record(self) -> FoldsRecord:
        """``folds.json``.

        Raises:
            StoreError: it is missing or damaged.
        """
        path = self.folder / layout.FOLDS
        try:
            with files.reading(path):
                return FoldsRecord.from_json(files.read_json(path))
        except ValueError as error:
            raise StoreError(f"{path} does not hold a k-fold sweep: {error}. Restore it from a copy.") from None

    def write_record(self, record: FoldsRecord) -> None:
        """Write ``folds.json``."""
        text = json.dumps(record.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        files.write_atomic(self.folder / layout.FOLDS, f"{text}\n".encode(errors="backslashreplace"))

    def note(self, fold: int, parent: str | None = None, sweep: str | None = None) -> None:
        """Record that the parent or the sweep of a fold has begun."""
        record = self.record()
        parts = tuple(
            replace(p, parent=parent or p.parent, sweep=sweep or p.sweep) if p.fold == fold else p for p in record.parts
        )
        self.write_record(replace(record, parts=parts))


def create(root: Root, name: str, when: datetime) -> Folds:
    """Make the folder of a new k-fold sweep, among the sweeps.

    Raises:
        RootError: the root cannot be used.
    """
    return Folds(groups.new_folder(root, layout.SWEEPS, name, when), root)


def find(root: Root, reference: str) -> Folds | None:
    """The k-fold sweep that a path, an id or a name means; None where none has it.

    Raises:
        StoreError: several have this name.
    """
    found = groups.find(root, reference, layout.SWEEPS, layout.FOLDS, "k-fold sweeps")
    return None if found is None else Folds(*found)


def settings_of(record: FoldsRecord, fold: int) -> Mapping[str, Any]:
    """The settings of a fold's parent."""
    return {**record.settings, "data": {**record.settings["data"], "fold": fold}}
