"""What a k-fold sweep and a hunt share: both are one folder that ties many trainings and sweeps together, each of which is an ordinary one.

How that folder is made, locked and stopped, and how a training or a sweep of it is started, gone on with, or found to be there already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from raysweep._text import Nested
from raysweep.cluster import signals
from raysweep.config import foreign
from raysweep.config import grid as grids
from raysweep.errors import Interrupted, StoreError
from raysweep.events import (
    BranchEnded,
    BranchEvent,
    BranchStarted,
    Event,
    ExperimentStarted,
    Note,
    Progress,
    SweepStarted,
)
from raysweep.launch import run as launching
from raysweep.launch.resume import continue_experiment
from raysweep.launch.sweep import driver, race, tune
from raysweep.launch.sweep.resume import continue_sweep
from raysweep.plan.resources import AS_BEFORE, ResourceOverrides
from raysweep.plan.sweep import plan_sweep, with_resources
from raysweep.plan.types import Plan, SweepRequest
from raysweep.store import trust as trusting
from raysweep.store.commands import continue_command
from raysweep.store.experiment import FAILED, FINISHED, Experiment
from raysweep.store.lock import WriterLock
from raysweep.store.records import Json
from raysweep.store.records_sweep import SweepRecord
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep
from raysweep.store.trust import NOBODY, Origin, Trust
from raysweep.store.whole import Whole
from raysweep.trackers import credentials

AnyWhole = TypeVar("AnyWhole", bound=Whole[Any])
Told = Callable[[str], object]  # called with the id of what has begun, before anything of it is trained
_OF_SWEEPS = ("threads", "workers", "address", "in_process", "max_concurrent", "gpus_per_branch")


@dataclass(frozen=True)
class How:
    """With which resources and whose approval to go on."""

    steal: bool = False
    asked: ResourceOverrides = AS_BEFORE
    trust: Trust = NOBODY


@contextlib.contextmanager
def making(
    create: Callable[[Root, str, datetime], AnyWhole],
    root: Root,
    name: str,
    base: Plan,
    record: Callable[[str, datetime], Any],
    progress: Progress,
) -> Iterator[AnyWhole]:
    """Make the folder and what it says before anything has run; within the block it is at work."""
    told = credentials.keep(base.settings.trackers)
    if told is not None:
        progress(told)
    now = datetime.now()
    whole = create(root, name, now)
    made = record(whole.id, now)
    problem = trusting.remember_made(whole.id, dict(made.settings))
    if problem:
        progress(Note(problem))
    with at_work(whole, record=made):
        yield whole


@contextlib.contextmanager
def at_work(whole: Whole[Any], steal: bool = False, record: Any = None) -> Iterator[None]:
    """Within this block it is locked, and whatever is stopped goes on with the whole.

    Args:
        record: what to write into its file first.

    Raises:
        LockedError: it is running. Interrupted: a signal asked to stop.
    """
    again = continue_command(whole.root, whole.id)
    lock = WriterLock.acquire(whole.folder, steal)
    try:
        if record is not None:
            whole.write_record(record)
        with signals.part_of(again):
            yield
    except Interrupted as stopped:
        raise Interrupted(
            f"Stopped by {stopped.reason}; what had begun has its checkpoint. Go on with: {again}", stopped.reason
        ) from None
    finally:
        lock.release()


def settle(whole: Whole[Any], how: How) -> None:
    """Raises UntrustedError if it names code or places that nobody has approved."""
    origin = Origin(whole.folder, whole.folder, whole.root, (whole.id,))
    kinds = (foreign.code, foreign.places)
    trusting.settle(how.trust, origin, dict(whole.record().settings), how.asked.named(), kinds)


def stored_request(asked: SweepRequest, base: Plan, *more: str) -> Nested:
    """What the folder's file says of the request for its sweeps, without credentials; see :func:`request`."""
    over = dict(asked.overrides or {})
    if "trackers" in over:
        over["trackers"] = base.settings.model_dump(mode="json")["trackers"]
    return {**{key: getattr(asked, key) for key in (*_OF_SWEEPS, *more)}, "overrides": over}


def request(whole: Whole[Any], start: str, grid: Json, how: How, given: Mapping[str, Any]) -> SweepRequest:
    """What is asked of a sweep from ``start``.

    Args:
        grid, given: as the whole's file says.

    Raises:
        StoreError: the file lacks something. ConfigError: a range of workers is asked for.
    """
    path = whole.folder / whole.FILE
    try:
        made = SweepRequest(whole.root, start, grids.check(dict(grid), str(path)), trust=how.trust, **given)
    except TypeError as error:
        raise StoreError(f"{path} is damaged ({error}). Restore it from a copy.") from None
    return with_resources(made, how.asked)


def trained(
    root: Root,
    name: str,
    begun: Experiment | None,
    plan: Callable[[Progress], Plan],
    note: Told,
    how: How,
    progress: Progress,
) -> Experiment:
    """The finished training: it is trained now, or goes on, or is there already.

    Args:
        begun: its experiment, if it has begun.
        plan: plans it, if it has not.
    """
    if begun is not None and begun.status() == FINISHED:
        return begun

    def tell(event: Event) -> None:
        if isinstance(event, ExperimentStarted):
            note(event.id)
        progress(BranchEvent(name, event))

    progress(BranchEvent(name, BranchStarted()))
    if begun is not None:
        result = continue_experiment(root, begun, steal=how.steal, asked=how.asked, progress=tell, trust=how.trust)
    else:
        result = launching.run(plan(tell), tell)
    progress(BranchEvent(name, BranchEnded("finished")))
    return result.experiment


def swept(
    root: Root,
    begun: Sweep | None,
    asked: Callable[[], SweepRequest],
    note: Told,
    how: How,
    progress: Progress,
    failed_again: bool = True,
) -> tuple[Sweep, Mapping[str, str]]:
    """Train a sweep, or what is left of it; returns it, and why which branches failed.

    Args:
        begun: the sweep, if it has begun.
        asked: what is asked of it, if it has not.
        failed_again: whether what has failed is trained again.
    """

    def tell(event: Event) -> None:
        if isinstance(event, SweepStarted):
            note(event.id)
        progress(event)

    if begun is None:
        done = driver.run(plan_sweep(asked(), tell), tell)
    elif _left(begun.record(), (FINISHED,) if failed_again else (FINISHED, FAILED)):
        done = continue_sweep(root, begun, steal=how.steal, asked=how.asked, progress=tell, trust=how.trust)
    else:
        return begun, {}
    return done.sweep, done.failed


def _left(record: SweepRecord, ended: tuple[str, ...]) -> bool:
    """Whether a sweep has branches to train, or to choose."""
    if race.undecided(record) or any(b.status not in ended for b in record.branches):
        return True
    return tune.samples_left(grids.check(dict(record.grid)), record) > 0
