"""Effects: every difference between a branch and its reference, with what may be said of it. See :mod:`raysweep.report.findings`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from raysweep._text import counted, join_names
from raysweep.report.findings import findings
from raysweep.report.findings.arms import LEARNED, Arm, Cases
from raysweep.report.findings.findings import (
    BETTER,
    FEWEST,
    LEVEL,
    NOT_SHOWN,
    NOT_TESTED,
    ONE_SEED,
    SHOWN,
    WORSE,
    Finding,
    Findings,
)

__all__ = ["BETTER", "FEWEST", "LEARNED", "LEVEL", "NOT_SHOWN", "NOT_TESTED", "ONE_SEED", "WORSE"]

METRICS = ("recall", "precision", "f1")  # at the networks' own decisions
OVERALL = ("accuracy", "macro_f1")
ALL = "(all)"
UNKNOWN = "unknown"  # the label where there are no predictions
NO_IMAGES = "no images"  # the label of a class without validation images, of which nothing is known


@dataclass(frozen=True)
class Effect:
    """One difference, branch minus reference, as means over the seeds, with the name of its class.

    ``times``: how many times as often the branch predicts the class. ``free``: the difference that the reference gets without
    training, by moving its thresholds until it predicts every class as often as the branch does. ``images``: of the class, or
    in all.
    """

    target: str  # a class, or ALL
    finding: Finding
    images: int | None = None
    times: float | None = None
    free: float | None = None

    @property
    def branch(self) -> str:
        return self.finding.branch

    @property
    def metric(self) -> str:
        return self.finding.metric

    @property
    def reference(self) -> float:
        return self.finding.control

    @property
    def value(self) -> float:
        return self.finding.value

    @property
    def difference(self) -> float:
        return self.finding.difference

    @property
    def low(self) -> float:
        return self.finding.low

    @property
    def high(self) -> float:
        return self.finding.high

    @property
    def p(self) -> float:
        return self.finding.p

    @property
    def q(self) -> float:
        return self.finding.q

    @property
    def smallest(self) -> float:
        return self.finding.smallest

    @property
    def label(self) -> str:
        return self.finding.label

    def of_branch(self, name: str) -> Effect:
        """The same effect under another name of its branch."""
        return replace(self, finding=replace(self.finding, branch=name))

    @property
    def shown(self) -> str:
        """``better`` or ``worse`` if the difference was shown, otherwise an empty text."""
        if self.label not in SHOWN:
            return ""
        good = self.difference > 0 if self.metric != "log_loss" else self.difference < 0
        return BETTER if good else WORSE


def of_arms(
    control: Arm,
    branches: Sequence[Arm],
    cases: Cases,
    classes: Sequence[str],
    references: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[Effect], Findings]:
    """The effects of every branch, and the findings that they come from.

    Args:
        control: the reference; its networks and those of the branches were evaluated on the same images.
        cases: these images.
        classes: the names of the classes, in the order of the labels.
        references: branch → the other branch that it is compared with instead of the control.
    """
    found = findings.find(control, branches, cases, references=references)
    free = {f.branch: f for f in found.free}
    effects = []
    for f in found.findings:
        c, of_branch = f.target, free[f.branch]
        decided = c is not None and f.metric in METRICS
        effects.append(
            Effect(
                ALL if c is None else classes[c],
                f if c is None or cases.counts[c] else replace(f, label=NO_IMAGES),
                len(cases.labels) if c is None else int(cases.counts[c]),
                float(of_branch.times[c]) if decided else None,
                float(getattr(of_branch, f.metric)[c]) if decided else None,
            )
        )
    return effects, found


def arm(name: str, probabilities: Sequence[np.ndarray]) -> Arm:
    """The networks of one treatment, from the probabilities (n, K) that each gave."""

    def log(p: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            result: np.ndarray = np.log(p)
        return result

    return Arm(name, [lambda p=p: log(p) for p in probabilities])  # type: ignore[misc]


COLUMNS = (
    "branch", "target", "metric", "reference", "value", "difference", "low", "high", "p", "q", "smallest", "label", "images",
    "times", "free",
)  # fmt: skip


def as_row(effect: Effect) -> dict[str, Any]:
    """An effect as plain values, in the order of ``COLUMNS``."""
    return {column: getattr(effect, column) for column in COLUMNS}


def few_images(counts: Mapping[str, int]) -> list[str]:
    """Which classes have no or few validation images, and what that means."""
    none = [c for c, n in counts.items() if n == 0]
    few = [f"{c} ({n})" for c, n in counts.items() if 0 < n < FEWEST]
    notes = []
    if none:
        notes.append(
            f"Without validation images nothing is known of a class, and macro-F1 leaves it out: {join_names(none)}."
        )
    if few:
        notes.append(
            f"{counted(len(few), 'class has', 'classes have')} fewer than {FEWEST} validation images, too few for an interval: "
            f"{join_names(few)}."
        )
    return notes
