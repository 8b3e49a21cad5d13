"""What differs from the reference: the sentences at the top of the page, and the heat maps of all classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raysweep._text import counted
from raysweep.report.comparison import Comparison, largest
from raysweep.report.effects import ALL, BETTER, NO_IMAGES, WORSE, Effect
from raysweep.report.sections.records import Heat, HeatCell, HeatLine, Verdict

MOST_CLASSES = 40  # columns of a table
_NAMES = {"f1": "F1", "recall": "recall", "precision": "precision", "accuracy": "accuracy", "macro_f1": "macro-F1"}


def verdicts(comparison: Comparison) -> list[Verdict]:
    """One sentence for every difference that is more than noise, the largest first, or one that says there is none. Empty
    if noise is not known, because there are no predictions."""
    if not comparison.pairs:
        return []
    real = [e for e in comparison.effects if e.label in (BETTER, WORSE) and (e.metric == "f1" or e.target == ALL)]
    if not real:
        return [
            Verdict("nothing", "No difference is larger than noise: no branch is better or worse than its reference.")
        ]
    found = [Verdict(e.label, _sentence(e)) for e in sorted(real, key=lambda e: -abs(e.difference))]
    if not any(e.metric == "macro_f1" and e.label == BETTER for e in real):
        found.append(Verdict("nothing", "No branch is better over all classes (macro-F1) by more than noise."))
    return found


def _sentence(effect: Effect) -> str:
    what = _NAMES[effect.metric] if effect.target == ALL else f"F1 of {effect.target}"
    return (
        f"{effect.branch}: {what} {100 * effect.reference:.1f} → {100 * effect.value:.1f} ({_points(effect.difference)}, "
        f"{interval(effect)})"
    )


def interval(effect: Effect) -> str:
    """The interval in words, or why there is none."""
    if math.isnan(effect.low):
        return f"{counted(effect.images or 0, 'validation image')}, too few for an interval"
    return f"95 % interval {_points(effect.low)} … {_points(effect.high)}"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def heat(comparison: Comparison, branches: Sequence[str]) -> Heat:
    """One table (branch × class) for each metric. The strength of a cell's colour is relative to the largest difference of
    the table."""
    classes = largest(comparison, MOST_CLASSES)
    tables = {metric: _table(comparison, branches, classes, metric) for metric in ("f1", "recall", "precision")}
    heads = [(c, counted(n, "image") if (n := comparison.counts[c]) else NO_IMAGES) for c in classes]
    return Heat([*heads, ("macro-F1", "all"), ("accuracy", "all")], tables, _NAMES)


def _table(comparison: Comparison, branches: Sequence[str], classes: Sequence[str], metric: str) -> list[HeatLine]:
    targets = [*((c, metric) for c in classes), (ALL, "macro_f1"), (ALL, "accuracy")]
    rows = {name: [comparison.of(name, target, m) for target, m in targets] for name in branches}
    sizes = [abs(e.difference) for row in rows.values() for e in row if not math.isnan(e.difference)]
    most = max(sizes, default=0.0) or 1.0
    return [HeatLine(name, [HeatCell(e, abs(e.difference) / most) for e in row]) for name, row in rows.items()]


def omitted(comparison: Comparison) -> list[str]:
    """Says how many classes the tables leave out."""
    more = len(comparison.classes) - MOST_CLASSES
    text = f"The tables show the {MOST_CLASSES} classes with the largest changes; effects.csv has the {more:,} others, too."
    return [text] if more > 0 else []
