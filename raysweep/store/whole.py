"""Folders that tie many trainings and sweeps together: k-fold sweeps and hunts. No torch, no ray."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar, cast

from raysweep.errors import StoreError
from raysweep.store import files, groups, layout
from raysweep.store.experiment import Experiment
from raysweep.store.records import Record
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep

_R = TypeVar("_R", bound=Record)


@dataclass(frozen=True)
class Whole(Generic[_R]):
    """A view of a folder among the sweeps, whose file ties many trainings and sweeps together. Every call reads the file again.

    The sweeps' and experiments' own folders are the original record. What the file lacks after a kill is made again.
    """

    FILE: ClassVar[str]
    RECORD: ClassVar[type[Record]]  # what the file holds
    WHAT: ClassVar[tuple[str, str]]  # one of them, and several, for messages

    folder: Path
    root: Root = field(compare=False)

    @classmethod
    def create(cls, root: Root, name: str, when: datetime) -> Self:
        """Make the folder.

        Raises:
            RootError: the root cannot be used.
        """
        return cls(groups.new_folder(root, layout.SWEEPS, name, when), root)

    @classmethod
    def find(cls, root: Root, reference: str) -> Self | None:
        """The one that a path, an id or a name means; None where none has it.

        Raises:
            StoreError: several have this name.
        """
        found = groups.find(root, reference, layout.SWEEPS, cls.FILE, cls.WHAT[1])
        return None if found is None else cls(*found)

    @property
    def id(self) -> str:
        return self.folder.name

    def record(self) -> _R:
        """What the file says.

        Raises:
            StoreError: it is missing or damaged.
        """
        path = self.folder / self.FILE
        try:
            with files.reading(path):
                return cast("_R", self.RECORD.from_json(files.read_json(path)))
        except ValueError as error:
            raise StoreError(f"{path} does not hold {self.WHAT[0]}: {error}. Restore it from a copy.") from None

    def begun(self, experiment: str | None) -> Experiment | None:
        """A training of it, if it has begun."""
        found = None if experiment is None else Experiment(self.root.path / experiment, self.root)
        return found if found is not None and found.folder.is_dir() else None

    def begun_sweep(self, sweep: str | None) -> Sweep | None:
        """A sweep of it, if it has begun."""
        found = None if sweep is None else Sweep(self.root.path / layout.SWEEPS / sweep, self.root)
        return found if found is not None and (found.folder / layout.SWEEP).is_file() else None

    def write_record(self, record: _R) -> None:
        """Write the file."""
        text = json.dumps(record.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        files.write_atomic(self.folder / self.FILE, f"{text}\n".encode(errors="backslashreplace"))
