"""The options that treat imbalance: how often each class is shown, and how much it counts in the loss."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_serializer, model_validator

from raysweep._text import Nested
from raysweep.config.own import WordOrCode, target_of
from raysweep.config.types import Float, Int, Positive, Section, Text
from raysweep.errors import WeightsError
from raysweep.weights_by_rule import Wanted

MAX_DRAWS = 10**8  # an epoch's order needs 8 bytes for each image shown


def _wanted(weights: str | Nested, shares: Nested | None = None) -> Wanted:
    try:
        return Wanted(weights, shares or {})
    except WeightsError as error:
        raise ValueError(str(error)) from None


def _numbers(weights: str | Nested) -> Nested:
    assert not isinstance(weights, str), "planning puts numbers in the place of a rule"
    return weights


class SchedulePoint(Section):
    """Weights from an epoch on."""

    start: Positive = Field(
        alias="from", description="The first epoch with these weights, counted with the parent's epochs."
    )
    weights: str | Nested = Field(
        default_factory=dict,
        description="As sampling.weights: class: weight or share, or a rule. The others have their weight of sampling.weights.",
    )
    shares: Nested = Field(default_factory=dict, description="As sampling.shares.")
    linear: bool = Field(
        False, description="true: the shares move in a straight line from the point before, and arrive at this epoch."
    )

    @model_validator(mode="after")
    def _can_be_read(self) -> SchedulePoint:
        _wanted(self.weights, self.shares)
        return self

    @model_serializer
    def _as_written(self) -> Nested:
        return {"from": self.start, "weights": self.weights, "shares": self.shares, "linear": self.linear}

    def wanted(self) -> Wanted:
        """What is asked for from this epoch on."""
        return Wanted(self.weights, self.shares)

    def numbers(self) -> Nested:
        """Class → weight, once planning has resolved a rule and shares."""
        return _numbers(self.weights)


class PolicySection(Section):
    """How each epoch's weights are decided by the results of the epoch before."""

    kind: Literal["worst", "proportional"] = Field(
        description="worst: the classes with the lowest metric share a part of the images; proportional: images in proportion to the "
        "error of each class."
    )
    classes: Positive = Field(2, description="worst: how many classes.")
    share: Annotated[Float, Field(gt=0, lt=1)] = Field(
        0.7, description="worst: the part of the images that they get, in equal parts."
    )
    momentum: Annotated[Float, Field(ge=0, lt=1)] = Field(
        0.5, description="proportional: the part of the present shares that stays."
    )
    metric: Literal["recall", "f1"] = Field("recall", description="What a class is judged by; the error is 1 - metric.")
    on: Literal["holdout", "val"] = Field(
        "holdout",
        description="The images that decide: those of sampling.holdout, or the validation images, on which the results are judged, too.",
    )


class FollowSection(Section):
    """The weights of every epoch of another experiment."""

    experiment: Text = Field(description="The experiment whose shares are followed, epoch by epoch.")
    permute: bool = Field(
        False,
        description="true: give its shares to other classes, by a permutation of the seed: the control of a policy.",
    )


class SamplingSection(Section):
    strategy: Literal["quota", "multinomial"] = Field(
        "quota",
        description="quota: each class gets its exact number of images per epoch; multinomial: independent random draws with "
        "replacement.",
    )
    weights: str | Nested = Field(
        default_factory=dict,
        description="Class: weight, a number ≥ 0, or a share of the epoch such as 35%. Classes that are not listed have weight 1.0. "
        "Or a rule: natural, balanced, sqrt, {power: 0.5}, {effective: 0.9999}.",
    )
    shares: Nested = Field(
        default_factory=dict,
        description="Class: part of each epoch's images, such as 0.35. The other classes keep their proportions to each other.",
    )
    schedule: list[SchedulePoint] = Field(
        default_factory=list,
        description="Other weights from certain epochs on: [{from: 1, weights: natural}, {from: 9, weights: balanced}]. With linear: "
        "true the shares move there from the point before.",
    )
    holdout: Annotated[Float, Field(ge=0, le=0.5)] = Field(
        0.0,
        description="Part of the training images of each class that no epoch shows, and by which a policy decides. Children inherit it.",
    )
    policy: PolicySection | None = Field(
        None,
        description="Decide the weights of each epoch by the results of the one before. The first has sampling.weights.",
    )
    follow: FollowSection | None = Field(
        None,
        description="Show the classes as another experiment did in each epoch. Planning writes it out as a schedule.",
    )
    samples_per_epoch: Annotated[Int, Field(ge=1, le=MAX_DRAWS)] | None = Field(
        None,
        description="Number of images shown per epoch; each needs 8 bytes of memory. Default: the number of training images.",
    )
    sample_per_class: Positive | None = Field(
        None, description="Use at most this many different images of each class. Default: all."
    )

    @field_validator("weights")
    @classmethod
    def _weights(cls, value: str | Nested) -> str | Nested:
        wanted = _wanted(value)
        if isinstance(value, str):
            return value
        return {name: number if name in wanted.shares else float(number) for name, number in value.items()}

    @field_validator("shares")
    @classmethod
    def _shares(cls, value: Nested, info: ValidationInfo) -> dict[str, float]:
        given = info.data.get("weights")  # absent if it is wrong, too
        weights = {} if given is None or isinstance(given, str) else given
        shares = _wanted(weights, value).shares
        return {name: shares[name] for name in value}

    @field_validator("schedule")
    @classmethod
    def _in_order(cls, value: list[SchedulePoint]) -> list[SchedulePoint]:
        starts = [point.start for point in value]
        if any(a >= b for a, b in itertools.pairwise(starts)):
            raise ValueError(f"the epochs must rise from point to point; they are {', '.join(map(str, starts[:20]))}")
        if value and value[0].linear:
            raise ValueError("the first point has none before it from which it could move linearly; put one at from: 1")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> SamplingSection:
        ways = [name for name in ("schedule", "policy", "follow") if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} each set the weights of an epoch; keep one of them")
        if self.policy is not None and self.policy.on == "holdout" and not self.holdout:
            raise ValueError(
                "policy decides on images that are held out of training, and there are none. Set sampling.holdout: 0.1, or "
                "policy.on: val to decide on the validation images"
            )
        return self

    def wanted(self) -> Wanted:
        """What is asked for: weights by class or by a rule, and shares."""
        return Wanted(self.weights, self.shares)

    def numbers(self) -> Nested:
        """Class → weight, once planning has resolved a rule and shares."""
        return _numbers(self.weights)


