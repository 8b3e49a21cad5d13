"""Sweeps: from one checkpoint, many branches with other class sampling weights, launched by Ray Tune.

The whole plan is checked before Ray starts. What happened is read from the branches' own folders, never from Tune's pickled
state: a sweep can be continued from ``sweep.json`` and the folders alone.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from raysweep import _openmp
from raysweep.cluster import autoscaler, signals
from raysweep.config.grid import Point
from raysweep.errors import CheckpointError, Interrupted
from raysweep.events import Note, PlannedBranch, Progress, SweepEnded, SweepStarted, ignore
from raysweep.launch.runner import derive
from raysweep.launch.sweep import early, processes, race
from raysweep.launch.sweep import tune as tuning
from raysweep.launch.sweep.branch import Shared
from raysweep.launch.sweep.limit import Limit
from raysweep.launch.workers import transport
from raysweep.plan import capacity, child
from raysweep.plan.types import Plan, SweepPlan
from raysweep.store import checkpoint, files, layout, lineage, retention, trust
from raysweep.store import experiment as experiments
from raysweep.store import sweep as sweeps
from raysweep.store.commands import continue_command
from raysweep.store.experiment import Experiment
from raysweep.store.lock import WriterLock
from raysweep.store.records_sweep import BranchRecord, SweepRecord
from raysweep.store.results import MISSING, refresh
from raysweep.store.sweep import Sweep
from raysweep.trackers import credentials
from raysweep.trackers.dispatch import dispatching

if TYPE_CHECKING:
    from raysweep.report.comparison import Comparison


@dataclass(frozen=True)
class SweepResult:
    """A sweep that ended: its folder, its experiments by branch, the branches that failed with the reason, and what its branches did
    compared with the control. ``comparison`` is None where nothing can be compared; a note has said why."""

    sweep: Sweep
    experiments: dict[str, Experiment]
    failed: dict[str, str]
    comparison: Comparison | None = None


def run(plan: SweepPlan, progress: Progress = ignore) -> SweepResult:
    """Make the sweep's folder and train its branches.

    Raises:
        Interrupted: a signal asked to stop; every branch that had begun has saved a checkpoint.
        RaysweepError: the sweep could not be started.
    """
    if plan.base.settings.scaling.address is None:
        capacity.at_once(plan, capacity.this_machine())
    with connected(plan, progress) as nodes:
        plan = capacity.with_gpus(plan, nodes)
        with room(plan, progress) as count:
            signals.check()
            with signals.place(None):
                return _start(plan, count, progress)


@contextlib.contextmanager
def connected(plan: SweepPlan, progress: Progress) -> Iterator[list[dict[str, float]]]:
    """Ray, unless the branches train without it; yields the resources of every node."""
    _openmp.settle()  # before anything that is started here makes the machine busy
    if plan.in_process:
        yield capacity.this_machine()
        return
    with tuning.connected(plan.base.settings.scaling.address, progress, plan.name) as nodes:
        yield nodes


@contextlib.contextmanager
def room(plan: SweepPlan, progress: Progress) -> Iterator[int]:
    """How many branches run at the same time; nodes that were requested for them are kept as long."""
    if plan.in_process:
        yield capacity.at_once(plan, capacity.this_machine())
        return
    with autoscaler.fleet(plan.base.settings.scaling, progress) as fleet:
        yield capacity.settle(plan, fleet, progress)


def _start(plan: SweepPlan, count: int, progress: Progress) -> SweepResult:
    now = datetime.now()
    with contextlib.ExitStack() as held:
        with retention.claimed(plan.parent.path):
            sweep = sweeps.create(plan.root, plan.name, now)
            for problem in remember_made(plan, sweep.id):
                progress(Note(problem))
            lock = WriterLock.acquire(sweep.folder)
            held.callback(lock.release)
            sweep.write_record(_record(plan, sweep.id, now))
        return train_branches(sweep, plan, plan.points, count, progress, steal=False)


def remember_made(plan: SweepPlan, sweep_id: str) -> list[str]:
    """Record that this user made a sweep with these settings; returns what is wrong where that cannot be written."""
    made = (plan.base, *plan.bases.values())
    problems = [
        trust.remember_made(sweep_id, p.settings.model_dump(mode="json"), [one.record() for one in p.all_code])
        for p in made
    ]
    return list(dict.fromkeys(p for p in problems if p))


def _record(plan: SweepPlan, sweep_id: str, now: datetime) -> SweepRecord:
    """What ``sweep.json`` says before anything has run: enough to continue after any kill."""
    parent = plan.parent
    return SweepRecord(
        id=sweep_id,
        format_version=2 if plan.base.settings.data.multi_label else 1,
        name=plan.name,
        description=plan.description,
        timestamp=now.strftime(layout.TIME_FORMAT),
        parent=parent.record(),
        parent_weights=parent.weights.as_dict(),
        epochs=plan.base.settings.training.epochs,
        threads=plan.base.resources.threads,
        workers=plan.base.resources.workers,
        gpus_per_branch=plan.gpus_per_branch,
        max_concurrent=plan.max_concurrent,
        in_process=plan.in_process,
        fresh_optimizer=plan.base.fresh_optimizer,
        reset_head=plan.base.reset_head,
        settings=plan.base.settings.model_dump(mode="json"),
        grid=plan.grid.model_dump(mode="json"),
        notes=tuple(plan.notes),
        branches=tuple(
            BranchRecord(
                p.name,
                p.control,
                p.seed,
                p.weights.as_dict(),
                plan.shares(p.weights, p),
                status=MISSING,
                settings=p.settings,
                arm=p.arm,
                reference=p.reference,
            )
            for p in plan.points
        ),
    )


def train_branches(
    sweep: Sweep, plan: SweepPlan, points: list[Point], count: int, progress: Progress, steal: bool
) -> SweepResult:
    """Hand the branches to Ray Tune, or to processes of this machine, complete the logs of those that it ended early, and write the results."""
    signals.begun(continue_command(sweep.root, sweep.id))
    with dispatching(progress, plan.base.settings.trackers) as dispatcher:
        try:
            return _train_branches(sweep, plan, points, count, dispatcher, steal)
        finally:  # also branches that were finished before: the process that tracked them may have been killed
            for experiment in sweep.experiments().values():
                dispatcher.ended(experiment)


def _train_branches(
    sweep: Sweep, plan: SweepPlan, points: list[Point], count: int, progress: Progress, steal: bool
) -> SweepResult:
    record = sweep.record()
    patience = plan.base.settings.training.patience
    controls_first = early.undecided(patience, record)
    first = early.controls(points) if controls_first else points
    first = first if patience is None else early.to_train(sweep, record, first)
    varies = plan.base.settings.scaling.address is not None
    limit = Limit(plan.base.resources, plan.gpus_per_branch, capacity.most_at_once(plan), count, varies)
    work = replace(_work(sweep, plan, first, limit, steal, record), search=not controls_first)
    left = len(points) + tuning.samples_left(plan.grid, record)
    progress(_started(sweep, plan, record, count, capacity.queue(plan, left, count)))
    ended = _launch(plan, work, progress) if first or left > len(points) else tuning.TuneOutcome()
    if controls_first and ended.stopped is None:
        _settle(sweep, ended.failed)
        refresh(sweep, ended.failed)
        record = early.decide(sweep, progress)
        ended = _train_as_long(sweep, plan, points, limit, steal, record, ended, progress)
    while race.undecided(record) and ended.stopped is None:
        ended, record = _race(sweep, plan, limit, steal, ended, progress)
    _settle(sweep, ended.failed)
    failed = _all_failed(refresh(sweep, ended.failed), ended.failed)
    if ended.stopped is not None:
        raise Interrupted(
            f"Stopped by {ended.stopped}; every branch that had begun has its checkpoint. "
            f"Go on with: {continue_command(sweep.root, sweep.id)}",
            ended.stopped,
        )
    progress(SweepEnded())
    with signals.place("after the last epoch, before the comparison was written"):
        signals.check()
        comparison = write_effects(sweep, progress)
    return SweepResult(sweep, sweep.experiments(), failed, comparison)


def _launch(plan: SweepPlan, work: tuning.Work, progress: Progress) -> tuning.TuneOutcome:
    launch = processes.launch if plan.in_process else tuning.launch
    return launch(work, progress)


def _train_as_long(
    sweep: Sweep,
    plan: SweepPlan,
    points: list[Point],
    limit: Limit,
    steal: bool,
    record: SweepRecord,
    ended: tuning.TuneOutcome,
    progress: Progress,
) -> tuning.TuneOutcome:
    """Train the branches, after the controls that ``ended``, as long as the longest control; also controls that were shorter."""
    rest = early.to_train(sweep, record, [p for p in points if p.name not in ended.failed])
    later = _launch(plan, _work(sweep, plan, rest, limit, steal, record), progress)
    return replace(later, failed={**ended.failed, **later.failed})


def _race(
    sweep: Sweep, plan: SweepPlan, limit: Limit, steal: bool, ended: tuning.TuneOutcome, progress: Progress
) -> tuple[tuning.TuneOutcome, SweepRecord]:
    """Decide which branches get more seeds, and train these."""
    refresh(sweep, ended.failed)
    record = race.decide(sweep, progress)
    added = [b for b in record.branches if b.experiment is None and b.name not in ended.failed]
    if not added:
        return ended, record
    work = _work(sweep, plan, race.points(added, plan.parent.classes), limit, steal, record)
    later = _launch(plan, work, progress)
    return replace(later, failed={**ended.failed, **later.failed}), record


def _started(sweep: Sweep, plan: SweepPlan, record: SweepRecord, count: int, queue: str) -> SweepStarted:
    first = plan.parent.epoch
    return SweepStarted(
        id=sweep.id,
        branches=tuple(
            PlannedBranch(
                b.name,
                b.control,
                b.seed,
                b.status == experiments.FINISHED,
                _changed(record, b.weights),
                b.arm,
                b.reference,
            )
            for b in record.branches
        ),
        first_epoch=first + 1,
        last_epoch=first + plan.base.settings.training.epochs,
        at_once=count,
        queue=queue,
        notes=(*plan.notes, *(n.text for n in plan.base.notes)),
        rates=tuple(dict.fromkeys(p.rates.course for p in (plan.base, *plan.bases.values()) if p.rates)),
    )


def _changed(record: SweepRecord, weights: Mapping[str, float]) -> tuple[str, ...]:
    """The classes whose weights are not the parent's."""
    return tuple(c for c, w in weights.items() if w != record.parent_weights.get(c, w))


