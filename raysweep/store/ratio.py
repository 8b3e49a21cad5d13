"""What a fork changed of the ratio: the event in the child's log, which is the only place where that is looked up."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from raysweep.errors import WeightsError
from raysweep.store import lineage
from raysweep.store.experiment import Experiment
from raysweep.store.records import LineageEvent
from raysweep.weights import Changed, RatioChange, changes


def of_fork(folder: Path) -> RatioChange | None:
    """The change of the ratio at an experiment's fork; None where the weights stayed, or nothing was forked.

    Raises:
        StoreError: the log cannot be read.
    """
    return of_events(lineage.early(folder))


def of_events(events: Iterable[LineageEvent]) -> RatioChange | None:
    """The same from the first events of a log, for a caller that needs others of them, too."""
    event = next((e for e in events if e.type == lineage.RATIO), None)
    try:
        return None if event is None else RatioChange.from_event(event.fields)
    except WeightsError:  # somebody else's
        return None


def from_parent(child: Experiment, parent: Experiment) -> Changed:
    """What a child changed of its parent's weights, also in a folder whose log does not say it, such as the old system's.

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
