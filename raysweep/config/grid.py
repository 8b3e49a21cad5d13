"""A grid file: which branches a sweep has. Read, checked whole, and expanded into points before anything starts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from raysweep._text import Nested, check_name, short_repr
from raysweep.config import examples
from raysweep.config.branch_names import describe, unique
from raysweep.config.load import explain
from raysweep.config.types import Float, Int, Positive, Section, Seed
from raysweep.errors import ConfigError, WeightsError
from raysweep.weights import SamplingWeights, check_classes
from raysweep.weights_by_rule import Wanted

MAX_BRANCHES = 10_000
CONTROL = "control"


class BranchSpec(Section):
    """One named branch."""

    name: str = Field(description="Name of the branch; part of its experiment's name.")
    weights: str | Nested = Field(
        default_factory=dict,
        description="Class: weight, of the classes to change, or a share such as 35%. The others keep the parent's weight. Or a rule: "
        "natural, balanced, sqrt, {power: 0.5}, {effective: 0.9999}.",
    )
    shares: Nested = Field(
        default_factory=dict,
        description="Class: part of each epoch's images, such as 0.35. The others keep their proportions.",
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if len(value) > 60:
            raise ValueError(f"the name has {len(value)} characters; at most 60 are allowed")
        return check_name(value)

    @model_validator(mode="after")
    def _says_something(self) -> BranchSpec:
        if not {"weights", "shares"} & self.model_fields_set:
            raise ValueError("give weights, or shares")
        return self


class Range(Section):
    """What a search draws one class's weight from: exactly one of three."""

    uniform: tuple[Float, Float] | None = Field(None, description="[low, high]: draw uniformly.")
    log_uniform: tuple[Float, Float] | None = Field(
        None, description="[low, high]: draw uniformly on a logarithmic scale; low must be above 0."
    )
    choice: list[Float] | None = Field(None, description="[a, b, …]: draw one of these numbers.")

    @field_validator("uniform", "log_uniform")
    @classmethod
    def _ascending(cls, value: tuple[float, float] | None, info: ValidationInfo) -> tuple[float, float] | None:
        if value is None:
            return value
        low, high = value
        if not 0 <= low < high or (low == 0 and info.field_name == "log_uniform"):
            above = "> 0" if info.field_name == "log_uniform" else "≥ 0"
            raise ValueError(f"the range must be two numbers {above}, the smaller one first, not {low:g} to {high:g}")
        return value

    @field_validator("choice")
    @classmethod
    def _not_negative(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and (not value or min(value) < 0):
            raise ValueError("give at least one number, and none below 0")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Range:
        if [self.uniform, self.log_uniform, self.choice].count(None) != 2:
            raise ValueError("give exactly one of uniform: [low, high], log_uniform: [low, high], choice: [a, b, …]")
        return self


class SearchSection(Section):
    """How the points of a sweep are found."""

    algorithm: Literal["grid", "random", "optuna"] = Field(
        "grid", description="grid: the points written in the file; random and optuna: points drawn from ranges."
    )
    num_samples: Annotated[Int, Field(ge=1, le=MAX_BRANCHES)] | None = Field(
        None, description="How many points random or optuna draws."
    )
    ranges: dict[str, Range] = Field(default_factory=dict, description="Class: the range to draw its weight from.")
    seed: Seed = Field(0, description="Seed of the search.")

    @model_validator(mode="after")
    def _complete(self) -> SearchSection:
        if self.algorithm == "grid" and (self.ranges or self.num_samples):
            raise ValueError("ranges and num_samples need algorithm: random or algorithm: optuna")
        if self.algorithm != "grid" and (not self.ranges or self.num_samples is None):
            raise ValueError(
                f"algorithm: {self.algorithm} needs num_samples and ranges, such as ranges: {{disgust: {{log_uniform: [1, 8]}}}}"
            )
        return self


class Grid(Section):
    """The content of a grid file."""

    epochs: Positive | None = Field(None, description="Additional epochs of every branch.")
    control: bool = Field(
        True, description="Add a branch with the parent's weights, trained for as many epochs, to compare with."
    )
    seeds: list[Seed] = Field(
        default_factory=list, description="Train each branch once per seed. Default: the parent's seed."
    )
    control_seeds: Positive | None = Field(
        None,
        description="How many controls to train: the seeds above, then the smallest unused numbers. Default: as many as seeds.",
    )
    weights: list[Any] | dict[str, list[Any]] = Field(
        default_factory=dict,
        description="Class: list of weights, or of shares such as 35%. Every combination becomes a branch. Or a list of rules, such as "
        "[balanced, sqrt, {power: 0.25}], each of which becomes one.",
    )
    shares: dict[str, list[Any]] = Field(
        default_factory=dict,
        description="Class: list of shares of an epoch's images, such as [0.2, 0.35]; combined with each other and with weights.",
    )
    branches: list[BranchSpec] = Field(
        default_factory=list, description="Named branches, in addition to the combinations of weights."
    )
    search: SearchSection = Field(
        default_factory=SearchSection,  # type: ignore[arg-type]
        description="Draw points instead of listing them.",
    )
    scheduler: Literal["none", "asha"] = Field("none", description="asha: Ray Tune stops the worse branches early.")
    metric: Literal["val_acc", "macro_f1", "balanced_accuracy"] = Field(
        "macro_f1", description="Validation metric that search and scheduler maximize."
    )
    select: Literal["macro_f1", "accuracy", "balanced_accuracy"] = Field(
        "macro_f1",
        description="Validation metric by which `raysweep evaluate SWEEP` chooses the one branch that it tries on the test images.",
    )

    @field_validator("weights", "shares")
    @classmethod
    def _lists_are_not_empty(cls, value: list[Any] | dict[str, list[Any]]) -> list[Any] | dict[str, list[Any]]:
        for name, numbers in {} if isinstance(value, list) else value.items():
            if not numbers:
                raise ValueError(f"class {short_repr(name)} has an empty list; give at least one number")
        for rule in value if isinstance(value, list) else []:
            if not isinstance(rule, (str, dict)):
                raise ValueError(
                    f"{short_repr(rule)} is no rule; a list of numbers belongs to a class: disgust: [3, 5]"
                )
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value):
            raise ValueError("a seed is listed twice; remove one of the two")
        return value

    @model_validator(mode="after")
    def _not_empty(self) -> Grid:
        if not (self.weights or self.shares or self.branches or self.search.ranges):
            raise ValueError("the grid is empty: give weights (lists per class), branches, or a search with ranges")
        if self.search.algorithm == "optuna" and len(self.seeds) > 1:
            raise ValueError(
                f"search.algorithm: optuna allows one seed at most, not {len(self.seeds):,}, because it chooses each point after the "
                "last one. Use algorithm: random or grid for several seeds"
            )
        if self.control_seeds and not self.control:
            raise ValueError("control_seeds asks for controls, but control is false. Remove one of the two")
        return self

    @model_validator(mode="after")
    def _not_too_large(self) -> Grid:
        product = self.combinations
        total = (product + len(self.branches) + (self.search.num_samples or 0)) * max(1, len(self.seeds))
        total += self.control_seeds or 0
        if total > MAX_BRANCHES:
            many = f"{total:,}" if total < 10**12 else "more than a trillion"
            raise ValueError(f"the grid has {many} points; at most {MAX_BRANCHES:,} are allowed")
        return self

    @property
    def combinations(self) -> int:
        """How many branches ``weights`` and ``shares`` make."""
        if not self.weights and not self.shares:
            return 0
        first = len(self.weights) if isinstance(self.weights, list) else math.prod(map(len, self.weights.values()))
        return max(first, 1) * math.prod(map(len, self.shares.values()))


