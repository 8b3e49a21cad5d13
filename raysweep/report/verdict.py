"""The verdict of a comparison in sentences: what was learned, what only moved a threshold, and what is not shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raysweep._text import counted, join_names
from raysweep.data.reading import ON_TEST
from raysweep.label_sets import MAP
from raysweep.report import effects, leaks, needed
from raysweep.report.comparison import Comparison
from raysweep.report.effects import ALL, LEARNED, ONE_SEED, Effect
from raysweep.report.findings.findings import LEARNING_NOT_SHOWN, SAME_AS_MOVING
from raysweep.report.leaks import HIDDEN, LOST, MADE, TURNED, Change, WithoutLeaks

Changes = Mapping[tuple[str, str, str], Change]  # (branch, class, metric) → how the label changes without leaked images

_MOST_NAMES = 5
_KINDS = {
    MADE: "They are the cause of what is shown of",
    LOST: "No longer shown with the images that are left:",
    HIDDEN: "Shown only without them:",
    TURNED: "The opposite is shown of",
}
NAMES = {
    "f1": "F1", "recall": "recall", "precision": "precision", "accuracy": "accuracy", "macro_f1": "macro-F1", "balanced_accuracy": "balanced accuracy",
    LEARNED: "at equal alarms", MAP: MAP,
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
    changed = leaks.changes(comparison.effects, comparison.leaks)
    overall = [e for e in comparison.effects if e.target == ALL and e.metric in comparison.overall]
    overall = [e for e in overall if e.shown or _key(e) in changed]
    found = [_overall(comparison, e, changed) for e in sorted(overall, key=lambda e: -abs(e.difference))]
    found += [_of_class(comparison, e, changed) for e in _classes(comparison, changed)]
    if not found:
        found = [Line("nothing", _nothing(comparison))]
    else:
        if text := _summary(comparison, changed):
            found.insert(0, Line("nothing", text))
        first = comparison.overall[0]
        if not any(_stands(e, changed) == effects.BETTER for e in overall if e.metric == first):
            text = f"No branch is shown to be better over all classes ({NAMES[first]}{_could(comparison)})."
            found.append(Line("nothing", text))
    found += _without_training(comparison)
    if comparison.leaks is not None:
        found.insert(0, Line("nothing", _of_leaks(comparison.leaks, changed)))
    if comparison.on_test:
        found.insert(0, Line("nothing", ON_TEST))
    if comparison.winner is not None and comparison.winner.gain > 0:
        w = comparison.winner
        found.append(
            Line(
                "nothing",
                f"Best by {NAMES[comparison.overall[0]]} is {w.branch}, {points(w.gain)} points; corrected for having been chosen among {w.among}: "
                f"{points(w.corrected)}.",
            )
        )
    return found


def _without_training(comparison: Comparison) -> list[Line]:
    """What the references get from offsets, where they help over all classes."""
    found = [comparison.of(name, ALL, comparison.offsets_for) for name in comparison.moved]
    return [
        Line(
            "nothing",
            f"Without training, {e.branch}: {NAMES[e.metric]} {100 * e.reference:.1f} → {100 * e.value:.1f} "
            f"({points(e.difference)}; {interval(e)}).",
        )
        for e in found
        if e.difference > 0
    ]


def _key(e: Effect) -> tuple[str, str, str]:
    return e.branch, e.target, e.metric


def _against(comparison: Comparison, branch: str) -> str:
    """The branch, and what it is compared with where that is not the sweep's control."""
    its = comparison.reference_of(branch)
    return branch if its == comparison.reference else f"{branch} (against {its})"


def _stands(e: Effect, changed: Changes) -> str:
    """``better`` or ``worse`` if the difference is shown with and without leaked images; else an empty text."""
    return "" if _key(e) in changed else e.shown


def _of_leaks(without: WithoutLeaks, changed: Changes) -> str:
    """``The verdict changes without the 40 validation images that are also in training (rare 40): …``"""
    most = sorted(without.images.items(), key=lambda item: -item[1])
    each = ", ".join(f"{c} {n:,}" for c, n in most[:_MOST_NAMES]) + (", …" if len(most) > _MOST_NAMES else "")
    other = f"; {without.other_class:,} of them under another class" if without.other_class else ""
    one = without.count == 1
    which = (
        f"without the {'' if one else f'{without.count:,} '}validation image{'' if one else 's'} that {'is' if one else 'are'} also in "
        f"training ({each}{other})"
    )
    if not changed:
        return f"The verdict is the same {which}."
    told = [
        f"{text} {_names(change for change in changed.values() if change.kind == kind)}"
        for kind, text in _KINDS.items()
        if any(change.kind == kind for change in changed.values())
    ]
    return f"The verdict changes {which}. {'. '.join(told)}."


def _names(changes: Iterable[Change]) -> str:
    """``rare (b), all classes (b)``"""
    each = [f"{'all classes' if c.whole.target == ALL else c.whole.target} ({c.whole.branch})" for c in changes]
    those = list(dict.fromkeys(each))
    more = len(those) - _MOST_NAMES
    return f"{', '.join(those[:_MOST_NAMES])}{f' and {more} more' if more > 0 else ''}"


