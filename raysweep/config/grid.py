"""A grid file: which branches a sweep has. Read, checked whole, and expanded into points before anything starts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from raysweep._text import Nested, check_name, short_repr
from raysweep.config import cells, examples, multi_label
from raysweep.config.load import explain
from raysweep.config.types import Float, Int, Positive, Section, Seed
from raysweep.errors import ConfigError
from raysweep.weights import SamplingWeights

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
    settings: Nested = Field(
        default_factory=dict,
        description="Other settings of the branch, such as {loss.kind: balanced_softmax}. With weights, too, its control has the same "
        "settings.",
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if len(value) > 60:
            raise ValueError(f"the name has {len(value)} characters; at most 60 are allowed")
        return check_name(value)

    @field_validator("settings")
    @classmethod
    def _settings(cls, value: Nested) -> Nested:
        return cells.checked(value)

    @model_validator(mode="after")
    def _says_something(self) -> BranchSpec:
        if not {"weights", "shares", "settings"} & self.model_fields_set:
            raise ValueError("give weights, shares or settings")
        ways = [name for name in cells.RATIO if self.settings.get(name)]
        if ways and (self.weights or self.shares):
            raise ValueError(f"{ways[0]} and weights both set the weights of an epoch; keep one of them")
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


class GridData(Section):
    """What a sweep does with the data."""

    folds: Annotated[Int, Field(ge=2, le=100)] | None = Field(
        None,
        description="Cross-validate: set the training images aside in so many parts, train a parent for each, after the settings of the "
        "checkpoint, and all branches on each. Default: all branches start from the checkpoint.",
    )


class RaceSection(Section):
    """``scheduler: race``: every branch gets one seed, and more where they decide something."""

    most: Annotated[Int, Field(ge=2, le=1000)] = Field(16, description="Seeds that a branch may get in all.")
    most_control: Annotated[Int, Field(ge=2, le=1000)] = Field(20, description="Seeds that the control may get in all.")
    trainings: Positive | None = Field(
        None,
        description="Trainings of all branches and controls together, after which the race ends. Default: as many as it takes.",
    )
    level: Annotated[Float, Field(gt=0, lt=1)] = Field(
        0.05, description="The part of all races among equal treatments that may show a branch to be better."
    )


class Fork(Section):
    """What all branches, the control included, do otherwise at the fork."""

    schedule: Literal["inherit", "restart", "constant", "cooldown"] = Field(
        "inherit",
        description="The learning rate from the fork on. inherit: as the parent would go on; restart: warm up and decay anew; constant: "
        "keep the rate of the fork; cooldown: from it in a straight line to zero.",
    )


class Grid(Section):
    """The content of a grid file."""

    data: GridData = Field(default_factory=GridData, description="folds: 5 cross-validates.")  # type: ignore[arg-type]
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
    settings: dict[str, list[Any]] = Field(
        default_factory=dict,
        description="Setting: list of values, such as training.learning_rate: [0.001, 0.003]. Every combination is a cell: all branches "
        "are trained in each, and compared with the control of their own cell.",
    )
    schedules: list[list[Any]] = Field(
        default_factory=list,
        description="Schedules of weights, each as sampling.schedule: [{from: 9, weights: balanced}]. Each becomes a branch.",
    )
    policies: list[Nested] = Field(
        default_factory=list,
        description="Weights that adapt, each as sampling.policy: {kind: worst, classes: 2, on: val}. Each becomes a branch.",
    )
    branches: list[BranchSpec] = Field(
        default_factory=list, description="Named branches, in addition to the combinations of weights."
    )
    fork: Fork = Field(
        default_factory=Fork,  # type: ignore[arg-type]
        description="What the control and all branches do otherwise at the fork: {schedule: restart}. The control is then no exact "
        "continuation of its parent.",
    )
    search: SearchSection = Field(
        default_factory=SearchSection,  # type: ignore[arg-type]
        description="Draw points instead of listing them.",
    )
    scheduler: Literal["none", "asha", "race"] = Field(
        "none",
        description="asha: Ray Tune stops the worse branches early. race: one seed of every branch first, then more seeds only where they "
        "decide whether a branch is better than the control.",
    )
    race: RaceSection = Field(
        default_factory=RaceSection,  # type: ignore[arg-type]
        description="Limits of scheduler: race, such as {most: 8, trainings: 60}.",
    )
    cell_controls: bool = Field(
        True,
        description="Train the control of every cell of settings. false: all branches are compared with the one control of the sweep.",
    )
    metric: Literal["val_acc", "macro_f1", "balanced_accuracy", "mAP"] = Field(
        "macro_f1",
        description="Validation metric that search and scheduler maximize; of several labels for an image mAP unless it is set.",
    )
    select: Literal["macro_f1", "accuracy", "balanced_accuracy", "mAP"] = Field(
        "macro_f1",
        description="Validation metric by which `raysweep evaluate SWEEP` chooses the one branch that it tries on the test images; of several "
        "labels for an image mAP unless it is set.",
    )

    def of_data(self, several: bool) -> Grid:
        """The grid for data with several labels for an image, or with one class.

        Raises:
            ConfigError: it asks for what such data do not have.
        """
        found: Grid = multi_label.grid_of(self, several)
        return found

    @model_validator(mode="before")
    @classmethod
    def _dotted(cls, values: Any) -> Any:
        """``data.folds: 5`` as for a run."""
        if isinstance(values, dict) and "data.folds" in values and "data" not in values:
            return {**{k: v for k, v in values.items() if k != "data.folds"}, "data": {"folds": values["data.folds"]}}
        return values

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

    @field_validator("settings")
    @classmethod
    def _cells(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for name, values in value.items():
            if not values:
                raise ValueError(f"{short_repr(name)} has an empty list; give at least one value")
            for one in values:
                cells.checked({name: one})
                if set(cells.RATIO) & set(cells.flat({name: one})):
                    raise ValueError(
                        f"{name} shows the classes otherwise, as weights do, so it makes no cell; use schedules, policies or branches"
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
        if not (self.combinations or self.settings or self.ways or self.branches or self.search.ranges):
            raise ValueError(
                "the grid is empty: give weights (lists per class), settings, schedules, policies, branches, or a search with ranges"
            )
        if self.settings and self.search.ranges:
            raise ValueError(
                "settings and a search with ranges cannot be combined; write the weights out, or drop one of the two"
            )
        if self.search.algorithm == "optuna" and len(self.seeds) > 1:
            raise ValueError(
                f"search.algorithm: optuna allows one seed at most, not {len(self.seeds):,}, because it chooses each point after the "
                "last one. Use algorithm: random or grid for several seeds"
            )
        if self.scheduler == "race" and (not self.control or self.search.algorithm == "optuna"):
            raise ValueError("scheduler: race needs a control, and no search.algorithm: optuna; change one of the two")
        if self.scheduler == "race" and any("sampling.follow" in b.settings for b in self.branches):
            raise ValueError(
                "scheduler: race adds seeds, and sampling.follow needs a plan for each; use scheduler: none"
            )
        if self.control_seeds and not self.control:
            raise ValueError("control_seeds asks for controls, but control is false. Remove one of the two")
        return self

    @model_validator(mode="after")
    def _not_too_large(self) -> Grid:
        product = (self.combinations + len(self.ways) + bool(self.settings)) * self.cells
        total = (product + len(self.branches) + (self.search.num_samples or 0)) * max(1, len(self.seeds))
        total += self.control_seeds or 0
        if total > MAX_BRANCHES:
            many = f"{total:,}" if total < 10**12 else "more than a trillion"
            raise ValueError(f"the grid has {many} points; at most {MAX_BRANCHES:,} are allowed")
        return self

    @property
    def controls(self) -> int | None:
        """How many seeds every control gets at first; None: as many as the branches."""
        if self.control_seeds is None and self.scheduler == "race":
            return max(len(self.seeds), 4)
        return self.control_seeds

    @property
    def combinations(self) -> int:
        """How many branches ``weights`` and ``shares`` make."""
        if not self.weights and not self.shares:
            return 0
        first = len(self.weights) if isinstance(self.weights, list) else math.prod(map(len, self.weights.values()))
        return max(first, 1) * math.prod(map(len, self.shares.values()))

    @property
    def cells(self) -> int:
        """How many combinations of settings there are; 1 without any."""
        return math.prod(map(len, self.settings.values()))

    @property
    def ways(self) -> list[Nested]:
        """The settings of the branches that schedules and policies make."""
        return [{"sampling.schedule": s} for s in self.schedules] + [{"sampling.policy": p} for p in self.policies]

    def every_cell(self) -> Iterable[Nested]:
        """The settings of every cell by dotted key, one at a time."""
        for values in itertools.product(*self.settings.values()):
            merged: Nested = {}
            for name, value in zip(self.settings, values, strict=True):
                merged |= cells.flat({name: value})
            yield merged


@dataclass(frozen=True)
class Point:
    """One branch to be: its weights and the seed of what follows the fork, and in which settings it differs from its parent.

    Branches that differ in their seed only have the same ``arm``. ``reference`` is the arm that it is compared with; None: the
    control of the sweep.
    """

    name: str
    weights: SamplingWeights
    seed: int
    control: bool
    settings: Mapping[str, Any] = field(default_factory=dict)  # by dotted key
    arm: str | None = None
    reference: str | None = None


def read(path: str | Path) -> Grid:
    """A grid file.

    Raises:
        ConfigError: everything that is wrong with it, each with its dotted key and line.
    """
    from raysweep.config.yaml import read_yaml_lines

    values, lines = read_yaml_lines(examples.grid(path))
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
