"""Suggest the grid of the next sweep from the measured effects of this one: which classes to show more or less often, which settings
to keep, and why. Before that it says what the control gets without any training, by offsets on its log probabilities.

The effects of weights and settings are those of :mod:`raysweep.report.main_effects`. One seed gives no advice but more seeds.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from raysweep._text import counted, join_names, json_text, plain
from raysweep.config import cells
from raysweep.config import grid as grids
from raysweep.errors import InputError
from raysweep.label_sets import not_built
from raysweep.report import commands, effects, evaluated, main_effects
from raysweep.report import comparison as comparing
from raysweep.report.comparison import Comparison
from raysweep.report.effects import Effect
from raysweep.report.main_effects import Level, MainEffects, SettingLevel
from raysweep.store.commands import command
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep

MAX_BRANCHES = 24  # per seed, without the control
_FURTHER = 2.0  # the factor to the next level where only one was tried
_MOST_STEP = 2.0  # the largest factor beyond what was tried
MOST_CLASSES = 4  # in a grid: two weights each are 16 points
_GIVE_BACK = (1.25, 1.5)  # factors for the weight of a class that became worse while others became better


@dataclass(frozen=True)
class Choice:
    """The weights of one class that the next sweep tries; none if the parent's weight is kept."""

    target: str
    weights: list[float]
    why: str
    sure: bool = True  # False if it is based on an effect that is not shown
    now: float | None = None  # the parent's weight


@dataclass(frozen=True)
class Apart:
    """A branch that changes one class only, because the last sweep did not tell its effect from those of others."""

    name: str
    target: str
    weight: float


@dataclass(frozen=True)
class Suggestion:
    """The grid of the next sweep, with a reason for every class that was varied."""

    root: Root
    sweep: str
    parent: str  # checkpoint reference
    metric: str
    epochs: int | None
    seeds: list[int]
    choices: list[Choice]
    notes: list[str] = field(default_factory=list)
    apart: list[Apart] = field(default_factory=list)
    free: Effect | None = None  # what the control gets from offsets, in the metric
    settings: Mapping[str, list[Any]] = field(default_factory=dict)  # of all branches, each with its one value
    again: Sequence[SettingLevel] = ()  # settings to be tried once more

    @property
    def weights(self) -> dict[str, list[float]]:
        return {c.target: c.weights for c in self.choices if c.weights}

    @property
    def branches(self) -> list[dict[str, Any]]:
        """The branches beside the combinations of weights."""
        alone = [{"name": a.name, "weights": {a.target: a.weight}} for a in self.apart]
        return [*alone, *({"name": cells.describe(a.settings), "settings": dict(a.settings)} for a in self.again)]


def suggest(sweep: Sweep, metric: str = "macro_f1") -> Suggestion:
    """The grid to try next.

    Args:
        metric: the metric to improve: ``macro_f1`` or ``accuracy``.

    Raises:
        InputError: there is no finished control to measure effects from, or nothing was varied.
    """
    found = comparing.of_sweep(sweep, metric)
    if found.several:
        raise not_built(
            "`raysweep suggest`", "Write the next grid by hand; `raysweep compare` says what each weight did."
        )
    if evaluated.NO_CONTROL in found.notes:
        raise InputError(
            f"{sweep.id} has no finished control, so the effect of its weights cannot be separated from the effect of longer "
            "training. Run a sweep with `control: true`, or finish this one: "
            f"`{command(sweep.root, 'continue', sweep.id)}`."
        )
    record = sweep.record()
    before = record.parent_weights
    main = main_effects.estimate(found, metric)
    levels, mixed = main.classes, [c for c in main.mixed if c in main.classes]
    if not levels and not main.settings:
        raise InputError(
            f"{sweep.id} varied neither a class's weight nor a setting, so no next grid can be derived from it. Give a sweep whose grid "
            "has `weights` or `settings`."
        )
    if sum(found.counts.values()) < effects.FEWEST:
        raise InputError(
            f"{sweep.id} was validated on {counted(sum(found.counts.values()), 'image')}, too few to measure any effect. Run the "
            f"sweep with at least {effects.FEWEST} validation images, better hundreds."
        )
    name = {"macro_f1": "macro-F1", "accuracy": "accuracy"}[metric]
    gains = _gains(found, metric)
    choices = [_next(target, before.get(target, 1.0), tried, name) for target, tried in levels.items()]
    free, notes = _without_training(sweep.root, found, metric, name)
    choices += _given_back(found, max(gains, key=gains.__getitem__), before, set(levels))
    choices = [replace(c, now=before.get(c.target, 1.0)) for c in choices]
    kept, again = _settings(main, name, notes)
    seeds = sorted({b.seed for b in record.branches if b.seed is not None})
    if not kept and not any(c.weights and c.sure for c in choices):
        choices, seeds = _again(choices, levels, name), _more_seeds(seeds)
        notes.append(f"No ratio is shown to change the {name}. With more seeds, smaller differences can be shown.")
    elif len(seeds) < 2:
        seeds = _more_seeds(seeds)
        notes.append("The sweep had one seed. Three seeds measure how much a difference depends on the seed.")
    choices, apart = _separating(choices, mixed, levels, notes)
    choices = [_with_images(c, found.counts.get(c.target, 0)) for c in choices]
    reference = commands.reference(sweep.root, record.parent) if record.parent else "PARENT@latest"
    if not kept and not again and not apart and not any(c.weights for c in choices):
        again = [max((tried for every in main.settings.values() for tried in every), key=lambda tried: tried.effect)]
    return Suggestion(
        sweep.root, sweep.id, reference, metric, record.epochs, seeds, choices, notes, apart, free, kept, again
    )


