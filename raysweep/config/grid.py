"""A grid file: which branches a sweep has. Read, checked whole, and expanded into points before anything starts."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from raysweep._text import check_name, short_repr
from raysweep.config.load import explain
from raysweep.config.types import Float, Int, Positive, Section, Seed
from raysweep.errors import ConfigError, WeightsError
from raysweep.weights import SamplingWeights, check_classes

MAX_BRANCHES = 10_000
CONTROL = "control"


class BranchSpec(Section):
    """One named branch."""

    name: str = Field(description="Name of the branch; part of its experiment's name.")
    weights: dict[str, Any] = Field(
        description="Class: weight, of the classes to change. The others keep the parent's weight."
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if len(value) > 60:
            raise ValueError(f"the name has {len(value)} characters; at most 60 are allowed")
        return check_name(value)


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
    weights: dict[str, list[Any]] = Field(
        default_factory=dict, description="Class: list of weights. Every combination becomes a branch."
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

    @field_validator("weights")
    @classmethod
    def _lists_are_not_empty(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for name, numbers in value.items():
            if not numbers:
                raise ValueError(f"class {short_repr(name)} has an empty list; give at least one number")
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value):
            raise ValueError("a seed is listed twice; remove one of the two")
        return value

    @model_validator(mode="after")
    def _not_empty(self) -> Grid:
        if not (self.weights or self.branches or self.search.ranges):
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
        product = math.prod(len(v) for v in self.weights.values()) if self.weights else 0
        total = (product + len(self.branches) + (self.search.num_samples or 0)) * max(1, len(self.seeds))
        total += self.control_seeds or 0
        if total > MAX_BRANCHES:
            many = f"{total:,}" if total < 10**12 else "more than a trillion"
            raise ValueError(f"the grid has {many} points; at most {MAX_BRANCHES:,} are allowed")
        return self


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

    values, lines = read_yaml_lines(path)
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


def expand(grid: Grid, parent: SamplingWeights, parent_seed: int) -> tuple[list[Point], list[str]]:
    """The branches of a grid in order, controls first, and notes about points that coincide.

    Points with proportional weights show every class equally often, so they are one branch. A point that shows the
    classes as the parent did *is* the control. Points of an Optuna search are not known in advance: of such a grid
    only the control and what is written out are returned.

    Raises:
        WeightsError: an unknown class or a bad number; the message names the branch or the ranges.
    """
    check_classes(grid.search.ranges, parent.classes, "search.ranges names")
    chosen, control, notes = _distinct(grid, parent)
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


def _distinct(grid: Grid, parent: SamplingWeights) -> tuple[list[_Labelled], _Labelled | None, list[str]]:
    """(the points that differ from each other and from the control, the control if wanted, notes)."""
    notes: list[str] = []
    chosen: dict[tuple[str, ...], _Labelled] = {}
    control_key = _proportions(parent)
    before = parent.as_dict()
    for given, changes in _wanted(grid):
        label = given or _label(changes, before)
        try:
            complete = parent.inherit(changes)
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


def _label(changes: Mapping[str, Any], parent: Mapping[str, float]) -> str:
    """A name for changed weights: from those that differ from the parent's, or from all if none does."""
    differing = {c: v for c, v in changes.items() if v != parent.get(c, 1.0)}
    return describe(differing, tuple(parent)) or describe(changes, tuple(parent)) or CONTROL


def _with_seeds(
    label: str, weights: SamplingWeights, control: bool, seeds: Sequence[int], taken: set[str]
) -> list[Point]:
    """A point for each seed; with several seeds each name ends in its seed."""
    return [
        Point(unique(f"{label}-seed{seed}" if len(seeds) > 1 else label, taken), weights, seed, control)
        for seed in seeds
    ]


def _wanted(grid: Grid) -> Iterable[tuple[str, dict[str, Any]]]:
    """Name (empty: made from the weights) and changes of each point, one at a time, so that an error ends the loop early."""
    if grid.control:
        yield "", {}
    for b in grid.branches:
        yield b.name, b.weights
    if grid.weights:
        for values in itertools.product(*grid.weights.values()):
            yield "", dict(zip(grid.weights, values, strict=True))
    if grid.search.algorithm == "random":
        for drawn in draw(grid.search):
            yield "", drawn


def _proportions(weights: SamplingWeights) -> tuple[str, ...]:
    """The weights' shares to twelve digits: smaller differences are rounding errors."""
    total = sum(Fraction(w) for w in weights.values)
    return tuple(f"{float(Fraction(w) / total):.12g}" for w in weights.values)


@functools.lru_cache(maxsize=4)
def short_names(classes: tuple[str, ...]) -> dict[str, str]:
    """Class → what branches are called after it: at most 16 characters, different for each class, and usable in a folder's name.

    The start of a name, if that says which class it is; else its end, for what differs stands there
    (``Alphabet_of_the_Magi/character03``); else the number of the class and its end.

    >>> short_names(("disgust", "Magi of the Alphabet/a1", "Magi of the Alphabet/b2"))
    {'disgust': 'disgust', 'Magi of the Alphabet/a1': 'the_Alphabet_a1', 'Magi of the Alphabet/b2': 'the_Alphabet_b2'}
    """
    found: dict[str, str] = {}
    left = list(classes)
    for form in (_start, _end):
        forms = {c: form(c) for c in left}
        often = Counter(text.casefold() for text in forms.values())
        taken = {text.casefold() for text in found.values()}
        fits = [c for c in left if forms[c] and often[forms[c].casefold()] == 1 and forms[c].casefold() not in taken]
        found |= {c: forms[c] for c in fits}
        left = [c for c in left if c not in found]
    taken = {text.casefold() for text in found.values()}
    number = {c: i for i, c in enumerate(classes, start=1)}
    found |= {c: unique(f"{number[c]}_{_end(c)[-(15 - len(str(number[c]))) :]}", taken) for c in left}
    return found


def _start(name: str) -> str:
    return re.sub(r"[^\w.]+", "", name)[:16]


def _end(name: str) -> str:
    """As many of its last words as fit."""
    words = [w for w in re.split(r"[^\w.]+|_", name) if w]
    kept = words[-1:]
    for word in reversed(words[:-1]):
        if len("_".join([word, *kept])) > 16:
            break
        kept.insert(0, word)
    return "_".join(kept)[-16:].strip("_.")


def describe(changes: Mapping[str, Any], classes: Sequence[str] = ()) -> str:
    """A branch's name from what it changes, such as ``disgust5_fear2``; usable as part of a folder's name.

    Args:
        classes: all classes, from which those that are changed must be told apart.
    """
    short = short_names(tuple(classes) or tuple(changes))
    parts = []
    for name, value in changes.items():
        try:
            number = f"{value:.4g}" if isinstance(value, (int, float)) else short_repr(value)
        except OverflowError:  # of hundreds of digits
            number = short_repr(value)
        parts.append(short.get(name, _start(name)) + re.sub(r"[^\w.]+", "", number)[:12])
    whole = "_".join(parts).strip("._")
    if len(whole) <= 60:
        return whole
    return f"{whole[:51]}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"  # cut names must differ, too


def unique(name: str, taken: set[str]) -> str:
    """``name``, or with ``-2``, ``-3`` … appended if it is taken (file systems may ignore case); it is taken from now on."""
    found, n = name, 1
    while found.casefold() in taken:
        n += 1
        found = f"{name}-{n}"
    taken.add(found.casefold())
    return found


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
