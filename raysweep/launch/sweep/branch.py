"""One branch of a sweep, as Ray Tune runs it in an actor, or a process of this machine, that trains one branch after another.

A branch on one device trains inside the actor: no process is started for it. Its experiment's folder is made here, by
the one process that writes to it. If the folder exists already, the branch continues from its newest checkpoint: that is
how an interrupted sweep is continued, and a branch whose actor died.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from raysweep.cluster.channel import ChannelReporter
from raysweep.cluster.nodes import Notices
from raysweep.config import branch_names
from raysweep.config.grid import Point
from raysweep.errors import CheckpointError, Interrupted, RaysweepError
from raysweep.events import BranchEnded, BranchEvent, EpochDone, Event, Progress
from raysweep.label_sets import MAP
from raysweep.launch import resume as resuming
from raysweep.launch import runner
from raysweep.launch.workers import retry, transport
from raysweep.plan.resources import ResourceOverrides, Resources
from raysweep.plan.sweep import plan_branch
from raysweep.plan.types import Parent, Plan, base_of
from raysweep.store import lock
from raysweep.store.experiment import Experiment
from raysweep.store.records import BranchRef
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep
from raysweep.store.trust import NOBODY, Trust
from raysweep.training.job import Job, Outcome

BATCH_EVERY_S = 1.0  # many branches report to one driver, so each reports less often than a single run


METRICS = ("val_acc", "val_macro_f1", "balanced_accuracy", MAP)


@dataclass(frozen=True)
class Shared:
    """What all branches of a sweep have in common. It is put into Ray's object store once, and each actor reads it there."""

    root: Root
    sweep_folder: str  # its path or address
    base: Plan | None  # a checked child; None where every branch already has its folder
    points: dict[str, Point]  # by name; a search's points are not here
    parent: np.ndarray | None  # uint8: the content of the parent's checkpoint
    channel: Any
    steal: bool
    seed: int | None = None  # of searched branches; None: the parent's
    original_id: str | None = None  # see Sweep.original_id; None: sweep.json says it
    known: Mapping[str, str | None] = field(default_factory=dict)  # branch → its experiment, as sweep.json says
    trust: Trust = NOBODY  # the driver's decision on what the branches' configurations name
    trained_to: int | None = None  # the last epoch of all branches, where the controls' patience decided it
    bases: Mapping[str, Plan] = field(default_factory=dict)  # of branches with settings of their own


@dataclass(frozen=True)
class SharedRef:
    """Where :class:`Shared` is in Ray's object store. With ten thousand points it takes long to unpack, so an actor unpacks it
    once, not for every branch."""

    reference: Any


_kept: dict[str, Shared] = {}  # by the reference's name


def train_kept(config: dict[str, Any], kept: SharedRef) -> None:
    """What Ray Tune runs: see :func:`train_branch`."""
    import ray

    key = kept.reference.hex()
    if key not in _kept:
        _kept.clear()
        _kept[key] = ray.get(kept.reference)
    train_branch(config, _kept[key])


def _parent(shared: Shared) -> Parent:
    assert shared.base is not None
    assert shared.base.parent is not None  # the plan of a sweep is that of a child
    return shared.base.parent


_parents: dict[str, Mapping[str, Any]] = {}  # by SHA-256; a reused actor unpacks its parent once


def _parent_state(shared: Shared) -> Mapping[str, Any]:
    from raysweep.store import checkpoint

    assert shared.parent is not None
    key = _parent(shared).sha256
    if key not in _parents:
        _parents.clear()
        _parents[key] = checkpoint.from_bytes(shared.parent)
    return _parents[key]


class Reporter(Protocol):
    """Where a branch's events go, and who stops it."""

    def __call__(self, event: Event) -> None: ...

    def should_stop(self) -> str | None: ...

    def complete(self, experiment: Experiment) -> None: ...


class BranchReporter(ChannelReporter):
    """Reports everything to the driver, and the metrics of every epoch to Ray Tune."""

    def __init__(self, channel: Any, branch: str, first_epoch: int) -> None:
        import ray

        super().__init__(channel, BATCH_EVERY_S, branch)
        self.first_epoch = first_epoch
        self.reported = False
        self.notices = Notices([ray.get_runtime_context().get_node_id()])

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, EpochDone):
            self.report(event.epoch, event.row)

    def should_stop(self) -> str | None:
        return super().should_stop() or (retry.PREEMPTED if self.notices.arrived() else None)

    def complete(self, experiment: Experiment) -> None:
        """Report a branch that was complete already: a search needs what it reached."""
        ends = experiment.manifest().ends
        if ends and not self.reported:
            self.report(ends[-1].epoch, ends[-1].metrics)

    def report(self, epoch: int, row: Mapping[str, Any]) -> None:
        from ray import tune

        self.reported = True
        tune.report({"epochs_done": epoch - self.first_epoch + 1, **{m: row[m] for m in METRICS if m in row}})


