"""A space file: what a hunt varies, and between which values. Read and checked whole before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from raysweep._text import short_repr
from raysweep.config import cells
from raysweep.config.grid import BranchSpec, Fork, Range
from raysweep.config.load import explain
from raysweep.config.types import Positive, Section
from raysweep.errors import ConfigError

_FIXED = (
    "sampling.samples_per_epoch",
    "sampling.sample_per_class",
)  # a budget counts images: each training shows as many


class Space(Section):
    """What a hunt varies. Every branch has a value of each."""

    epochs: Positive | None = Field(None, description="Epochs of each round. Default: the parent's, divided by four.")
    weights: dict[str, Range] = Field(
        default_factory=dict,
        description="Class: the range of its weight, such as {log_uniform: [1, 8]}. The other classes keep the parent's.",
    )
    settings: dict[str, list[Any] | Range] = Field(
        default_factory=dict,
        description="Setting: a list of values, such as loss.kind: [cross_entropy, focal], or a range of numbers, such as "
        "training.learning_rate: {log_uniform: [0.0003, 0.003]}.",
    )
    ways: list[BranchSpec] = Field(
        default_factory=list,
        description="Other ways to show the classes than by the weights above: rules, shares, schedules, policies, each as a named branch.",
    )
    fork: Fork = Field(
        default_factory=Fork,  # type: ignore[arg-type]
        description="What all branches do otherwise at each fork: {schedule: restart}. Default: inherit, and restart where the "
        "parent's schedule has ended.",
    )
    select: Literal["macro_f1", "accuracy", "balanced_accuracy"] = Field(
        "macro_f1", description="Validation metric that the hunt improves."
    )

    @field_validator("settings")
    @classmethod
    def _settings(cls, value: dict[str, list[Any] | Range]) -> dict[str, list[Any] | Range]:
        for name, given in value.items():
            if name.startswith(_FIXED) or name.startswith("training.fork"):
                raise ValueError(f"{name} cannot be varied in a hunt, whose trainings all show as many images")
            if isinstance(given, Range):
                low, _ = given.log_uniform or given.uniform or (given.choice or [0.0])[0:1] * 2
                cells.checked({name: low})
                continue
            if not given:
                raise ValueError(f"{name} has an empty list; give at least one value")
            for one in given:
                if set(cells.RATIO) & set(cells.checked({name: one})):
                    raise ValueError(f"{short_repr(name)} is a way to show the classes; put it under ways")
        return value

    @model_validator(mode="after")
    def _not_empty(self) -> Space:
        if not (self.weights or self.settings or self.ways):
            raise ValueError("the space is empty: give weights, settings or ways")
        if "training.learning_rate" in self.settings and self.fork.schedule in ("constant", "cooldown"):
            raise ValueError(
                f"fork.schedule: {self.fork.schedule} keeps the learning rate of the fork, so training.learning_rate would change nothing; "
                "use restart or inherit"
            )
        names = [w.name for w in self.ways]
        if len(set(names)) != len(names):
            raise ValueError("two ways have the same name; rename one")
        return self


def read(path: str | Path) -> Space:
    """A space file.

    Raises:
        ConfigError: everything that is wrong with it, each with its dotted key and line.
    """
    from raysweep.config.yaml import read_yaml_lines

    values, lines = read_yaml_lines(path)
    return check(values, str(path), lines)


def check(values: Mapping[str, Any], source: str = "the space", lines: Mapping[str, int] | None = None) -> Space:
    """A checked space from a mapping.

    Raises:
        ConfigError: as :func:`read`.
    """
    try:
        return Space.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(explain(error, Space, source, lines)) from None


def usual(weights: Mapping[str, float], counts: Mapping[str, int], loss: str, rate: float) -> Space:
    """The space where the user gives none: the weights of the rarest classes, the loss, and the learning rate.

    Args:
        weights: the parent's. counts: images of each class. loss, rate: the parent's ``loss.kind`` and ``training.learning_rate``.
    """
    rarest = sorted(counts, key=lambda c: counts[c])[: min(MOST_CLASSES, max(1, len(counts) - 1))]
    ranges = {c: {"log_uniform": [weights[c] / 2, weights[c] * 8]} for c in rarest if weights[c] > 0}
    settings: dict[str, Any] = {"training.learning_rate": {"log_uniform": [rate / 3, rate * 3]}}
    if loss == "cross_entropy":
        settings["loss.kind"] = ["cross_entropy", "balanced_softmax"]
    return check({"weights": ranges, "settings": settings})


MOST_CLASSES = 3
