"""The verdict of a comparison in sentences: what was learned, what only moved a threshold, and what is not shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raysweep._text import counted, join_names
from raysweep.data.reading import ON_TEST
from raysweep.report import effects, moved, needed
from raysweep.report.comparison import Comparison
from raysweep.report.effects import ALL, LEARNED, ONE_SEED, Effect
from raysweep.report.findings.findings import LEARNING_NOT_SHOWN, SAME_AS_MOVING

_MOST_NAMES = 5
NAMES = {
    "f1": "F1", "recall": "recall", "precision": "precision", "accuracy": "accuracy", "macro_f1": "macro-F1",
    LEARNED: "at equal alarms",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A sentence. ``label`` is ``better``, ``worse`` or ``nothing``: how it is coloured."""

    label: str
    text: str


def lines(comparison: Comparison) -> list[Line]:
    """What was shown over all classes, then per class, what was learned first. Empty where nothing can be said, because there are no
    predictions."""
    if not comparison.pairs:
        return []
    overall = [e for e in comparison.effects if e.target == ALL and e.metric in effects.OVERALL and e.shown]
    found = [Line(e.shown, _overall(e)) for e in sorted(overall, key=lambda e: -abs(e.difference))]
    found += [_of_class(comparison, e) for e in _classes(comparison)]
    if not found:
        found = [Line("nothing", _nothing(comparison))]
    else:
        if text := _summary(comparison):
            found.insert(0, Line("nothing", text))
        if not any(e.metric == "macro_f1" and e.shown == effects.BETTER for e in overall):
            found.append(
                Line("nothing", f"No branch is shown to be better over all classes (macro-F1{_could(comparison)}).")
            )
    found += _without_training(comparison)
    if comparison.on_test:
        found.insert(0, Line("nothing", ON_TEST))
    if comparison.winner is not None and comparison.winner.gain > 0:
        w = comparison.winner
        found.append(
            Line(
                "nothing",
                f"Best by macro-F1 is {w.branch}, {points(w.gain)} points; corrected for having been chosen among {w.among}: "
                f"{points(w.corrected)}.",
            )
        )
    return found


def _without_training(comparison: Comparison) -> list[Line]:
    """What the reference gets from offsets, where they help over all classes."""
    if not comparison.offsets:
        return []
    e = comparison.of(comparison.offsets[0].branch, ALL, moved.DEFAULT)
    if not e.difference > 0:
        return []
    text = (
        f"Without training, {e.branch}: {NAMES[e.metric]} {100 * e.reference:.1f} → {100 * e.value:.1f} "
        f"({points(e.difference)}; {interval(e)})."
    )
    return [Line("nothing", text)]


def _summary(comparison: Comparison) -> str:
    """One sentence about everything that was learned, where anything was tested; empty otherwise."""
    learned = [e for e in comparison.effects if e.metric == LEARNED and e.target != ALL]
    if all(math.isnan(e.p) for e in learned):
        return ""
    shown = sorted((e for e in learned if e.shown), key=lambda e: -abs(e.difference))
    if shown:
        each = ", ".join(f"{e.target} {points(e.difference)} ({e.branch})" for e in shown[:_MOST_NAMES])
        return f"Learned: {each}{', …' if len(shown) > _MOST_NAMES else ''}."
    moved = {
        e.target for e in learned if e.label == SAME_AS_MOVING and comparison.of(e.branch, e.target, "recall").shown
    }
    only = f" Of {join_names(sorted(moved))} only the threshold moved." if moved else ""
    return f"Nothing is shown to be learned of any class.{only}"


def _classes(comparison: Comparison) -> list[Effect]:
    """The recall of every class and branch of which anything was shown; what was learned first, then the largest."""
    shown: dict[tuple[str, str], bool] = {}
    for e in comparison.effects:
        if e.target != ALL and e.shown:
            shown[e.branch, e.target] = shown.get((e.branch, e.target), False) or e.metric == LEARNED
    rows = [comparison.of(branch, target, "recall") for branch, target in shown]
    return sorted(rows, key=lambda e: (not shown[e.branch, e.target], -abs(e.difference)))


def _overall(e: Effect) -> str:
    return (
        f"{e.branch}: {NAMES[e.metric]} {e.label}, {100 * e.reference:.1f} → {100 * e.value:.1f} "
        f"({points(e.difference)}; {interval(e)})."
    )


def _of_class(comparison: Comparison, recall: Effect) -> Line:
    """``b: fear: recall +24.0 and predicted 1.60 × as often; the control gets +25.0 by moving its threshold; at equal alarms −1.0
    (95 % interval −3.0 … +1.0): learning not shown (from 2.9 points on it would be; two points take 7 seeds).``"""
    learned = comparison.of(recall.branch, recall.target, LEARNED)
    times = "" if recall.times is None or math.isnan(recall.times) else f" and predicted {recall.times:.2f} × as often"
    free = "" if recall.free is None else f"; {comparison.reference} gets {points(recall.free)} by moving its threshold"
    even = "" if math.isnan(learned.difference) else f"; at equal alarms {points(learned.difference)}"
    reason = interval(learned)
    if even and reason != learned.label:  # a label that is itself the reason is said once, at the end
        even += f" ({reason})"
    could = needed.words(comparison, learned) if learned.label == LEARNING_NOT_SHOWN else ""
    label = f"{learned.label} ({could})" if could else learned.label
    text = f"{recall.branch}: {recall.target}: recall {points(recall.difference)}{times}{free}{even}: {label}."
    return Line(learned.shown or "nothing", text)


def _nothing(comparison: Comparison) -> str:
    if all(e.label in (ONE_SEED, effects.NOT_TESTED, effects.NO_IMAGES, "") for e in comparison.effects):
        return (
            "Nothing is called better or worse: every branch has one seed, and one seed cannot tell whether the ratio made the "
            "difference or luck."
        )
    could = _could(comparison).removeprefix(": ")
    could = f" In macro-F1, {could}." if could else ""
    return f"No difference is shown ({counted(comparison.tests, 'comparison')}).{could}"


def _could(comparison: Comparison) -> str:
    """``: from 1.1 points on it would be``, of the steadiest branch's macro-F1. Empty where nothing was tested."""
    tested = [e for e in comparison.effects if e.metric == "macro_f1" and not math.isnan(e.smallest)]
    if not tested:
        return ""
    return f": {needed.words(comparison, min(tested, key=lambda e: e.smallest))}"


def interval(effect: Effect) -> str:
    """The interval in words, or why there is none."""
    if not math.isnan(effect.low):
        return f"95 % interval {points(effect.low)} … {points(effect.high)}"
    if effect.images is not None and effect.images < effects.FEWEST:
        return f"{counted(effect.images, 'validation image')}, too few for an interval"
    return "no interval" if effect.label == ONE_SEED else effect.label or "no interval"


def points(value: float) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * value:+.1f}"


def sentences(comparison: Comparison, most: int) -> tuple[Sequence[Line], int]:
    """(the first lines of the verdict, how many more there are)."""
    every = lines(comparison)
    return every[:most], max(0, len(every) - most)