@dataclass(frozen=True)
class Point:
    """One branch to be: its weights and the seed of what follows the fork."""

    name: str
    weights: SamplingWeights
    seed: int
    control: bool


def read(path: str | Path) -> Grid:
    """A grid file.

    Raises:
        ConfigError: everything that is wrong with it, each with its dotted key and line.
    """
    from raysweep.config.yaml import read_yaml_lines

    values, lines = read_yaml_lines(examples.find(path))
    return check(values, str(path), lines)


def check(values: Mapping[str, Any], source: str = "the grid", lines: Mapping[str, int] | None = None) -> Grid:
    """A checked grid from a mapping.

    Raises:
        ConfigError: as :func:`read`.
    """
    try:
        return Grid.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(explain(error, Grid, source, lines)) from None


def expand(
    grid: Grid, parent: SamplingWeights, parent_seed: int, counts: Mapping[str, int] | None = None
) -> tuple[list[Point], list[str]]:
    """The branches of a grid in order, controls first, and notes about points that coincide.

    Points with proportional weights show every class equally often, so they are one branch. A point that shows the
    classes as the parent did *is* the control. Points of an Optuna search are not known in advance: of such a grid
    only the control and what is written out are returned.

    Args:
        counts: class → images in the pool, for branches by a rule or by shares. None: they are checked and left out.

    Raises:
        WeightsError: an unknown class or a bad number; the message names the branch or the ranges.
    """
    check_classes(grid.search.ranges, parent.classes, "search.ranges names")
    chosen, control, notes = _distinct(grid, parent, counts)
    seeds = grid.seeds or [parent_seed]
    points: list[Point] = []
    taken: set[str] = set()
    if control is not None:
        points += _with_seeds(*control, True, _control_seeds(seeds, grid.control_seeds), taken)
    for label, complete in chosen:
        points += _with_seeds(label, complete, False, seeds, taken)
    if len(points) > MAX_BRANCHES:
        raise ConfigError(f"The grid has {len(points):,} branches; at most {MAX_BRANCHES:,} are allowed.")
    return points, notes


