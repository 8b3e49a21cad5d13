"""Sampling weights that a user asks for by a rule or by shares, and the numbers that result for given data.

With n_c images of class c in the pool and n_max of the most frequent one, a rule gives class c the weight

- ``natural``: 1
- ``balanced``: n_max / n_c, so that each class is shown equally often
- ``sqrt``: (n_max / n_c) ** 0.5
- ``power`` p: (n_max / n_c) ** p
- ``effective`` b: E(n_max) / E(n_c) with the effective number of images E(n) = (1 - b**n) / (1 - b)
  (Cui et al. 2019, https://arxiv.org/abs/1901.05555)

A share says which part of an epoch a class gets; the classes without one keep their proportions to each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raysweep._text import join_names, short_repr
from raysweep.errors import WeightsError, did_you_mean
from raysweep.label_sets import LabelCounts
from raysweep.weights import SamplingWeights, check_classes, check_number

NAMES = ("natural", "balanced", "sqrt")  # rules without a number
WITH_NUMBER = {"power": "a number from 0 to 2", "effective": "a number ≥ 0 and below 1, such as 0.9999"}
TOLERANCE = 1e-6  # by which shares of all classes may miss 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user asks for, before it is known how many images there are.

    Raises:
        WeightsError: no rule, weight or share has this form.
    """

    given: str | Mapping[str, Any] = field(
        default_factory=dict
    )  # a rule's name; or class → weight or "35%"; or {"power": 0.5}
    shares: Mapping[str, float] = field(default_factory=dict)  # class → part of an epoch, in (0, 1)

    def __post_init__(self) -> None:
        if isinstance(self.given, str):
            if self.given not in NAMES:
                hint = did_you_mean(self.given, (*NAMES, *WITH_NUMBER))
                raise WeightsError(
                    f"{short_repr(self.given)} is no rule for sampling weights.{hint} Give natural, balanced, sqrt, "
                    "{power: 0.5}, {effective: 0.9999}, or a number for each class to change, such as {disgust: 5}."
                )
            return
        shares = {c: _share(c, v) for c, v in self.shares.items()}
        for name, value in self.given.items():
            if not is_share(value):
                check_number(name, value)
            elif name in shares:
                raise WeightsError(f"Class {short_repr(name)} has two shares, {value} and {shares[name]:g}. Keep one.")
            else:
                shares[name] = _share(name, value)
        object.__setattr__(self, "given", {c: v for c, v in self.given.items() if not is_share(v)})
        object.__setattr__(self, "shares", shares)

    def is_plain(self, base: SamplingWeights) -> bool:
        """Whether these are weights of classes alone, which need no number of images."""
        return not self.shares and self.rule(base) is None

    def rule(self, base: SamplingWeights) -> str | None:
        """The rule asked for, as ``balanced`` or ``power 0.5``. A class that is called ``power`` is a class."""
        if isinstance(self.given, str):
            return self.given
        if len(self.given) == 1 and (name := next(iter(self.given))) in WITH_NUMBER and name not in base.classes:
            return f"{name} {self.given[name]:g}"
        return None

    def resolve(self, base: SamplingWeights, counts: Mapping[str, int]) -> SamplingWeights:
        """The weights of every class.

        Args:
            base: the weights of the classes that are not named: the parent's, or 1.
            counts: class → images in the pool.

        Raises:
            WeightsError: an unknown class, a number out of range, or shares that these images cannot have.
        """
        if self.rule(base) is None:
            assert not isinstance(self.given, str)
            weights = base.inherit(self.given)
        else:
            weights = SamplingWeights(base.classes, _by_rule(self.given, base.classes, counts))
        return _with_shares(weights, self.shares, counts) if self.shares else weights

    def describe(self, base: SamplingWeights) -> str:
        """What was asked for in a few words, such as ``balanced`` or ``fear 35%``; empty where these are plain weights."""
        rule = self.rule(base)
        parts = [f"{c} {100 * s:g}%" for c, s in self.shares.items()]
        return ", ".join(([rule] if rule else []) + parts)


def is_share(value: Any) -> bool:
    """Whether a value is written as a share: ``35%``."""
    return isinstance(value, str) and value.strip().endswith("%")


def _share(name: str, value: Any) -> float:
    """A share in (0, 1] from ``0.35`` or ``"35%"``."""
    number: Any = value
    if is_share(value):
        try:
            number = float(value.strip()[:-1]) / 100
        except ValueError:
            number = None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 < number <= 1:
        raise WeightsError(
            f"The share of class {short_repr(name)} is {short_repr(value)}. Give a number above 0 and at most 1, such as 0.35 "
            "(or 35%), which is the part of each epoch's images. Use the weight 0 to leave a class out."
        )
    return float(number)


def _by_rule(given: str | Mapping[str, Any], classes: tuple[str, ...], counts: Mapping[str, int]) -> tuple[float, ...]:
    """A weight for each class; a class without images has 1, for it is never drawn."""
    name, number = (given, None) if isinstance(given, str) else next(iter(given.items()))
    most = max(counts.values(), default=0)
    if name == "effective":
        beta = check_number(name, number)
        if not beta < 1:
            raise WeightsError(f"The rule effective has {number}. Give {WITH_NUMBER[name]}.")
        return tuple(_effective(most, beta) / _effective(counts[c], beta) if counts[c] else 1.0 for c in classes)
    power = {"natural": 0.0, "balanced": 1.0, "sqrt": 0.5}[name] if number is None else check_number(name, number)
    if power > 2:
        raise WeightsError(
            f"The rule power has {number}. Give {WITH_NUMBER['power']}: 0 changes nothing, 1 is balanced."
        )
    return tuple((most / counts[c]) ** power if counts[c] else 1.0 for c in classes)


def _effective(n: int, beta: float) -> float:
    """(1 - b**n) / (1 - b), without loss of digits where b is close to 1."""
    return math.expm1(n * math.log(beta)) / (beta - 1) if beta else 1.0


def _with_shares(weights: SamplingWeights, shares: Mapping[str, float], counts: Mapping[str, int]) -> SamplingWeights:
    """``weights`` with those classes changed that ``shares`` names, so that each gets its share of the draws."""
    check_classes(shares, weights.classes, "The shares name")
    if isinstance(counts, LabelCounts):
        raise WeightsError(
            f"Where an image has several labels, they cannot have shares ({join_names(list(shares))}): whoever shows one more often shows those "
            "that come with it, too. Give weights."
        )
    for name in shares:
        if not counts[name]:
            raise WeightsError(f"Class {short_repr(name)} was given a share, but it has no images. Omit it.")
    before, total = weights.as_dict(), math.fsum(shares.values())
    others = {c: counts[c] * before[c] for c in weights.classes if c not in shares}
    mass = math.fsum(others.values())
    if mass == 0:  # nothing but these classes is shown
        if abs(total - 1) > TOLERANCE:
            raise WeightsError(
                f"The shares of {join_names(list(shares))} add up to {total:.6g}, but no other class is shown. Give shares that add up "
                "to 1, or omit one of them."
            )
        mass, left = float(sum(counts[c] for c in shares)), 1.0
    else:
        left = 1 - total
        if left <= TOLERANCE:
            raise WeightsError(
                f"The shares of {join_names(list(shares))} add up to {total:.6g}, which leaves nothing for the other classes. Give "
                "less, or give the others the weight 0."
            )
    asked = {c: share * mass / (left * counts[c]) for c, share in shares.items()}
    return SamplingWeights(weights.classes, tuple(asked.get(c, before[c]) for c in weights.classes))
