"""``training.patience`` in a sweep. Branches that stop at epochs of their own cannot be compared: who trains longer differs by that.
So the controls train first, and then all branches, the shorter controls too, as long as the longest control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raysweep.config.grid import Point
from raysweep.errors import TrainingError
from raysweep.events import Note, Progress
from raysweep.store import experiment as experiments
from raysweep.store.records_sweep import SweepRecord
from raysweep.store.sweep import Sweep
from raysweep.weights import SamplingWeights


def undecided(patience: int | None, record: SweepRecord) -> bool:
    """Whether the controls have still to say how long the branches train."""
    return patience is not None and record.trained_to is None


def decide(sweep: Sweep, progress: Progress) -> int:
    """Write into ``sweep.json`` the epoch to which all branches train: the last one of the longest control.

    Raises:
        TrainingError: no control has finished.
    """
    record, found = sweep.record(), sweep.experiments()
    lasts = {
        b.name: e.manifest().ends[-1].epoch
        for b in record.branches
        if b.control and (e := found.get(b.name)) is not None and e.status() == experiments.FINISHED
    }
    if not lasts:
        raise TrainingError(
            "No control has finished, so it is not known how long the branches are to train (training.patience), and none was started. "
            "sweep.json says why the controls failed."
        )
    last = max(lasts.values())
    sweep.write_record(replace(record, trained_to=last))
    each = ", ".join(f"{name} at epoch {epoch}" for name, epoch in lasts.items())
    progress(Note(f"The controls ended ({each}); every branch trains to epoch {last}."))
    return last


def too_short(sweep: Sweep, record: SweepRecord, classes: Sequence[str]) -> list[Point]:
    """The controls that are finished, but with fewer epochs than the longest: they train on, so that last epochs are comparable."""
    if record.trained_to is None:
        return []
    found = sweep.experiments()
    return [
        Point(b.name, SamplingWeights.complete(b.weights, classes), b.seed, True)
        for b in record.branches
        if b.control and b.seed is not None and _ended_before(found.get(b.name), record.trained_to)
    ]


def _ended_before(experiment: experiments.Experiment | None, epoch: int) -> bool:
    if experiment is None or experiment.status() != experiments.FINISHED:
        return False
    ends = experiment.manifest().ends
    return bool(ends) and ends[-1].epoch < epoch