def train_branch(config: dict[str, Any], shared: Shared) -> None:
    """The trainable: train the branch that ``config`` names, or, in a search, whose weights it holds.

    A failure is reported to the driver and not raised, so that the actor can train the next branch.
    """
    import ray

    point = shared.points[config["branch"]] if "branch" in config else _searched(config, shared)
    first = _parent(shared).epoch + 1 if shared.base is not None else 1
    reporter = BranchReporter(shared.channel, point.name, first)
    # This comes before anything is made: after a stop no other branch may begin.
    stop, again = ray.get(shared.channel.begin.remote(point.name))
    if stop is not None:
        return
    end = attempt(point, shared, reporter, again)
    ray.get(shared.channel.put.remote(BranchEvent(point.name, end)))


def attempt(point: Point, shared: Shared, reporter: Reporter, again: bool) -> BranchEnded:
    """Train a branch until it ends; returns how. What fails is told, not raised.

    Args:
        again: whether it has begun before, maybe on another machine.

    Raises:
        Interrupted: after a preemption notice. Tune starts the branch again on another node, where it continues.
    """
    try:
        experiment = _train(point, shared, reporter, again)
        reporter.complete(experiment)
    except Interrupted as error:
        if error.reason == retry.PREEMPTED:
            raise
        return BranchEnded("interrupted", str(error))
    except RaysweepError as error:
        return BranchEnded("failed", str(error), traceback.format_exc())
    except Exception as error:
        return BranchEnded("failed", f"{type(error).__name__}: {error}", traceback.format_exc())
    return BranchEnded("finished")


def _searched(config: Mapping[str, Any], shared: Shared) -> Point:
    """The branch of a search's suggestion; equal suggestions are the same branch."""
    parent = _parent(shared)
    changes = {c: float(f"{w:.4g}") for c, w in config.items()}
    seed = shared.seed if shared.seed is not None else parent.settings.seed
    return Point(branch_names.describe(changes, parent.weights.classes), parent.weights.inherit(changes), seed, False)


_seen: set[str] = set()  # roots on an object store that this process has read


def _sweep(shared: Shared, look: bool, again: bool) -> Sweep:
    """The sweep; with ``look``, after reading what other machines have written of its branches."""
    address = shared.root.address
    root = Root.open(address, look=look and (again or address not in _seen))
    _seen.update([address] if look else [])
    return Sweep(Root.locate(shared.sweep_folder), root)


def _train(point: Point, shared: Shared, reporter: Reporter, again: bool) -> Experiment:
    # A branch that sweep.json does not know has no folder. Looking for one lists the whole root, which is too slow for each
    # of ten thousand branches.
    known = shared.known.get(point.name)
    look = again or known is not None or shared.original_id is None
    sweep = _sweep(shared, look, again)
    original_id = shared.original_id or sweep.original_id
    existing = sweep.experiment(point.name, original_id, known) if look else None

    def launch(job: Job, fitted: Resources, progress: Progress) -> Outcome:
        from raysweep.launch.workers import start as workers
        from raysweep.training.loop import train

        if fitted.workers > 0:
            return workers.on_workers(job, fitted, reporter, reporter.should_stop)
        from_parent = job.start is not None and not job.same_run and shared.parent is not None
        return train(job, reporter, _parent_state(shared) if from_parent else None)

    if existing is not None:
        return _continued(existing, sweep, shared, reporter, launch)
    if shared.base is None:
        raise CheckpointError("This branch had not started when its parent's checkpoint was lost.")
    plan = plan_branch(transport.arrived_plan(base_of(point, shared.base, shared.bases)), original_id, point)
    branch = BranchRef(point.name, point.control, point.seed)
    return runner.start(plan, launch, reporter, sweep=original_id, branch=branch).experiment


def _continued(
    existing: Experiment, sweep: Sweep, shared: Shared, reporter: Reporter, launch: runner.Launch
) -> Experiment:
    """A branch that has begun, from its newest checkpoint."""
    from raysweep.training import own

    plans = [] if shared.base is None else [shared.base, *shared.bases.values()]
    with own.sent([code for plan in plans for code in plan.all_code]):
        fitted = shared.base.resources if shared.base is not None else None
        done = resuming.continue_experiment(
            sweep.root,
            str(existing.folder),
            steal=shared.steal or _of_a_lost_node(existing),
            asked=ResourceOverrides() if fitted is None else ResourceOverrides(threads=fitted.threads),
            progress=reporter,
            launch=launch,
            fitted=fitted,
            trust=shared.trust,
            until=shared.trained_to,
        )
        return done.experiment


def _of_a_lost_node(experiment: Experiment) -> bool:
    """Whether a branch is still locked by a process of a machine that has left the cluster."""
    who = lock.holder(experiment.folder)
    if who is None or lock.alive(who) is not None:  # no holder, or one on this machine, which the lock itself checks
        return False
    import ray

    if not ray.is_initialized():
        return False
    return who.host not in {n.get("NodeManagerHostname") for n in ray.nodes() if n.get("Alive")}
