"""From a grid to the branches it means: every one once, controls first, each with the arm that it is compared with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from raysweep._text import Nested, short_repr
from raysweep.config import cells
from raysweep.config.branch_names import describe, fitting, unique
from raysweep.config.grid import CONTROL, MAX_BRANCHES, Grid, Point, SearchSection
from raysweep.errors import ConfigError, WeightsError
from raysweep.weights import SamplingWeights, check_classes
from raysweep.weights_by_rule import Wanted


@dataclass(frozen=True)
class _Wanted:
    """A branch as the grid asks for it; without a name it is called after what it changes."""

    name: str
    weights: str | Nested  # a rule's name, or class → weight
    shares: Nested
    settings: Mapping[str, Any]  # by dotted key


@dataclass(frozen=True)
class _Arm:
    """A branch before it has a seed. ``settings``: those that differ from the parent's."""

    label: str
    weights: SamplingWeights
    settings: Mapping[str, Any]
    plain: bool  # the parent's weights: the control of its cell

    @property
    def cell(self) -> Mapping[str, Any]:
        """What it shares with the control of its cell."""
        return cells.of_cell(self.settings)


_Key = tuple[str, tuple[str, ...]]  # of settings and of weights
EMPTY = cells.key({})


def expand(
    grid: Grid,
    parent: SamplingWeights,
    parent_seed: int,
    counts: Mapping[str, int] | None = None,
    before: Mapping[str, Any] | None = None,
) -> tuple[list[Point], list[str]]:
    """The branches of a grid in order, controls first, and notes about points that coincide.

    Points with proportional weights show every class equally often, so they are one branch. A point that shows the
    classes as the parent did *is* the control of its cell. Points of an Optuna search are not known in advance: of such a grid
    only the control and what is written out are returned.

    Args:
        counts: class → images in the pool, for branches by a rule or by shares. None: they are checked and left out.
        before: the settings that all branches start from, by dotted key; what is already so makes no cell.

    Raises:
        WeightsError: an unknown class or a bad number; the message names the branch or the ranges.
    """
    check_classes(grid.search.ranges, parent.classes, "search.ranges names")
    arms, notes = _distinct(grid, parent, counts, before or {})
    controls = {cells.key(a.settings): a.label for a in arms if a.plain and a.settings}
    own = grid.cell_controls
    references = {a.label: controls.get(cells.key(a.cell)) for a in arms if own and a.cell and not a.plain}
    first = [a for a in arms if a.plain and not a.settings] + [a for a in arms if a.label in references.values()]
    rest = [a for a in arms if a not in first]
    seeds = grid.seeds or [parent_seed]
    points: list[Point] = []
    taken: set[str] = set()
    for arm in (*first, *rest):
        mine = _control_seeds(seeds, grid.controls) if arm in first else seeds
        for seed in mine:
            name = unique(f"{arm.label}-seed{seed}" if len(mine) > 1 else arm.label, taken)
            control = arm.plain and not arm.settings
            reference = references.get(arm.label)
            points.append(Point(name, arm.weights, seed, control, dict(arm.settings), arm.label, reference))
    if len(points) > MAX_BRANCHES:
        raise ConfigError(f"The grid has {len(points):,} branches; at most {MAX_BRANCHES:,} are allowed.")
    return points, notes


def _distinct(
    grid: Grid, parent: SamplingWeights, counts: Mapping[str, int] | None, before: Mapping[str, Any]
) -> tuple[list[_Arm], list[str]]:
    """(the arms that differ from each other; notes)."""
    notes: list[str] = []
    chosen: dict[_Key, _Arm] = {}
    of_parent, labels = _proportions(parent), {CONTROL} if grid.control else set()
    for wanted in _wanted(grid):
        arm = _arm(wanted, parent, counts, before)
        if arm is None:
            continue
        key = (cells.key(arm.settings), _proportions(arm.weights))
        told = bool(wanted.weights or wanted.name)  # the control of a cell is no branch that somebody wrote
        if key in chosen:
            if told:
                what = "is trained as {} is" if arm.settings else "shows the classes as {} does"
                notes.append(f"{arm.label} {what.format(chosen[key].label)}; it runs once.")
            continue
        plain = key[1] == of_parent and arm.settings == arm.cell
        if plain and not arm.settings:
            if told:
                notes.append(f"{arm.label} changes nothing: it is the control.")
            chosen[key] = _Arm(CONTROL, arm.weights, {}, True)
        else:
            chosen[key] = _Arm(unique(arm.label, labels), arm.weights, arm.settings, plain)
    if grid.control and grid.cell_controls:
        _add_controls(chosen, parent, labels, notes)
    return list(chosen.values()), notes


