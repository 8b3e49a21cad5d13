"""More seeds for a sweep that there is. Seeds that are added once a comparison could be read are a recorded look."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
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
    """The record of the sweep with branches that are still missing.

    Whoever adds seeds until something is shown finds something in the end. So it counts as a look if a branch and a control were
    finished before.
    """
    references = {b.reference for b in record.branches}
    wanted = {
        label: more.controls if members[0].control or label in references else more.branches
        for label, members in grouped(record.branches).items()
    }
    added = missing(record.branches, wanted)
    done = [b for b in record.branches if b.status == experiments.FINISHED]
    looked = any(b.control for b in done) and any(not b.control for b in done)
    return replace(record, branches=(*record.branches, *added), looks=record.looks + looked)


def missing(branches: Sequence[BranchRecord], wanted: Mapping[str, int]) -> list[BranchRecord]:
    """So many more trainings of branches. New seeds are the smallest numbers that the branch has not."""
    groups, taken = grouped(branches), {b.name.casefold() for b in branches}
    added: list[BranchRecord] = []
    for label, count in wanted.items():
        first, seeds = groups[label][0], {b.seed for b in groups[label]}
        for seed in itertools.islice((n for n in itertools.count() if n not in seeds), max(0, count)):
            name = unique(f"{label}-seed{seed}", taken)
            added.append(
                replace(first, name=name, seed=seed, experiment=None, status=MISSING, searched=False, reason=None)
            )
    return added
