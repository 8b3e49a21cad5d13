"""Effects: every difference between a branch and its reference, with what may be said of it. See :mod:`raysweep.report.findings`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    """One difference, branch minus reference, as means over the seeds. Shares are in [0, 1], the log-loss in nats.

    ``low`` and ``high`` are the ends of the interval; ``p`` and ``q`` (after Benjamini–Hochberg) are NaN where nothing was tested.
    ``smallest`` is the smallest difference that would have been labelled. ``times``: how many times as often the branch
    predicts the class. ``free``: the difference that the reference gets without training, by moving its thresholds until it
    predicts every class as often as the branch does. ``images``: of the class, or in all.
    """

    branch: str
    target: str  # a class, or ALL
    metric: str
    reference: float
    value: float
    difference: float
    low: float
    high: float
    p: float
    q: float
    smallest: float
    label: str
    images: int | None = None
    times: float | None = None
    free: float | None = None

    @property
    def shown(self) -> str:
        """``better`` or ``worse`` if the difference was shown, otherwise an empty text."""
        if self.label not in SHOWN:
            return ""
        good = self.difference > 0 if self.metric != "log_loss" else self.difference < 0
        return BETTER if good else WORSE


def of_arms(
    control: Arm, branches: Sequence[Arm], labels: np.ndarray, classes: Sequence[str]
) -> tuple[list[Effect], Findings]:
    """The effects of every branch, and the findings that they come from.

    Args:
        control: the reference; its networks and those of the branches were evaluated on the same images.
        labels: int (n,), the true class of each image.
        classes: the names of the classes, in the order of the labels.
    """
    cases = Cases(labels, len(classes))
    found = findings.find(control, branches, cases)
    free = {f.branch: f for f in found.free}
    effects = []
    for f in found.findings:
        c, of_branch = f.target, free[f.branch]
        decided = c is not None and f.metric in METRICS
        effects.append(
            Effect(
                f.branch,
                ALL if c is None else classes[c],
                f.metric,
                f.control,
                f.value,
                f.difference,
                f.low,
                f.high,
                f.p,
                f.q,
                f.smallest,
                NO_IMAGES if c is not None and not cases.counts[c] else f.label,
                len(labels) if c is None else int(cases.counts[c]),
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


def as_row(effect: Effect) -> dict[str, Any]:
    """An effect as plain values, for JSON."""
    return dict(vars(effect))
