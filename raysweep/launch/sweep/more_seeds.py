"""More seeds for a sweep that there is. Seeds that are added once a comparison could be read are a recorded look."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from raysweep.config.branch_names import unique
from raysweep.report.evaluated import grouped
from raysweep.store import experiment as experiments
from raysweep.store.records_sweep import BranchRecord, SweepRecord
from raysweep.store.results import MISSING


@dataclass(frozen=True)
class MoreSeeds:
    """How many more trainings of every branch, and of the control."""

    branches: int
    controls: int


def extended(record: SweepRecord, more: MoreSeeds) -> SweepRecord:
    """The record of the sweep with branches that are still missing. New seeds are the smallest numbers that the branch has not.

    Whoever adds seeds until something is shown finds something in the end. So it counts as a look if a branch and a control were
    finished before.
    """
    taken = {b.name.casefold() for b in record.branches}
    added: list[BranchRecord] = []
    references = {b.reference for b in record.branches}
    for label, members in grouped(record.branches).items():
        count = more.controls if members[0].control or label in references else more.branches
        for seed in unused(members, count):
            name = unique(f"{label}-seed{seed}", taken)
            added.append(
                replace(members[0], name=name, seed=seed, experiment=None, status=MISSING, searched=False, reason=None)
            )
    done = [b for b in record.branches if b.status == experiments.FINISHED]
    looked = any(b.control for b in done) and any(not b.control for b in done)
    return replace(record, branches=(*record.branches, *added), looks=record.looks + looked)


def unused(members: Sequence[BranchRecord], count: int) -> list[int]:
    """The smallest ``count`` seeds that no member has."""
    seeds = {b.seed for b in members}
    return list(itertools.islice((n for n in itertools.count() if n not in seeds), max(0, count)))
