"""``training.patience`` in a sweep. Branches that stop at epochs of their own cannot be compared: who trains longer differs by that.
So the controls train first, that of the sweep and those of its cells, and then all branches, the shorter controls too, as long as the
longest of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from raysweep.config.grid import Point
from raysweep.errors import TrainingError
from raysweep.events import Note, Progress
from raysweep.store import experiment as experiments
from raysweep.store.experiment import Experiment
from raysweep.store.records_sweep import BranchRecord, SweepRecord
from raysweep.store.sweep import Sweep

_Branch = TypeVar("_Branch", Point, BranchRecord)


def undecided(patience: int | None, record: SweepRecord) -> bool:
    """Whether the controls have still to say how long the branches train."""
    return patience is not None and record.trained_to is None


def controls(branches: Sequence[_Branch]) -> list[_Branch]:
    """Those of the sweep and of its cells: what others are compared with."""
    compared_with = {b.reference for b in branches} - {None}
    return [b for b in branches if b.control or b.arm in compared_with]


def decide(sweep: Sweep, progress: Progress) -> SweepRecord:
    """Write into ``sweep.json`` the epoch to which all branches train: the last one of the longest control.

    Raises:
        TrainingError: no control has finished.
    """
    record, found = sweep.record(), sweep.experiments()
    ended = {b.name: last for b in controls(record.branches) if (last := _last(found, b.name)) is not None}
    if not ended:
        raise TrainingError(
            "No control has finished, so it is not known how long the branches are to train (training.patience), and none was started. "
            "sweep.json says why the controls failed."
        )
    record = replace(record, trained_to=max(ended.values()))
    sweep.write_record(record)
    each = ", ".join(f"{name} at epoch {epoch}" for name, epoch in ended.items())
    progress(Note(f"The controls ended ({each}); every branch trains to epoch {record.trained_to}."))
    return record


def to_train(sweep: Sweep, record: SweepRecord, points: Sequence[Point]) -> list[Point]:
    """Those that are not finished, or with fewer epochs than the longest control: last epochs are compared."""
    found = sweep.experiments()
    lasts = {p.name: _last(found, p.name) for p in points}
    enough = record.trained_to or 0
    return [p for p in points if (last := lasts[p.name]) is None or last < enough]


def _last(found: Mapping[str, Experiment], branch: str) -> int | None:
    """The last epoch of a branch that is finished; None of any other."""
    experiment = found.get(branch)
    if experiment is None or experiment.status() != experiments.FINISHED:
        return None
    ends = experiment.manifest().ends
    return ends[-1].epoch if ends else None