def _settings(main: MainEffects, name: str, notes: list[str]) -> tuple[dict[str, list[Any]], list[SettingLevel]]:
    """(the settings of the next sweep, each with its one value; what it tries again beside them). Notes say why."""
    kept: dict[str, list[Any]] = {}
    again: list[SettingLevel] = []
    for tried in main.settings.values():
        best = max(tried, key=lambda level: level.effect)
        text = f"{plain(best.name)} changed the {name} by {_points(best)}"
        if best.real and best.effect > 0:
            notes.append(f"{text}: the next sweep has it.")
            if set(best.settings) & set(cells.RATIO):  # no setting of a cell: it takes the place of weights
                again.append(best)
            else:
                kept |= {k: [v] for k, v in best.settings.items()}
        elif best.effect > best.error:  # more likely than not, but not shown
            notes.append(f"{text}, which is not shown: try it once more.")
            again.append(best)
        else:
            notes.append(f"{text}: keep what the control has.")
    return kept, again


def _gains(found: Comparison, metric: str) -> dict[str, float]:
    """Branch → its difference from the control of the sweep."""
    assert found.findings is not None, "a sweep with a control has predictions"
    values = found.findings.gains[metric].values.tolist()
    return {b.name: gain for b, gain in zip(found.branches, values, strict=True)}


def _without_training(root: Root, found: Comparison, metric: str, name: str) -> tuple[Effect | None, list[str]]:
    """(what the control gets from offsets that are fitted for the metric; the same in words). Nothing where they were not searched."""
    if not found.offsets:
        return None, []
    free = found.of(found.offsets[0].branch, effects.ALL, metric)
    gains = _gains(found, metric)
    best = max(gains, key=gains.__getitem__)
    gain = f"{100 * free.difference:+.1f} points (95 % interval {100 * free.low:+.1f} … {100 * free.high:+.1f})"
    images = counted(sum(found.counts.values()), "validation image")
    if not free.difference > 0:
        return free, [
            f"Without training nothing is gained: with moved thresholds the control has {gain} {name}, on {images}."
        ]
    one = next((b for b in found.branches if not b.reference), found.branches[0])
    export = command(root, "export", f"{one.references[0]}@{one.epoch}", "--to", "onnx", "--adjust", metric)
    return free, [
        f"Without training: offsets give the control {gain} {name}, cross-fitted within {images}; the best branch, "
        f"{plain(best)}, has {100 * gains[best]:+.1f}. `{export}` writes them into the model."
    ]


def _with_images(choice: Choice, images: int) -> Choice:
    """The choice, whose reason says so if the class has too few validation images to see an effect in."""
    if images >= effects.FEWEST:
        return choice
    few = counted(images, "validation image") if images else effects.NO_IMAGES
    return replace(choice, why=f"{choice.why} (with {few} its own effect cannot be measured)")


def _separating(
    choices: Sequence[Choice], mixed: Sequence[str], levels: Mapping[str, Sequence[Level]], notes: list[str]
) -> tuple[list[Choice], list[Apart]]:
    """(the choices of a grid that determines the effect of every class that it varies; its other branches). It has at most MAX_BRANCHES
    points.

    Every combination of the lists becomes a branch. So the parent's weight is added to a list wherever the class would always
    be varied together with others, and of many classes some are left for later. A class that the last sweep mixed with others,
    and that no list varies, gets branches of its own. Notes say so.
    """
    varied = [c.target for c in sorted(choices, key=lambda c: not c.sure) if c.weights]
    later = set(varied[MOST_CLASSES:])
    chosen = [
        replace(c, weights=[], why=f"{c.why}; left for a later sweep, so that this one can tell the classes apart")
        if c.target in later
        else c
        for c in choices
    ]
    for target in _together(chosen):
        at = next(i for i, c in enumerate(chosen) if c.target == target)
        if target in _together(chosen):  # another one may have separated it
            now = chosen[at].now or 0.0
            why = f"{chosen[at].why}; {now:g} is tried, too, which separates its effect from those of the others"
            chosen[at] = replace(chosen[at], weights=sorted({*chosen[at].weights, now}), why=why)
    alone = [(c, level.weight) for c in mixed if c not in _varied(chosen) for level in levels[c]]
    apart = alone[: MAX_BRANCHES - 1]
    chosen = _few(chosen, notes, MAX_BRANCHES - len(apart))
    if mixed:
        left = {c for c, _ in alone[len(apart) :]} | (set(mixed) - _varied(chosen) - {c for c, _ in apart})
        text = f"{join_names(mixed)} were always varied together, so their joint effect is divided among them."
        text += " This grid separates their effects."
        if left:
            text += f" Only those of {join_names(sorted(left))} not yet: that would take too many branches."
        notes.append(text)
    return chosen, [Apart(f"alone{i}", c, w) for i, (c, w) in enumerate(apart, 1)]


