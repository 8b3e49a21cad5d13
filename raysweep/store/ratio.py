"""How a fork changed the class ratio. The event in the child's log is the only source of this."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from raysweep.errors import WeightsError
from raysweep.store import lineage
from raysweep.store.experiment import Experiment
from raysweep.store.fields import Row
from raysweep.store.records import LineageEvent
from raysweep.weights import Changed, RatioChange, SamplingWeights, changes, describe_changed


def of_fork(folder: Path) -> RatioChange | None:
    """The change of the ratio at an experiment's fork; None if the weights stayed the same or it has no parent.

    Raises:
        StoreError: the log cannot be read.
    """
    return of_events(lineage.early(folder))


def of_events(events: Iterable[LineageEvent]) -> RatioChange | None:
    """The same, from the first events of a log that the caller has already read."""
    # one with an epoch comes from a schedule, within the run
    event = next((e for e in events if e.type == lineage.RATIO and "epoch" not in e.fields), None)
    try:
        return None if event is None else RatioChange.from_event(event.fields)
    except WeightsError:  # another program may have written the event
        return None


def from_parent(child: Experiment, parent: Experiment) -> Changed:
    """How a child's weights differ from its parent's, also if the log does not say it, as in a folder of the old system.

    Raises:
        StoreError: the log or a configuration cannot be read.
    """
    change = of_fork(child.folder)
    return between(parent, child) if change is None else change.changed


def between(first: Experiment, second: Experiment) -> Changed:
    """The classes whose weights differ between two experiments, related or not.

    Raises:
        StoreError: a configuration cannot be read.
    """
    return changes(first.config().sampling_weights, second.config().sampling_weights)


def of_row(row: Row) -> str:
    """What an experiment's fork changed, in words; of one without a parent, its first weights."""
    try:
        if row.parent is None:
            weights = row.sampling_weights
            return SamplingWeights.complete(weights, list(weights)).describe() if weights else "all 1"
        text = describe_changed(row.change)
    except WeightsError:  # another program wrote the folder
        return "?"
    return f"{text} (control)" if row.control else text