def _add_controls(chosen: dict[_Key, _Arm], parent: SamplingWeights, labels: set[str], notes: list[str]) -> None:
    """Add the control of every cell that has none."""
    of_parent = _proportions(parent)
    for arm in list(chosen.values()):
        key = (cells.key(arm.cell), of_parent)
        if key not in chosen and key[0] != EMPTY:
            label = unique(cells.describe(arm.cell), labels)
            chosen[key] = _Arm(label, parent, arm.cell, True)
            notes.append(f"{label} is added: {arm.label} is compared with it.")


def _arm(
    wanted: _Wanted, parent: SamplingWeights, counts: Mapping[str, int] | None, before: Mapping[str, Any]
) -> _Arm | None:
    """The branch that is wanted; None where it needs the numbers of images and they are not known.

    Raises:
        WeightsError: its weights are wrong; the message names it.
    """
    differing = cells.differing(wanted.settings, before)
    setting = cells.describe(differing)
    given = short_repr(wanted.weights) if isinstance(wanted.weights, str) else None
    label = wanted.name or _joined(
        setting, given or describe({**_plain(wanted.weights), **wanted.shares}, parent.classes)
    )
    try:
        weights = Wanted(wanted.weights, wanted.shares)
        label = wanted.name or _joined(setting, _label(weights, parent.as_dict()))
        if counts is None and not weights.is_plain(parent):
            check_classes(weights.shares, parent.classes, "The shares name")
            return None
        return _Arm(label or CONTROL, weights.resolve(parent, counts or {}), differing, False)
    except WeightsError as error:
        raise WeightsError(f"Branch {label!r}: {error}") from None


def _plain(weights: str | Nested) -> Nested:
    return {} if isinstance(weights, str) else weights


def _joined(*parts: str) -> str:
    return fitting("_".join(part for part in parts if part))


def _control_seeds(seeds: Sequence[int], count: int | None) -> list[int]:
    """The seeds of ``count`` controls: those of the branches, then the smallest unused numbers."""
    if count is None:
        return list(seeds)
    unused = (n for n in itertools.count() if n not in seeds)
    return [*seeds, *itertools.islice(unused, max(0, count - len(seeds)))][:count]


def _label(wanted: Wanted, parent: Mapping[str, float]) -> str:
    """A name for changed weights: from those that differ from the parent's, or from all if none does; a rule's own name."""
    rule = wanted.rule(SamplingWeights.complete({}, tuple(parent)))
    shares = {c: f"{100 * share:.4g}%" for c, share in wanted.shares.items()}
    if rule is not None:
        return _joined(rule.replace(" ", "="), describe(shares, tuple(parent)))
    assert not isinstance(wanted.given, str)
    differing = {c: v for c, v in wanted.given.items() if v != parent.get(c, 1.0)}
    return describe({**differing, **shares}, tuple(parent)) or describe(wanted.given, tuple(parent))


def _wanted(grid: Grid) -> Iterable[_Wanted]:
    """Every branch that a grid asks for, one at a time: an error ends the loop early."""
    if grid.control:
        yield _Wanted("", {}, {}, {})
    for b in grid.branches:
        yield _Wanted(b.name, b.weights, b.shares, b.settings)
    alone = grid.settings and (grid.control or not (grid.combinations or grid.ways))
    for cell in grid.every_cell():
        if alone:
            yield _Wanted("", {}, {}, cell)
        for weights, shares in _combinations(grid):
            yield _Wanted("", weights, shares, cell)
        for way in grid.ways:
            yield _Wanted("", {}, {}, {**cell, **way})
    if grid.search.algorithm == "random":
        for drawn in draw(grid.search):
            yield _Wanted("", drawn, {}, {})


def _combinations(grid: Grid) -> Iterable[tuple[str | Nested, Nested]]:
    """(weights, shares) of every combination."""
    if not grid.combinations:
        return
    by_class = {} if isinstance(grid.weights, list) else grid.weights
    rules = grid.weights if isinstance(grid.weights, list) else [None]
    for rule, *values in itertools.product(rules, *by_class.values(), *grid.shares.values()):
        weights = dict(zip(by_class, values, strict=False)) if rule is None else rule
        yield weights, dict(zip(grid.shares, values[len(by_class) :], strict=True))


def _proportions(weights: SamplingWeights) -> tuple[str, ...]:
    """The weights' shares to twelve digits: smaller differences are rounding errors."""
    total = sum(Fraction(w) for w in weights.values)
    return tuple(f"{float(Fraction(w) / total):.12g}" for w in weights.values)


def draw(search: SearchSection) -> Iterable[dict[str, float]]:
    """The points of a random search: a function of its seed alone."""
    import random

    generator = random.Random(search.seed)
    for _ in range(search.num_samples or 0):
        point = {}
        for name, r in search.ranges.items():
            if r.choice is not None:
                point[name] = generator.choice(r.choice)
            elif r.log_uniform is not None:
                low, high = map(math.log, r.log_uniform)
                point[name] = float(f"{math.exp(generator.uniform(low, high)):.4g}")
            else:
                assert r.uniform is not None
                point[name] = float(f"{generator.uniform(*r.uniform):.4g}")
        yield point
