"""Hunts: rounds of sweeps and what comes after them, tied together by ``hunt.json``. No torch, no ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from raysweep.store import files, layout
from raysweep.store.experiment import Experiment
from raysweep.store.records import Json, ParentRef, Record
from raysweep.store.sweep import Sweep
from raysweep.store.untrusted import schema
from raysweep.store.whole import Whole

WINNER, AGAIN, BESIDE = "winner", "again", "beside"  # chains of trainings, in the keys of ``steps``


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
    at_once: int  # branches that train at the same time, as it was last measured
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


class Hunt(Whole[HuntRecord]):
    """A hunt's folder."""

    FILE, RECORD, WHAT = layout.HUNT, HuntRecord, ("a hunt", "hunts")

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
        return self.begun_sweep(next((r.sweep for r in self.record().rounds if r.number == number), None))

    def step(self, key: str) -> Experiment | None:
        """The experiment of a step, if it has begun."""
        return self.begun(self.record().steps.get(key))

    def page(self) -> str:
        """The page as it was written at the end, as Markdown; an empty text before."""
        path = self.folder / layout.HUNT_PAGE
        return files.read_all(path).decode() if path.is_file() else ""

    def note_step(self, key: str, experiment: str) -> HuntRecord:
        """Record that a training beside the sweeps has begun."""
        return self.note(steps={**self.record().steps, key: experiment})


create, find = Hunt.create, Hunt.find
