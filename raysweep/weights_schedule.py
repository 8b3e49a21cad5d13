"""Sampling weights that change during a run: a function of the epoch alone, so that any epoch can be reproduced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from raysweep.weights import SamplingWeights


@dataclass(frozen=True, slots=True)
class Step:
    """Weights from an epoch on.

    Attributes:
        start: the epoch, counted from 1 with the parent's epochs included.
        linear: the shares of the images shown move in a straight line from the step before, and arrive at ``start``.
    """

    start: int
    weights: SamplingWeights
    linear: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """The weights of every epoch: ``base``, then those of each step from its epoch on."""

    base: SamplingWeights
    steps: tuple[Step, ...] = ()

    def at(self, epoch: int, counts: Mapping[str, int]) -> SamplingWeights:
        """The weights of an epoch, which is counted from 1.

        Args:
            counts: class → images in the pool.

        Raises:
            WeightsError: no class with a weight above zero has any image.
        """
        before = [step for step in self.steps if step.start <= epoch]
        following = self.steps[len(before)] if len(before) < len(self.steps) else None
        now = before[-1].weights if before else self.base
        if following is None or not following.linear or not before:
            return now
        part = Fraction(epoch - before[-1].start, following.start - before[-1].start)
        return _between(now, following.weights, part, counts)


def _between(old: SamplingWeights, new: SamplingWeights, part: Fraction, counts: Mapping[str, int]) -> SamplingWeights:
    """Weights whose shares lie at ``part`` of the way from ``old`` to ``new``. Exact, so that no platform rounds differently."""
    if part == 0:
        return old
    before, after = old.exact_shares(counts), new.exact_shares(counts)
    shares = {c: before[c] + part * (after[c] - before[c]) for c in old.classes}
    return SamplingWeights.of_shares(old.classes, shares, counts)
