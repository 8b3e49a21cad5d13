"""``control + offsets``: what the control gets without any training, as one more row of a comparison. Described, not tested: both are
the same networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raysweep.report.effects import ALL, METRICS, NO_IMAGES, Effect
from raysweep.report.findings import fitted
from raysweep.report.findings.arms import Arm, Cases
from raysweep.report.findings.findings import Finding

DEFAULT = "macro_f1"  # what the offsets are fitted for, unless the user says otherwise


def name_of(reference: str) -> str:
    """The row's name, from the reference in a sentence: ``the control`` gives ``control + offsets``."""
    return f"{reference.removeprefix('the ')} + offsets"


def too_many(classes: int, images: int) -> bool:
    """Whether there are so many classes and images that the search for offsets would take minutes."""
    return classes * images > fitted.MOST


def effects(name: str, control: Arm, cases: Cases, classes: Sequence[str], metric: str = DEFAULT) -> list[Effect]:
    """What the networks of the control get from offsets fitted for a metric, cross-fitted within the validation images.

    Args:
        cases: the images, with the true class of each.
        metric: one of ``fitted.METRICS``.
    """
    found = fitted.of_arm(control, cases, metric)
    rows = []
    for g in found.gains:
        c = g.target
        label = NO_IMAGES if c is not None and not cases.counts[c] else ""
        nothing = (math.nan,) * 3  # p, q and the smallest difference
        finding = Finding(
            name, c, g.metric, g.before, g.value, g.value - g.before, g.low, g.high, *nothing, label, math.nan
        )
        target = ALL if c is None else classes[c]
        images = len(cases.labels) if c is None else int(cases.counts[c])
        times = float(found.times[c]) if c is not None and g.metric in METRICS else None
        rows.append(Effect(target, finding, images, times))
    return rows