def _varied(choices: Sequence[Choice]) -> set[str]:
    """The classes of which the grid tries another weight than the parent's."""
    return {c.target for c in choices if any(w != c.now for w in c.weights)}


def _together(choices: Sequence[Choice]) -> list[str]:
    """The classes whose own effect the grid of these choices, with its control, does not determine."""
    lists = [(c.target, c.now, c.weights) for c in choices if any(w != c.now for w in c.weights)]
    keys = [(target, w) for target, now, weights in lists for w in weights if w != now]
    points = list(itertools.product(*(weights for _, _, weights in lists)))
    design = np.array(
        [[float(point[i] == w) for i, (_, now, ws) in enumerate(lists) for w in ws if w != now] for point in points]
    )
    if not keys:
        return []
    owners = np.array([target for target, _ in keys], dtype=object)
    rank = np.linalg.matrix_rank
    whole = rank(design)
    return [
        target
        for target, now, weights in lists
        if whole - rank(design[:, owners != target]) < sum(w != now for w in weights)
    ]


def _more_seeds(seeds: Sequence[int]) -> list[int]:
    """Twice as many seeds, at least three."""
    first = seeds[0] if seeds else 0
    return list(range(first, first + max(3, 2 * len(seeds))))


def _next(target: str, now: float, tried: Sequence[Level], name: str) -> Choice:
    """What to try next of one class.

    Args:
        now: the parent's weight of the class.
        name: the metric in words.
    """
    best = max(tried, key=lambda level: level.effect)
    worst = min(tried, key=lambda level: level.effect)
    if best.real and best.effect > 0:
        return _around(target, now, tried, best, name)
    if best.effect > best.error:  # more likely than not, but not shown
        why = f"{_measured(best, name)}, which is not shown: try it once more"
        return Choice(target, sorted({now, best.weight}), why, sure=False)
    if worst.real and worst.effect < 0:
        if now > 0 and all(level.weight > now and level.effect < 0 for level in tried):
            why = f"{_measured(worst, name)}, so {plain(target)} may need fewer images than now"
            return Choice(target, sorted({*_rounded([now / 1.5]), now}), why)
        return Choice(target, [], f"{_measured(worst, name)}: keep {now:g}")
    return Choice(
        target,
        [],
        f"none of the weights that were tried ({_list(tried)}) has an effect that is shown: keep {now:g}",
    )


def _around(target: str, now: float, tried: Sequence[Level], best: Level, name: str) -> Choice:
    """Closer to the best weight if weights on both sides of it were tried, otherwise further in its direction."""
    weights = sorted({*(level.weight for level in tried), now})
    at = weights.index(best.weight)
    if 0 < at < len(weights) - 1:
        around = [math.sqrt(weights[at - 1] * best.weight), math.sqrt(best.weight * weights[at + 1])]
        why = f"{_measured(best, name)}, more than its neighbours: try weights close to it"
        return Choice(target, sorted({*_rounded(around), best.weight}), why)
    near = weights[1] if at == 0 else weights[-2]
    step = best.weight / near if near > 0 and best.weight > 0 else 0.5
    if len(tried) == 1:
        step = _FURTHER if step > 1 else 1 / _FURTHER
    step = min(max(step, 1 / _MOST_STEP), _MOST_STEP)
    way = "higher" if best.weight > now else "lower"
    why = f"{_measured(best, name)}, and nothing {way} was tried"
    return Choice(target, sorted({best.weight, *_rounded([best.weight * step])}), why)


def _measured(level: Level, name: str) -> str:
    return f"weight {level.weight:g} changed the {name} by {_points(level)}"


def _points(level: Level | SettingLevel) -> str:
    """``+1.2 ± 0.8 points``, with half of the 95 % interval where it is known."""
    half = "" if math.isnan(level.half) else f" ± {100 * level.half:.1f}"
    return f"{100 * level.effect:+.1f}{half} points"


