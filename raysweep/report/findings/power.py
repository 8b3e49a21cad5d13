"""How many seeds or images it would take to show a difference of a given size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from raysweep.report.findings.findings import Finding
from raysweep.report.findings.variance import errors

POWER = 0.8  # the probability with which a true difference is to be shown
MOST_SEEDS = 100


@dataclass(frozen=True)
class Needed:
    """``seeds`` of each of the two arms; None where no number of seeds is enough, because the images alone leave more doubt.
    Then ``images`` is how many times as many images it would take with MOST_SEEDS seeds."""

    seeds: int | None
    images: float


def needed(finding: Finding, difference: float, between: float, arms: int, threshold: float) -> Needed:
    """The smallest number of seeds with which a true difference gets a label with the probability POWER.

    Args:
        difference: as a share, 0.02 is two points.
        between: variance between seeds.
        arms: of the sweep, the control included. All get as many seeds, so the degrees of freedom are arms × (seeds − 1).
        threshold: the p-value that gets a label.

    Raises:
        ValueError: the difference is not positive.
    """
    if difference <= 0:
        raise ValueError("the difference must be larger than 0")
    for seeds in range(2, MOST_SEEDS + 1):
        variance = max(2 * between / seeds + finding.images, finding.floor)
        if _reach(seeds, arms, threshold) * math.sqrt(variance) <= difference:
            return Needed(seeds, 1.0)
    allowed = (difference / _reach(MOST_SEEDS, arms, threshold)) ** 2
    left = allowed - 2 * between / MOST_SEEDS
    if left <= 0:
        return Needed(None, math.inf)
    return Needed(None, max(finding.images / left, math.sqrt(finding.floor / allowed)))  # the floor is that of 1/n²


def _reach(seeds: int, arms: int, threshold: float) -> float:
    """How many standard errors a true difference must measure."""
    degrees = arms * (seeds - 1)
    return float(errors(threshold, degrees) + errors(2 * (1 - POWER), degrees))