_Labelled = tuple[str, SamplingWeights]  # a branch's name before its seed is added, and its weights


def _distinct(
    grid: Grid, parent: SamplingWeights, counts: Mapping[str, int] | None
) -> tuple[list[_Labelled], _Labelled | None, list[str]]:
    """(the points that differ from each other and from the control, the control if wanted, notes)."""
    notes: list[str] = []
    chosen: dict[tuple[str, ...], _Labelled] = {}
    control_key = _proportions(parent)
    before = parent.as_dict()
    for given, changes, shares in _wanted(grid):
        label = given or (
            short_repr(changes) if isinstance(changes, str) else describe({**changes, **shares}, parent.classes)
        )
        try:
            wanted = Wanted(changes, shares)
            label = given or _label(wanted, before)
            if counts is None and not wanted.is_plain(parent):
                check_classes(wanted.shares, parent.classes, "The shares name")
                continue
            complete = wanted.resolve(parent, counts or {})
        except WeightsError as error:
            raise WeightsError(f"Branch {label!r}: {error}") from None
        key = _proportions(complete)
        if key in chosen:
            if changes:
                notes.append(f"{label} shows the classes as {chosen[key][0]} does; it runs once.")
            continue
        if key == control_key and changes:
            notes.append(f"{label} changes nothing: it is the control.")
        chosen[key] = (CONTROL if key == control_key else label, complete)
    control = chosen.pop(control_key, None)
    return list(chosen.values()), control, notes


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
        return "_".join(part for part in (rule.replace(" ", ""), describe(shares, tuple(parent))) if part)
    assert not isinstance(wanted.given, str)
    differing = {c: v for c, v in wanted.given.items() if v != parent.get(c, 1.0)}
    return describe({**differing, **shares}, tuple(parent)) or describe(wanted.given, tuple(parent)) or CONTROL


def _with_seeds(
    label: str, weights: SamplingWeights, control: bool, seeds: Sequence[int], taken: set[str]
) -> list[Point]:
    """A point for each seed; with several seeds each name ends in its seed."""
    return [
        Point(unique(f"{label}-seed{seed}" if len(seeds) > 1 else label, taken), weights, seed, control)
        for seed in seeds
    ]


_Changes = str | Nested  # a rule's name, or class → weight


def _wanted(grid: Grid) -> Iterable[tuple[str, _Changes, Nested]]:
    """Name (empty: made from the weights), changes and shares of each point, one at a time: an error ends the loop early."""
    if grid.control:
        yield "", {}, {}
    for b in grid.branches:
        yield b.name, b.weights, b.shares
    if grid.combinations:
        by_class = {} if isinstance(grid.weights, list) else grid.weights
        rules = grid.weights if isinstance(grid.weights, list) else [None]
        for rule, *values in itertools.product(rules, *by_class.values(), *grid.shares.values()):
            weights = dict(zip(by_class, values, strict=False)) if rule is None else rule
            yield "", weights, dict(zip(grid.shares, values[len(by_class) :], strict=True))
    if grid.search.algorithm == "random":
        for drawn in draw(grid.search):
            yield "", drawn, {}


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