def _without_leaks(comparison: Comparison, those: Sequence[Change]) -> str:
    """What differences are without the leaked images: `` Without the images that are also in training …``"""
    if not those or comparison.leaks is None:
        return ""
    first = those[0].whole
    seen = comparison.leaks.on_leaked.get((first.branch, first.target))
    alone = f"; on these images alone recall {points(seen)}" if seen is not None else ""
    each = ", ".join(f"{NAMES[c.whole.metric]} {points(c.clean.difference)} ({c.clean.label})" for c in those)
    cause = " They are the cause." if any(c.kind == MADE for c in those) else ""
    return f" Without the images that are also in training: {each}{alone}.{cause}"


def _summary(comparison: Comparison, changed: Changes) -> str:
    """One sentence about everything that was learned, where anything was tested; empty otherwise."""
    learned = [e for e in comparison.effects if e.metric == LEARNED and e.target != ALL]
    if all(math.isnan(e.p) for e in learned):
        return ""
    shown = sorted((e for e in learned if _stands(e, changed)), key=lambda e: -abs(e.difference))
    if shown:
        each = ", ".join(f"{e.target} {points(e.difference)} ({e.branch})" for e in shown[:_MOST_NAMES])
        return f"Learned: {each}{', …' if len(shown) > _MOST_NAMES else ''}."
    moved = {
        e.target for e in learned if e.label == SAME_AS_MOVING and comparison.of(e.branch, e.target, "recall").shown
    }
    only = f" Of {join_names(sorted(moved))} only the threshold moved." if moved else ""
    return f"Nothing is shown to be learned of any class.{only}"


def _classes(comparison: Comparison, changed: Changes) -> list[Effect]:
    """The recall of every class and branch of which anything was shown; what was learned first, then the largest."""
    shown: dict[tuple[str, str], bool] = {}
    for e in comparison.effects:
        if e.target != ALL and (e.shown or _key(e) in changed):
            shown[e.branch, e.target] = shown.get((e.branch, e.target), False) or e.metric == LEARNED
    rows = [comparison.of(branch, target, "recall") for branch, target in shown]
    return sorted(rows, key=lambda e: (not shown[e.branch, e.target], -abs(e.difference)))


def _overall(comparison: Comparison, e: Effect, changed: Changes) -> Line:
    text = (
        f"{_against(comparison, e.branch)}: {NAMES[e.metric]} {e.label}, {100 * e.reference:.1f} → {100 * e.value:.1f} "
        f"({points(e.difference)}; {interval(e)})."
    )
    those = [changed[_key(e)]] if _key(e) in changed else []
    return Line(_stands(e, changed) or "nothing", f"{text}{_without_leaks(comparison, those)}")


def _of_class(comparison: Comparison, recall: Effect, changed: Changes) -> Line:
    """``b: fear: recall +24.0 and predicted 1.60 × as often; the control gets +25.0 by moving its threshold; at equal alarms −1.0
    (95 % interval −3.0 … +1.0): learning not shown (from 2.9 points on it would be; two points take 7 seeds).``"""
    learned = comparison.of(recall.branch, recall.target, LEARNED)
    times = "" if recall.times is None or math.isnan(recall.times) else f" and predicted {recall.times:.2f} × as often"
    free = (
        ""
        if recall.free is None
        else f"; {comparison.reference_of(recall.branch)} gets {points(recall.free)} by moving its threshold"
    )
    even = "" if math.isnan(learned.difference) else f"; at equal alarms {points(learned.difference)}"
    reason = interval(learned)
    if even and reason != learned.label:  # a label that is itself the reason is said once, at the end
        even += f" ({reason})"
    could = needed.words(comparison, learned) if learned.label == LEARNING_NOT_SHOWN else ""
    label = f"{learned.label} ({could})" if could else learned.label
    text = f"{recall.branch}: {recall.target}: recall {points(recall.difference)}{times}{free}{even}: {label}."
    mine = [comparison.of(recall.branch, recall.target, metric) for metric in (*effects.METRICS, LEARNED)]
    those = [changed[_key(e)] for e in mine if _key(e) in changed]
    return Line(_stands(learned, changed) or "nothing", f"{text}{_without_leaks(comparison, those)}")


def _nothing(comparison: Comparison) -> str:
    if all(e.label in (ONE_SEED, effects.NOT_TESTED, effects.NO_IMAGES, "") for e in comparison.effects):
        return (
            "Nothing is called better or worse: every branch has one seed, and one seed cannot tell whether the ratio made the "
            "difference or luck."
        )
    could = _could(comparison).removeprefix(": ")
    could = f" In {NAMES[comparison.overall[0]]}, {could}." if could else ""
    return f"No difference is shown ({counted(comparison.tests, 'comparison')}).{could}"


def _could(comparison: Comparison) -> str:
    """``: from 1.1 points on it would be``, of the macro-F1, or mAP, of the branch that takes most. Empty where nothing was tested."""
    most = needed.hardest(e for e in comparison.effects if e.metric == comparison.overall[0])
    text = "" if most is None else needed.words(comparison, most)
    return f": {text}" if text else ""


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