_USED_BY = {  # option → the losses that read it
    "weights": ("class_weights", "focal", "ldam", "python"),
    "gamma": ("focal",),
    "tau": ("logit_adjusted",),
    "margin": ("ldam",),
    "from_epoch": ("class_weights", "focal", "ldam", "python", "balanced_softmax", "logit_adjusted"),
}
_LOSSES = ("cross_entropy", "class_weights", "focal", "balanced_softmax", "logit_adjusted", "ldam")


class LossSection(Section):
    kind: Annotated[Text, WordOrCode(*_LOSSES)] = Field(
        "cross_entropy",
        description="cross_entropy, class_weights, focal, balanced_softmax, logit_adjusted, ldam, or your own: python:MODULE:NAME, called "
        "with logits, targets and, if it takes them, class_counts, epoch, sample_weights. Whatever it is, a network predicts from its "
        "own logits.",
    )
    weights: str | Nested | None = Field(
        None,
        description="class_weights, focal, ldam and python: weight of each class in the loss, as in sampling.weights: class: number, or a "
        "rule. They are scaled so that their mean over the images shown is 1. Default: balanced for class_weights, else none.",
    )
    gamma: Annotated[Float, Field(ge=0)] = Field(2.0, description="focal: exponent of (1 - p).")
    tau: Annotated[Float, Field(ge=0)] = Field(1.0, description="logit_adjusted: factor of the log prior.")
    margin: Annotated[Float, Field(ge=0)] = Field(
        0.5, description="ldam: margin of the rarest class, in units of the logits; the others have less."
    )
    from_epoch: Positive | None = Field(
        None,
        description="Epoch from which class weights, or the prior of balanced_softmax and logit_adjusted, take effect; counted "
        "with the parent's epochs. Default: the first.",
    )

    @field_validator("weights")
    @classmethod
    def _weights(cls, value: str | Nested | None) -> str | Nested | None:
        if value is not None and _wanted(value).shares:
            raise ValueError("a loss has weights, and no shares; give numbers or a rule")
        return value

    @model_validator(mode="after")
    def _options_are_read(self) -> LossSection:
        for option, losses in _USED_BY.items():
            kind = self.kind if self.own is None else "python"
            if kind not in losses and getattr(self, option) != type(self).model_fields[option].default:
                raise ValueError(
                    f"{option} is set, but loss.kind: {self.kind} does not read it; {', '.join(k for k in losses if k != 'python')} would"
                )
        if self.from_epoch is not None and not self.weighted and not self.prior:
            raise ValueError(f"from_epoch defers class weights, but loss.kind: {self.kind} has none; set weights, too")
        return self

    @property
    def own(self) -> str | None:
        """``MODULE:NAME`` of a loss of the user; None for others."""
        return target_of(self.kind)

    @property
    def weighted(self) -> bool:
        """Whether the loss has weights of classes."""
        return self.kind == "class_weights" or self.weights is not None

    @property
    def prior(self) -> float:
        """The factor of the log prior that is added to the logits in training; 0: none."""
        return {"balanced_softmax": 1.0, "logit_adjusted": self.tau}.get(self.kind, 0.0)
