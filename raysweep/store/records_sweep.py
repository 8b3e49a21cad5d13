"""``sweep.json`` as typed records: what was planned, and which branch became which experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from raysweep.store.records import Json, ParentRef, Record
from raysweep.store.untrusted import schema


@dataclass(frozen=True, slots=True)
class BranchRecord(Record):
    """One branch. ``experiment`` and ``status`` are derived from the branch's own folder."""

    OMITTED: ClassVar[frozenset[str]] = frozenset({"searched", "reason", "settings", "arm", "reference"})

    name: str
    control: bool = False
    seed: int | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    experiment: str | None = None
    status: str | None = None
    searched: bool = False  # whether a search has chosen it
    reason: str | None = None  # why it failed, if its own folder does not say it
    settings: Json = field(default_factory=dict)  # dotted key → value, of those that differ from the parent's
    arm: str | None = (
        None  # its name without the seed; None in sweeps of earlier versions, and where a search has chosen it
    )
    reference: str | None = None  # the arm that it is compared with; None: the control

    @classmethod
    def from_json(cls, value: Any) -> Self:
        if value.get("status") == "dead":  # the word of the first files
            return cls._of(value, status="crashed")
        return cls._of(value)


@dataclass(frozen=True, slots=True)
class RaceRecord(Record):
    """What a race has decided so far (``scheduler: race``). ``shown``: branches that were shown to be better than their control, at any look;
    ``settled``: branch → why it gets no more seeds."""

    looks: int = 0
    shown: tuple[str, ...] = ()
    settled: Mapping[str, str] = field(default_factory=dict)
    over: bool = False


@dataclass(frozen=True, slots=True)
class SweepRecord(Record):
    """``sweep.json``: enough to continue a sweep after a kill at any moment."""

    OMITTED: ClassVar[frozenset[str]] = frozenset(
        {"id", "looks", "race", "trained_to", "fresh_optimizer", "reset_head", "in_process"}
    )

    id: str | None = None  # under which it was made
    format_version: int = 1
    name: str | None = None
    description: str | None = None
    timestamp: str | None = None
    parent: ParentRef | None = None
    parent_weights: Mapping[str, float] = field(default_factory=dict)
    epochs: int | None = None
    threads: int | None = None
    workers: int | None = None
    gpus_per_branch: float | None = None
    max_concurrent: int | None = None
    in_process: bool = False  # its branches were trained without Ray
    fresh_optimizer: bool = False  # its branches began without the optimizer's state
    reset_head: bool = False  # and with a new last layer
    settings: Json = field(default_factory=dict)
    grid: Json = field(default_factory=dict)
    notes: Sequence[str] = ()
    branches: tuple[BranchRecord, ...] = ()
    looks: int = 0  # how often seeds were added after the comparison could be read
    race: RaceRecord | None = None  # of ``scheduler: race``, after its first look
    trained_to: int | None = None  # the last epoch of all branches, as the controls' patience decided

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises ValueError with what is wrong."""
        problem = schema.of_sweep(value)
        if problem is not None:
            raise ValueError(problem)
        return cls._of(
            value,
            parent=ParentRef.from_json(value["parent"]) if "parent" in value else None,
            parent_weights=value.get("parent_weights") or {},
            race=None
            if value.get("race") is None
            else RaceRecord._of(value["race"], shown=tuple(value["race"].get("shown") or ())),
            branches=tuple(map(BranchRecord.from_json, value["branches"])),
        )

    def lacks(self, *names: str) -> list[str]:
        """Which of these keys are missing in the file that was read."""
        return [name for name in names if self.names is not None and name not in self.names]
