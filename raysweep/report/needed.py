"""How many seeds or images it would take to show a difference, from the variation that a comparison measured."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from raysweep.report.comparison import Comparison
from raysweep.report.effects import LEARNED, LEVEL, Effect
from raysweep.report.findings import power
from raysweep.report.findings.arms import OVERALL, OVERALL_OF_LABELS, targets
from raysweep.report.findings.power import Needed

TWO_POINTS = 0.02


def of_effect(comparison: Comparison, effect: Effect, difference: float = TWO_POINTS) -> Needed | None:
    """What it would take to give such a difference a label, if every branch and the control had as many seeds; None where nothing is
    known of the variation.

    Args:
        difference: as a share.
    """
    findings, finding = comparison.findings, effect.finding
    if findings is None or math.isnan(finding.images):
        return None
    rows = targets(len(comparison.classes), OVERALL_OF_LABELS if comparison.several else OVERALL)
    between = float(findings.seeds.variance[rows.index((finding.target, finding.metric))])
    if math.isnan(between):
        return None
    size = findings.compared[int(finding.metric == LEARNED)]
    arms = len(findings.free) + 1  # of the whole sweep, also where one branch of it is shown
    return power.needed(finding, difference, between, arms, LEVEL / max(1, size))


def hardest(effects: Iterable[Effect]) -> Effect | None:
    """What it takes to show one difference of any of several branches: that of the branch whose variance from the images is largest, with
    the largest ``smallest`` of all. Of those that were tested, if any was; None where nothing is known of the images."""
    known = [e for e in effects if not math.isnan(e.finding.images)]
    if not known:
        return None
    most = max(known, key=lambda e: (not math.isnan(e.smallest), e.finding.images))
    smallest = max((e.smallest for e in known if not math.isnan(e.smallest)), default=math.nan)
    return replace(most, finding=replace(most.finding, smallest=smallest))


def words(comparison: Comparison, effect: Effect) -> str:
    """What stands beside "not shown": ``from 3.1 points on it would be; two points take 9 seeds``. Empty where nothing was tested."""
    if math.isnan(effect.smallest):
        return ""
    text = f"from {100 * effect.smallest:.1f} points on it would be"
    if effect.smallest <= TWO_POINTS:
        return text
    needed = of_effect(comparison, effect)
    if needed is None or math.isinf(needed.images):
        return text
    if needed.seeds is not None:
        return f"{text}; two points take {needed.seeds} seeds"
    return f"{text}; two points take {needed.images:.1f} × as many images and {power.MOST_SEEDS} seeds"
