"""Hunts: rounds of sweeps and what comes after them, tied together by ``hunt.json``. No torch, no ray.

The sweeps' and experiments' own folders are the original record. What ``hunt.json`` lacks after a kill is decided and made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Self

from raysweep.errors import StoreError
from raysweep.store import files, groups, layout
from raysweep.store.experiment import Experiment
from raysweep.store.records import Json, ParentRef, Record
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep
from raysweep.store.untrusted import schema


@dataclass(frozen=True, slots=True)
class HuntRound(Record):
    """One round. ``start``: the checkpoint that its sweep starts from; ``treatments``: arm → what it does and its point of the model;
    ``survivor``: the arm that the next round starts from, ``control`` if none was better; None until it is decided."""

    OMITTED: ClassVar[frozenset[str]] = frozenset({"survivor", "why", "gain", "seconds"})

    number: int
    start: str
    trainings: int
    grid: Json
    treatments: Mapping[str, Any]
    point: tuple[float, ...] = ()  # of its control
    sweep: str | None = None
    survivor: str | None = None
    why: str | None = None
    gain: float | None = None  # expected of the survivor over the round's control, as a share
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class HuntRecord(Record):
    """``hunt.json``: enough to continue after a kill at any moment. ``steps``: what was trained beside the sweeps → its experiment."""

    id: str
    name: str
    description: str
    timestamp: str
    parent: ParentRef
    budget: Json  # kind, amount
    planned: int  # rounds
    seed: int  # of the proposals
    epochs: int  # of each training
    images: int  # of each training
    seconds_each: float  # of each training, as it was last measured, in which others train at the same time
    at_once: int  # branches that train at the same time
    space: Json
    proposer: str
    request: Json  # of the sweeps: threads, workers, address, max_concurrent, gpus_per_branch, overrides
    settings: Json  # of the parent's children, for whoever asks what they run
    rounds: tuple[HuntRound, ...] = ()
    seeds: tuple[int, ...] = ()  # new ones, of the end
    steps: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0  # of work, after the rounds
    end: Json = field(default_factory=dict)
    format_version: int = 1

    @property
    def select(self) -> str:
        """The metric by which the rounds choose."""
        return str(self.space.get("select", "macro_f1"))

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises ValueError with what is wrong."""
        problem = schema.of_hunt(value)
        if problem is not None:
            raise ValueError(problem)
        rounds = tuple(HuntRound._of(r, point=tuple(r.get("point") or ())) for r in value["rounds"])
        seeds = tuple(value.get("seeds") or ())
        return cls._of(value, parent=ParentRef.from_json(value["parent"]), rounds=rounds, seeds=seeds)


@dataclass(frozen=True)
class Hunt:
    """A view of a hunt's folder. Every call reads the file again."""

    folder: Path
    root: Root = field(compare=False)

    @property
    def id(self) -> str:
        return self.folder.name

    def record(self) -> HuntRecord:
        """``hunt.json``.

        Raises:
            StoreError: it is missing or damaged.
        """
        path = self.folder / layout.HUNT
        try:
            with files.reading(path):
                return HuntRecord.from_json(files.read_json(path))
        except ValueError as error:
            raise StoreError(f"{path} does not hold a hunt: {error}. Restore it from a copy.") from None

    def write_record(self, record: HuntRecord) -> None:
        """Write ``hunt.json``."""
        text = json.dumps(record.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        files.write_atomic(self.folder / layout.HUNT, f"{text}\n".encode(errors="backslashreplace"))

    def note(self, **changes: Any) -> HuntRecord:
        """Record something of the whole hunt."""
        record = replace(self.record(), **changes)
        self.write_record(record)
        return record

    def note_round(self, number: int, **changes: Any) -> HuntRecord:
        """Record something of a round."""
        rounds = tuple(replace(r, **changes) if r.number == number else r for r in self.record().rounds)
        return self.note(rounds=rounds)

    def sweep(self, number: int) -> Sweep | None:
        """The sweep of a round, if it has begun."""
        name = next((r.sweep for r in self.record().rounds if r.number == number), None)
        found = None if name is None else Sweep(self.root.path / layout.SWEEPS / name, self.root)
        return found if found is not None and (found.folder / layout.SWEEP).is_file() else None

    def step(self, key: str) -> Experiment | None:
        """The experiment of a step, if it has begun."""
        name = self.record().steps.get(key)
        found = None if name is None else Experiment(self.root.path / name, self.root)
        return found if found is not None and found.folder.is_dir() else None

    def page(self) -> str:
        """The page as it was written at the end, as Markdown; an empty text before."""
        path = self.folder / layout.HUNT_PAGE
        return files.read_all(path).decode() if path.is_file() else ""

    def note_step(self, key: str, experiment: str) -> HuntRecord:
        """Record that a training beside the sweeps has begun."""
        return self.note(steps={**self.record().steps, key: experiment})


def create(root: Root, name: str, when: datetime) -> Hunt:
    """Make the folder of a new hunt, among the sweeps.

    Raises:
        RootError: the root cannot be used.
    """
    return Hunt(groups.new_folder(root, layout.SWEEPS, name, when), root)


def find(root: Root, reference: str) -> Hunt | None:
    """The hunt that a path, an id or a name means; None where none has it.

    Raises:
        StoreError: several have this name.
    """
    found = groups.find(root, reference, layout.SWEEPS, layout.HUNT, "hunts")
    return None if found is None else Hunt(*found)
