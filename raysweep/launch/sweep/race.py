"""``scheduler: race``: a sweep begins with one seed of every branch, and each time all trainings have ended it decides which branches get one
more. What it decides is a function of the finished trainings, so a sweep that was killed goes on as it would have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raysweep._text import counted, join_names
from raysweep.config import grid as grids
from raysweep.config.grid import CONTROL, Grid, Point
from raysweep.events import Note, Progress
from raysweep.launch.sweep.more_seeds import missing
from raysweep.report import race as seeing
from raysweep.report.evaluated import grouped
from raysweep.report.findings import racing
from raysweep.report.findings.racing import BETTER, Rules
from raysweep.store.records_sweep import BranchRecord, RaceRecord, SweepRecord
from raysweep.store.sweep import Sweep
from raysweep.weights import SamplingWeights


def undecided(record: SweepRecord) -> bool:
    """Whether a race has still to decide who gets more seeds."""
    return record.grid.get("scheduler") == "race" and not (record.race is not None and record.race.over)


def decide(sweep: Sweep, progress: Progress) -> SweepRecord:
    """Look at what is finished, and write into ``sweep.json`` which branches get more seeds, or that the race is over.

    Raises:
        RaysweepError: predictions are missing or damaged.
    """
    record = sweep.record()
    grid = grids.check(dict(record.grid), str(sweep.folder))
    groups = grouped(record.branches)
    seen = seeing.look(sweep, grid.select)
    before = record.race or RaceRecord()
    shown = list(before.shown)
    added: list[BranchRecord] = []
    settled: dict[str, str] = {}
    if seen is not None:
        labels = {seeing.CONTROL: next(label for label, members in groups.items() if members[0].control)}
        controls = [labels.get(c, c) for c in seen.controls]
        left = None if grid.race.trainings is None else grid.race.trainings - len(record.branches)
        step = racing.step(seen.names, controls, seen.looked, _rules(grid, left))
        shown += [n for n, why in step.settled.items() if why == BETTER and n not in shown]
        settled = {**step.settled, **dict.fromkeys(shown, BETTER)}
        more = {name: count for name, count in step.more.items() if name not in shown}
        if set(more) - set(controls):  # more seeds of a control alone decide nothing
            added = _more(record, groups, more, grid, set(controls))
    race = RaceRecord(before.looks + 1, tuple(shown), settled, not added)
    record = replace(record, branches=(*record.branches, *added), race=race)
    sweep.write_record(record)
    progress(Note(_told(race, added)))
    return record


def _rules(grid: Grid, left: int | None) -> Rules:
    return Rules(grid.race.level, grid.race.most, grid.race.most_control, left)


def _more(
    record: SweepRecord,
    groups: dict[str, list[BranchRecord]],
    more: dict[str, int],
    grid: Grid,
    controls: set[str],
) -> list[BranchRecord]:
    """The branches to add. One that failed counts among its seeds, so a race comes to its end."""
    most = {label: grid.race.most_control if label in controls else grid.race.most for label in more}
    wanted = {label: min(count, most[label] - len(groups[label])) for label, count in more.items()}
    return missing(record.branches, wanted)


def points(branches: Sequence[BranchRecord], classes: Sequence[str]) -> list[Point]:
    """What is trained of branches as ``sweep.json`` has them."""
    return [
        Point(
            b.name,
            SamplingWeights.complete(b.weights, classes),
            b.seed,
            b.control,
            dict(b.settings),
            b.arm,
            b.reference,
        )
        for b in branches
        if b.seed is not None
    ]


def _told(race: RaceRecord, added: Sequence[BranchRecord]) -> str:
    names = join_names(race.shown) if race.shown else "no branch"
    if not added:
        return f"The race is over after {counted(race.looks, 'look')}: {names} shown to be better than the {CONTROL}."
    arms = join_names(list(dict.fromkeys(str(b.arm or b.name) for b in added)))
    return f"Race, look {race.looks}: {names} shown to be better; more seeds for {arms}."
