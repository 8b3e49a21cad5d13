"""A grid file: which branches a sweep has. Read, checked whole, and expanded into points before anything starts."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from raysweep import weights as weights_module
from raysweep._text import check_name, short_repr, truncate
from raysweep.config.settings import Float, Int, Positive, Section, Seed, explain
from raysweep.errors import ConfigError, WeightsError

MAX_BRANCHES = 10_000
CONTROL = "control"


class BranchSpec(Section):
    """One named branch."""

    name: str
    weights: dict[str, Any] = Field(description="The classes to change; the others keep the parent's weight.")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if len(value) > 60:
            raise ValueError(f"the name has {len(value)} characters; at most 60 are allowed")
        return check_name(value)


class Range(Section):
    """What a search draws one class's weight from."""

    uniform: tuple[Float, Float] | None = None
    log_uniform: tuple[Float, Float] | None = None
    choice: list[Float] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Range:
        given = [v for v in (self.uniform, self.log_uniform, self.choice) if v is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of uniform: [low, high], log_uniform: [low, high], choice: [a, b, …]")
        if self.choice is not None and (not self.choice or min(self.choice) < 0):
            raise ValueError("choice needs at least one number, none below zero")
        low, high = self.uniform or self.log_uniform or (0.0, 1.0)
        if not low < high or low < 0 or (self.log_uniform is not None and low == 0):
            raise ValueError(
                f"the range must go from a smaller to a larger number ≥ 0 (> 0 for log_uniform), not {low:g} to {high:g}"
            )
        return self


class SearchSection(Section):
    """grid takes the points as they are written; random and optuna draw them from ranges."""

    algorithm: Literal["grid", "random", "optuna"] = "grid"
    num_samples: Annotated[Int, Field(ge=1, le=MAX_BRANCHES)] | None = None
    ranges: dict[str, Range] = Field(default_factory=dict)
    seed: Seed = 0

    @model_validator(mode="after")
    def _complete(self) -> SearchSection:
        if self.algorithm == "grid" and (self.ranges or self.num_samples):
            raise ValueError("ranges and num_samples belong to algorithm: random or optuna")
        if self.algorithm != "grid" and (not self.ranges or self.num_samples is None):
            raise ValueError(
                f"algorithm: {self.algorithm} needs num_samples and ranges, e.g. ranges: {{disgust: {{log_uniform: [1, 8]}}}}"
            )
        return self


class Grid(Section):
    """The content of a grid file."""

    epochs: Positive | None = Field(None, description="Additional epochs of every branch.")
    control: bool = Field(True, description="Add the branch with unchanged weights, trained as long.")
    seeds: list[Seed] = Field(
        default_factory=list, description="Each branch once per seed; default: the parent's seed."
    )
    weights: dict[str, list[Any]] = Field(default_factory=dict, description="Class → weights to try: their product.")
    branches: list[BranchSpec] = Field(default_factory=list, description="Named branches, besides the product.")
    search: SearchSection = Field(default_factory=SearchSection)
    scheduler: Literal["none", "asha"] = Field("none", description="asha: Ray Tune stops the worse branches early.")
    metric: Literal["val_acc", "macro_f1", "balanced_accuracy"] = Field(
        "macro_f1", description="Of search and scheduler."
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Grid:
        if not (self.weights or self.branches or self.search.ranges):
            raise ValueError("the grid is empty: give weights (lists per class), branches, or a search with ranges")
        for name, values in self.weights.items():
            if not values:
                raise ValueError(f"weights.{truncate(name, 80)} is an empty list; give at least one number")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds names a seed twice")
        if self.search.algorithm != "grid" and len(self.seeds) > 1:
            raise ValueError("a search has one seed at the most; several seeds belong to a written grid")
        product = math.prod(len(v) for v in self.weights.values()) if self.weights else 0
        total = (product + len(self.branches) + (self.search.num_samples or 0)) * max(1, len(self.seeds))
        if total > MAX_BRANCHES:
            many = f"{total:,}" if total < 10**12 else "more than a trillion"
            raise ValueError(f"the grid has {many} points; at most {MAX_BRANCHES:,} are allowed")
        return self


@dataclass(frozen=True)
class Point:
    """One branch to be: complete weights and the seed of what follows the fork."""

    name: str
    weights: dict[str, float]
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


def expand(
    grid: Grid, parent: Mapping[str, float], classes: Sequence[str], parent_seed: int
) -> tuple[list[Point], list[str]]:
    """The branches of a grid in order, controls first, and notes about points that coincide.

    Points with proportional weights show every class equally often, so they are one branch. A point that shows the
    classes as the parent did *is* the control. Points of an Optuna search are not known in advance: of such a grid
    only the control and what is written out are returned.

    Raises:
        WeightsError: an unknown class or a bad number; the message names the branch.
    """
    notes: list[str] = []
    chosen: dict[tuple[str, ...], tuple[str, dict[str, float]]] = {}
    control_key = _proportions(weights_module.complete(parent, classes))
    for given, changes in _wanted(grid):
        differing = {c: v for c, v in changes.items() if v != parent.get(c, 1.0)}
        label = given or describe(differing) or describe(changes) or CONTROL
        try:
            complete = weights_module.inherit(parent, changes, classes)
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
    points = []
    taken: set[str] = set()
    for key, (label, complete) in sorted(chosen.items(), key=lambda item: item[0] != control_key):
        for seed in grid.seeds or [parent_seed]:
            name = unique(label + (f"-seed{seed}" if len(grid.seeds) > 1 else ""), taken)
            points.append(Point(name, complete, seed, key == control_key))
    if len(points) > MAX_BRANCHES:
        raise ConfigError(f"The grid has {len(points):,} branches; at most {MAX_BRANCHES:,} are allowed.")
    return points, notes


def _wanted(grid: Grid) -> Iterable[tuple[str, dict[str, Any]]]:
    """Name (empty where it follows from the weights) and changes of each point, one at a time: a fault ends it early."""
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


def _proportions(weights: Mapping[str, float]) -> tuple[str, ...]:
    """To twelve digits: what differs less is the same number, computed in another way."""
    total = sum(Fraction(w) for w in weights.values())
    return tuple(f"{float(Fraction(w) / total):.12g}" for w in weights.values())


def describe(changes: Mapping[str, Any]) -> str:
    """A branch's name from what it changes, such as ``disgust5_fear2``; usable as part of a folder's name."""
    parts = []
    for name, value in changes.items():
        try:
            number = f"{value:.4g}" if isinstance(value, (int, float)) else short_repr(value)
        except OverflowError:  # of hundreds of digits
            number = short_repr(value)
        parts.append(re.sub(r"[^\w.]+", "", name)[:16] + re.sub(r"[^\w.]+", "", number)[:12])
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