def _work(
    sweep: Sweep, plan: SweepPlan, points: list[Point], limit: Limit, steal: bool, record: SweepRecord
) -> tuning.Work:
    """What Ray Tune gets.

    Raises:
        CheckpointError: the parent's checkpoint is no longer what was planned with.
    """
    parent = plan.parent
    if (last := record.trained_to) is not None:
        as_long = {key: child.trained_until(base, last) for key, base in plan.bases.items()}
        plan = replace(plan, base=child.trained_until(plan.base, last), bases=as_long)
    content = files.read_all(parent.path)
    if hashlib.sha256(content).hexdigest() != parent.sha256:
        raise CheckpointError(f"{parent.path} changed while it was read. Is another process writing it?")
    content = checkpoint.whole_bytes(parent.path, content)
    shared = Shared(
        root=sweep.root,
        sweep_folder=sweep.address,
        base=replace(_sent(plan.base), resources=capacity.of_branch(plan.base.resources)),
        points={p.name: p for p in points},
        bases={key: _sent(base) for key, base in plan.bases.items()},
        parent=np.frombuffer(content, np.uint8),
        channel=None,
        steal=steal,
        seed=next(iter(plan.grid.seeds), None),
        original_id=sweep.original_id,
        known={b.name: b.experiment for b in record.branches},
        trust=plan.trust,
        trained_to=record.trained_to,
    )
    return tuning.Work(
        sweep=sweep,
        grid=plan.grid,
        points=points,
        shared=shared,
        limit=limit,
        epochs=plan.base.settings.training.epochs,
        gpus=plan.gpus_per_branch,
        retries=plan.base.settings.scaling.max_failures,
        record=record,
    )