def _given_back(found: Comparison, branch: str, before: Mapping[str, float], varied: set[str]) -> list[Choice]:
    """Classes that became worse in the best branch and were not varied themselves: show them more often."""
    choices = []
    for target in found.classes:
        effect = found.of(branch, target, "f1")
        if target not in varied and effect.shown == effects.WORSE:
            now = before.get(target, 1.0)
            why = (
                f"its F1 fell by {-100 * effect.difference:.1f} points (95 % interval {100 * effect.low:+.1f} … "
                f"{100 * effect.high:+.1f}) in {plain(branch)}: showing it more often may restore it"
            )
            tries = [now, *_rounded([now * f for f in _GIVE_BACK])] if now > 0 else [0.0, 0.5, 1.0]
            choices.append(Choice(target, sorted(set(tries)), why))
    return choices


def _again(choices: Sequence[Choice], levels: Mapping[str, Sequence[Level]], name: str) -> list[Choice]:
    """Where no effect is shown: the best level of each class again; if every class got worse, only the best
    level of all."""
    best = {target: max(tried, key=lambda level: level.effect) for target, tried in levels.items()}
    promising = [target for target, level in best.items() if level.effect > 0]
    chosen = promising or sorted(best, key=lambda target: best[target].effect)[-1:]
    again = []
    for choice in choices:
        if choice.target not in best:
            again.append(choice)
            continue
        level = best[choice.target]
        why = f"{_measured(level, name)}, which is not shown: "
        if choice.target in chosen:
            again.append(replace(choice, weights=[level.weight], why=f"{why}try it again with more seeds"))
        else:
            again.append(replace(choice, weights=[], why=f"{why}keep {choice.now or 0.0:g}"))
    return again


def _few(choices: list[Choice], notes: list[str], most: int = MAX_BRANCHES) -> list[Choice]:
    """Limit the grid to so many points by removing the last values of the longest lists, but never the parent's weight,
    by which classes are told apart. A note says so."""
    few, shortened = list(choices), False
    while math.prod(max(1, len(c.weights)) for c in few) > most:
        at = max(range(len(few)), key=lambda i: len(few[i].weights))
        weights, now = few[at].weights, few[at].now
        gone = weights[-1] if weights[-1] != now else weights[-2]
        few[at] = replace(few[at], weights=[w for w in weights if w != gone])
        shortened = True
    if shortened:
        notes.append(f"Some values are omitted, so that there are at most {MAX_BRANCHES} branches per seed.")
    return few


def _rounded(values: Sequence[float]) -> list[float]:
    return sorted({float(f"{v:.3g}") for v in values})


def _list(tried: Sequence[Level]) -> str:
    return ", ".join(f"{level.weight:g}" for level in tried)


def as_yaml(found: Suggestion) -> str:
    """The suggestion as a grid file for ``raysweep branch``, with the reasons as comments. The text is read back and checked."""
    again = command(found.root, "branch", "--from", found.parent, "--weights-grid", "THIS_FILE")
    lines = [f"# After {plain(found.sweep)}: {plain(again)}"]
    lines += [f"# {plain(note)}" for note in found.notes]
    if found.epochs:
        lines.append(f"epochs: {found.epochs}")
    lines += ["control: true", f"seeds: {json.dumps(found.seeds)}"]
    if found.settings:
        lines += ["settings:", *(f"  {json_text(k)}: {json.dumps(v)}" for k, v in found.settings.items())]
    lines += ["weights:"] if found.choices else []
    for choice in found.choices:
        key = json_text(choice.target)  # valid YAML, too
        lines.append(f"  # {plain(choice.target)}: {plain(choice.why)}")
        if choice.weights:
            lines.append(f"  {key}: {json.dumps(choice.weights)}")
    lines += ["branches:  # each changes one thing only"] if found.branches else []
    lines += [f"  - {json.dumps(branch, ensure_ascii=False)}" for branch in found.branches]
    text = "\n".join(lines) + "\n"
    from raysweep.config import yaml as yaml_file

    read, _ = yaml_file.parse_lines(text, "the suggested grid")
    grids.check(read, "the suggested grid")
    assert set(read.get("weights") or {}) == set(found.weights)
    assert read.get("branches", []) == found.branches
    return text


def as_data(found: Suggestion) -> dict[str, Any]:
    """The suggestion as plain values, for JSON."""
    return {
        "sweep": found.sweep,
        "from": found.parent,
        "metric": found.metric,
        "grid": {"epochs": found.epochs, "control": True, "seeds": found.seeds, "weights": found.weights}
        | ({"settings": dict(found.settings)} if found.settings else {})
        | ({"branches": found.branches} if found.branches else {}),
        "without_training": None if found.free is None else effects.as_row(found.free),
        "reasons": {c.target: c.why for c in found.choices},
        "notes": found.notes,
    }
