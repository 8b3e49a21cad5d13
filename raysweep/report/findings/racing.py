"""Racing: which branches of a sweep get one more seed, and about which ones the question is settled.

Only trainings of full length count. A branch is settled once it is shown to be better or worse than the control, by a test that stays
valid however often it looks (:mod:`raysweep.report.findings.sequential`), or once it is out of reach: even if it were better by one standard
error than it seems, all the seeds that it may still get would not show it. That stops work and claims nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from raysweep.report.findings import sequential
from raysweep.report.findings.sequential import Looked

Array = np.ndarray

BETTER, WORSE, OUT_OF_REACH, NO_SEEDS = "better", "worse", "out of reach", "not shown"
FIRST, FIRST_CONTROL = 1, 4  # seeds before the first look; how much seeds vary is known from the control
REACH = 0.8  # standard errors by which a branch may be better than it seems


@dataclass(frozen=True)
class Rules:
    """``level``: the part of all races among equals that may show anything. ``most`` and ``most_control``: seeds that a branch, and a
    control, may get in all. ``trainings``: that may still be added, in all; None: as many as the seeds allow."""

    level: float = sequential.LEVEL
    most: int = 16
    most_control: int = 20
    trainings: int | None = None


@dataclass(frozen=True)
class Step:
    """What comes next. ``more``: arm → how many more seeds it gets, the controls first; none means that the race is over. ``settled``: branch →
    why it gets no more."""

    more: Mapping[str, int]
    settled: Mapping[str, str] = field(default_factory=dict)


def step(names: Sequence[str], controls: Sequence[str], looked: Looked, rules: Rules) -> Step:
    """Decide from a look at the branches. Deterministic: a race that was killed goes on as it would have.

    Args:
        names: of the branches, in the order of ``looked``; ``controls``: what each is compared with.
    """
    why = _settled(looked, rules)
    settled = {name: reason for name, reason in zip(names, why, strict=True) if reason}
    # the most promising first: trainings may not be enough for all
    order = sorted((i for i, reason in enumerate(why) if not reason), key=lambda i: -looked.ratio[i])
    left = math.inf if rules.trainings is None else rules.trainings
    if left < 1:
        return Step({}, settled | {names[i]: NO_SEEDS for i in order})
    more: dict[str, int] = {}
    for control in dict.fromkeys(controls[i] for i in order):
        mine = [i for i in order if controls[i] == control]
        # k open branches are compared with one control: √k times as many seeds of it cost the least
        wanted = math.ceil((int(looked.seeds[mine].max()) + 1) * math.sqrt(len(mine)))
        lacking = min(rules.most_control, wanted) - int(looked.of_control[mine[0]])
        more[control] = int(max(0, min(lacking, len(mine), left - sum(more.values()) - 1)))
    room = min(len(order), left - sum(more.values()))
    more |= {names[i]: 1 for i in order[: int(room)]}
    return Step({name: count for name, count in more.items() if count}, settled)


def _settled(looked: Looked, rules: Rules) -> list[str]:
    """For each branch why it is settled, or "" where it is not."""
    better = sequential.shown(sequential.e_better(looked), rules.level)
    worse = sequential.shown(sequential.e_worse(looked), rules.level)
    reached = _at_best(looked, rules) >= len(better) / (rules.level * (1 + int(better.sum())))
    full = looked.seeds >= rules.most
    found = []
    for is_better, is_worse, can, is_full in zip(better, worse, reached, full, strict=True):
        found.append(
            BETTER if is_better else WORSE if is_worse else OUT_OF_REACH if not can else NO_SEEDS if is_full else ""
        )
    return found


def _at_best(looked: Looked, rules: Rules) -> Array:
    """The e-value that each branch would have with all seeds, if its effect were REACH standard errors more than it seems."""
    now = 1 / looked.seeds + 1 / looked.of_control
    then = 1 / rules.most + 1 / np.maximum(rules.most_control, looked.of_control)
    error = looked.error * np.sqrt(then / now)
    degrees = np.maximum(looked.degrees, 1.0) + rules.most + rules.most_control - looked.seeds - looked.of_control
    difference = looked.difference + REACH * looked.error
    seeds = np.full(len(now), float(rules.most))
    control = np.maximum(float(rules.most_control), looked.of_control)
    return sequential.e_better(Looked(difference, error, degrees, seeds, control))