def _sent(base: Plan) -> Plan:
    """What the processes that train get of a plan."""
    return transport.portable_plan(replace(base, settings=credentials.stored(base.settings)))


def _all_failed(record: SweepRecord, reported: Mapping[str, str]) -> dict[str, str]:
    """Branch → why it failed, of those that ``sweep.json`` calls failed or crashed, then of any other that was reported."""
    lost = (experiments.FAILED, experiments.CRASHED)
    failed = {b.name: b.reason or "it ended without a message" for b in record.branches if b.status in lost}
    return failed | {name: reason for name, reason in reported.items() if name not in failed}


def write_effects(sweep: Sweep, progress: Progress) -> Comparison | None:
    """Write the effects of every branch on every class, and the report. An error here becomes a note and never fails a sweep."""
    from raysweep.report import page

    comparison, problem = page.write_all(sweep)
    if problem is not None:
        progress(Note(problem))
    return comparison


def _settle(sweep: Sweep, failed: Mapping[str, str]) -> None:
    """Write into the log of each branch that Tune's scheduler ended early that it is finished: its process could not."""
    if sweep.record().grid["scheduler"] != "asha":
        return
    for name, experiment in sweep.experiments().items():
        if name in failed or experiment.status() != experiments.CRASHED:
            continue
        ends = experiment.manifest().ends
        if ends:
            lock = WriterLock.acquire(experiment.folder)
            try:
                lineage.record(experiment.folder, lineage.FINISHED, epochs=ends[-1].epoch, stopped_early="asha")
                derive(experiment)
            finally:
                lock.release()
