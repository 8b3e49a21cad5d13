"""The page of a hunt: what was tried, what it cost, what was learned, and how to make the winner again. As Markdown and as HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raysweep._text import counted, join_names, plain
from raysweep.config.grid import CONTROL
from raysweep.report import templates
from raysweep.report.effects import ALL, LEARNED, Effect
from raysweep.report.findings.sequential import LEVEL, OF_ROUNDS, OF_THE_END
from raysweep.report.verdict import NAMES, points
from raysweep.store.evaluations import ordinal
from raysweep.store.hunts import WINNER, HuntRecord, HuntRound

BEGAN, WITH_OFFSETS = "began", "control + offsets"
ROWS = {
    BEGAN: "the checkpoint that it began with",
    CONTROL: "control chain",
    WITH_OFFSETS: "control chain + offsets, no training",
    WINNER: "winner's recipe",
}
SHOWN = ("accuracy", "macro_f1", "balanced_accuracy")


@dataclass(frozen=True)
class Part:
    """A section: sentences, then a table, then commands."""

    title: str
    lines: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    title: str
    verdict: Sequence[str]
    parts: Sequence[Part]

    def markdown(self) -> str:
        text = [f"# {plain(self.title)}", *map(plain, self.verdict)]
        for part in self.parts:
            text += [f"## {part.title}", *map(plain, part.lines)]
            if part.rows:
                rows = [part.columns, ["---"] * len(part.columns), *part.rows]
                text.append("\n".join(f"| {' | '.join(_cell(c) for c in row)} |" for row in rows))
            if part.commands:
                text.append("\n".join(["```", *map(plain, part.commands), "```"]))
        return "\n\n".join(text) + "\n"

    def html(self) -> str:
        return templates.render("hunt.html", page=self)


def _cell(text: str) -> str:
    return plain(text).replace("|", "\\|")


@dataclass(frozen=True)
class RoundFacts:
    """What came out of a round: its trainings, what its race has shown, and class → share of the images that the survivor and its
    parent show."""

    of: HuntRound
    trainings: int
    shown: Sequence[str]
    failed: int = 0


@dataclass(frozen=True)
class Facts:
    """What the page says. ``effects``: winner − control on the images of the look, with new seeds. ``free``: what the control gets from
    moved thresholds. ``images``: shown in all. ``commands``: that make the winner again."""

    record: HuntRecord
    rounds: Sequence[RoundFacts]
    trainings: int
    images: int
    hours: float
    effects: Sequence[Effect] = ()
    free: Effect | None = None
    shares: Sequence[tuple[str, Mapping[str, float]]] = ()  # round, class → share of the survivor
    commands: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=list)
    validation: Mapping[str, float] = field(
        default_factory=dict
    )  # network → the hunt's metric on the validation images


def page(facts: Facts) -> Page:
    """The page of a hunt that has ended."""
    parts = [
        _networks(facts),
        _tried(facts),
        _cost(facts),
        _learned(facts),
        _for_nothing(facts),
        _chain(facts),
        _again(facts),
    ]
    if notes := [*_looks(facts.record), *facts.notes]:
        parts.append(Part("Notes", notes))
    return Page(f"Hunt {facts.record.id}", verdict(facts), parts)


def _looks(record: HuntRecord) -> list[str]:
    """What is to be said where somebody, or this hunt before a kill, has looked at the test images before."""
    number = record.end.get("look") or 1
    if number == 1:
        return []
    return [
        f"This was the {ordinal(number)} look at these test images. Whoever looks several times finds something by chance more often than the "
        "p-value says."
    ]


def verdict(facts: Facts) -> list[str]:
    """What may be said, in sentences."""
    record, end = facts.record, facts.record.end
    metric = _metric(record)
    if not end.get("evaluation"):
        return [
            f"Nothing was found: after {counted(len(facts.rounds), 'round')} the control was still expected to be the best. There is no winner, so "
            "nobody looked at the test images."
        ]
    seeds = len(record.seeds)
    where = "sealed test images" if end.get("sealed") else "validation images, on which it was also chosen"
    gain = f"{points(end['gain'])} points of {metric} (95 % interval {points(end['low'])} … {points(end['high'])})"
    text = (
        f"The winner's recipe, trained again with {counted(seeds, 'new seed')}, has {gain} over the control chain of equal length with as many, on "
        f"{counted(int(end['images']), 'image')}: {where}."
    )
    level = f"p = {end['p']:.2g}, and {OF_THE_END:g} is enough" if end.get("p") is not None else "it was not tested"
    word = "Found: it is better." if end.get("found") else "Not shown to be better."
    return [f"{word} {text} ({level}.)", *_beyond(end.get("moved"), metric)]


def _beyond(moved: Mapping[str, Any] | None, metric: str) -> list[str]:
    """What the control chain gets without any training, and what the winner has beyond that."""
    if moved is None:
        return []
    low, high = moved["low"], moved["high"]
    interval = "" if low is None or math.isnan(low) else f" (95 % interval {points(low)} … {points(high)})"
    label = f": {moved['label']}" if moved["label"] else ""
    return [
        f"Moved thresholds alone give the control chain {points(moved['gain'])} points of {metric} there, without any training. The winner has "
        f"{points(moved['beyond'])} beyond that{interval}{label}."
    ]


def _metric(record: HuntRecord) -> str:
    return NAMES[record.select]


def _networks(facts: Facts) -> Part:
    """How good the networks are, from the first to the last."""
    overall: Mapping[str, Mapping[str, float]] = facts.record.end.get("overall") or {}
    on_validation = dict(facts.validation)
    if facts.free is not None:
        on_validation[WITH_OFFSETS] = facts.free.value
    where = "test images" if facts.record.end.get("sealed") else "images of the look"
    rows = [
        [
            ROWS[name],
            f"{on_validation[name]:.1%}" if name in on_validation else "",
            *(f"{overall[name][m]:.1%}" if name in overall else "" for m in (SHOWN if overall else ())),
        ]
        for name in ROWS
        if name in on_validation or name in overall
    ]
    seeds = len(facts.record.seeds)
    line = f"Means of {counted(seeds, 'new seed')}, except of the checkpoint." if seeds else "One network each."
    columns = [
        "network",
        f"{_metric(facts.record)}, validation",
        *(f"{NAMES[m]}, {where}" for m in (SHOWN if overall else ())),
    ]
    return Part("The networks", [line], columns, rows)


def _tried(facts: Facts) -> Part:
    rows = [
        [
            str(r.of.number),
            r.of.start,
            str(len(r.of.treatments)),
            str(r.trainings),
            join_names(r.shown) if r.shown else "none",
            str(r.of.survivor),
            "" if r.of.gain is None else points(r.of.gain),
        ]
        for r in facts.rounds
    ]
    lines = [
        f"From {facts.record.parent.reference}, {counted(facts.record.epochs, 'epoch')} a round. Every round is an ordinary sweep, a race: one seed of "
        "every branch, and more where they decide something.",
        f"At most {LEVEL:.0%} of hunts among equal treatments find anything: {OF_ROUNDS:.0%} are spent on the rounds, {OF_THE_END:.0%} on the end.",
    ]
    failed = sum(r.failed for r in facts.rounds)
    if failed:
        lines.append(f"{counted(failed, 'training')} failed; the sweeps say why.")
    columns = ["round", "from", "branches", "trainings", "shown to be better", "goes on", "points expected of it"]
    return Part("What was tried", lines, columns, rows)


def _cost(facts: Facts) -> Part:
    budget = facts.record.budget
    amount = float(budget["amount"])
    asked = f"{amount:g} hours" if budget["kind"] == "hours" else f"{amount:,.0f} {budget['kind']}"
    spent = {"hours": facts.hours, "images": float(facts.images), "branches": float(facts.trainings)}[
        str(budget["kind"])
    ]
    line = (
        f"{counted(facts.trainings, 'training')}, {counted(facts.images, 'image')} shown, {facts.hours:.2g} hours of work. The budget was {asked}; "
        f"{spent / amount:.0%} of it was spent."
    )
    return Part("What it cost", [line])


def _learned(facts: Facts) -> Part:
    rows = [
        [
            e.target,
            points(of["recall"].difference),
            "" if of["recall"].times is None or math.isnan(of["recall"].times) else f"{of['recall'].times:.2f} ×",
            "" if of["recall"].free is None else points(of["recall"].free),
            points(e.difference),
            e.finding.label,
        ]
        for e in facts.effects
        if e.metric == LEARNED and e.target != ALL
        for of in [{o.metric: o for o in facts.effects if o.target == e.target}]
    ]
    if not rows:
        return Part("What was learned", ["There is no winner, so nothing is compared."])
    line = (
        "Winner − control with new seeds. At equal alarms both predict every class as often as it occurs: what is left there was learned, all else is "
        "a moved threshold. (The labels are those of one comparison over all classes.)"
    )
    columns = ["class", "recall", "predicted", "free: by a moved threshold", "learned: at equal alarms", ""]
    return Part("What was learned", [line], columns, rows)


def _for_nothing(facts: Facts) -> Part:
    title = "What a moved threshold gives for nothing"
    if facts.free is None:
        return Part(title, ["It was not computed: there are too many classes and images, or no predictions."])
    e = facts.free
    line = (
        f"The control chain, with offsets fitted for {NAMES[e.metric]} and without any training: {100 * e.reference:.1f} → {100 * e.value:.1f} "
        f"({points(e.difference)} points), cross-fitted within the validation images."
    )
    return Part(title, [line])


def _chain(facts: Facts) -> Part:
    classes = list(facts.shares[0][1]) if facts.shares else []
    rows = [[name, *(f"{share[c]:.1%}" for c in classes)] for name, share in facts.shares]
    lines = [f"Round {r.of.number}: {_does(r.of)}" for r in facts.rounds]
    return Part("The winner's chain of ratios", lines, ["images shown", *classes], rows)


def _does(of_round: HuntRound) -> str:
    if of_round.survivor in (None, CONTROL):
        return "goes on unchanged."
    own: Mapping[str, Any] = of_round.treatments[str(of_round.survivor)]
    weights = own["weights"] if isinstance(own["weights"], str) else _pairs(own["weights"])
    told = [f"weights {weights}" if weights else "", _pairs(own["shares"], "shares "), _pairs(own["settings"])]
    return f"{'; '.join(t for t in told if t)}."


def _pairs(values: Mapping[str, Any], before: str = "") -> str:
    if not values:
        return ""
    each = (f"{k}={v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)}" for k, v in values.items())
    return before + ", ".join(each)


def _again(facts: Facts) -> Part:
    title = "The winner again, without the search"
    if not facts.commands:
        return Part(title, ["There is no winner."])
    same = facts.record.end.get("same_bits")
    line = {
        True: "These commands were carried out at the end of the hunt, and gave the same network, bit for bit.",
        False: "These commands were carried out at the end of the hunt, and did NOT give the same bits: where the trainings ran differs "
        "(threads, device or machine), as their logs say.",
    }[bool(same)]
    return Part(title, [line], commands=facts.commands)
