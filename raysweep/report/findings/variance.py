"""The variance of a difference between two arms, with trainings (seeds) and images as two random factors.

Multi-reader multi-case analysis: seeds are the readers, images the cases (Obuchowski & Rockette 1995, doi
10.1080/03610919508813243; Hillis 2007, doi 10.1002/sim.2532). An arm is the set of trainings of one treatment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
STEADY_SEEDS = 4  # from so many seeds on, whether a branch varies more than the others can be seen


@dataclass(frozen=True)
class ArmSummary:
    """What the networks of one arm say about M targets.

    ``values`` float64 (S, M): the metric of each network. ``own`` float64 (M,): E = Σ_s Σ_i (ψ_s,i − ψ̄_i)² / (S (S − 1)), the
    part of Σ ψ̄² that comes from the seeds; 0 for one seed. ψ_s,i is the influence of image (or group) i on network s.
    """

    values: Array
    own: Array

    @property
    def seeds(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> Array:
        result: Array = self.values.mean(0)
        return result

    @property
    def variance(self) -> Array:
        """Between the seeds, (M,); NaN for one seed."""
        if self.seeds < 2:
            return np.full(self.values.shape[1], np.nan)
        result: Array = self.values.var(0, ddof=1)
        return result


def own_variance(seeds: int, of_mean: Array, of_all: Array) -> Array:
    """E (M,) from Σ_i ψ̄_i² and Σ_s Σ_i ψ_s,i², both (M,)."""
    if seeds == 1:
        return np.zeros(len(of_mean))
    result: Array = np.maximum(of_all - seeds * of_mean, 0.0) / (seeds * (seeds - 1))
    return result


@dataclass(frozen=True)
class Pooled:
    """σ² between seeds, float64 (M,), pooled over all arms of a sweep, and its degrees of freedom; NaN and 0 if no arm has two seeds."""

    variance: Array
    degrees: int


def pooled(arms: Sequence[ArmSummary]) -> Pooled:
    """σ² = Σ_a (S_a − 1) s_a² / d with d = Σ_a (S_a − 1). Each trained network counts once, whatever is computed from it."""
    degrees = sum(arm.seeds - 1 for arm in arms)
    if degrees == 0:
        return Pooled(np.full(arms[0].values.shape[1], np.nan), 0)
    each = np.stack([(arm.seeds - 1) * arm.variance for arm in arms if arm.seeds > 1])
    return Pooled(np.sort(each, axis=0).sum(0) / degrees, degrees)  # sorted: the order of the arms changes no bit


# scipy.stats computes these with the same functions, and takes half a second to import.


def two_sided(ratio: Array, degrees: Array | float) -> Array:
    """The p-value of a ratio difference / standard error ≥ 0 by Student's t."""
    from scipy.special import stdtr

    return np.asarray(2 * stdtr(degrees, -ratio))


def errors(level: Array | float, degrees: Array | float) -> Array:
    """How many standard errors on either side an interval has that covers 1 − level by Student's t."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(degrees, 1 - np.asarray(level) / 2))


@dataclass(frozen=True)
class Tested:
    """The difference branch − control of M targets, all (M,): ``error`` is √V, ``degrees`` those of Student's t, ``images`` the
    part of V that comes from the images, ``floor`` the least V that so few images allow."""

    difference: Array
    error: Array
    degrees: Array
    p: Array
    images: Array
    floor: Array


@dataclass(frozen=True)
class OfFolds:
    """In k-fold cross-validation: ``variance`` (M,) of a difference as it varies from fold to fold, and ``number`` (M,) of the folds.

    With Δψ_f the sum of ψ_b,i − ψ_0,i over the images of fold f, V_fold = F/(F − 1) Σ_f Δψ_f²: the fold is the case. It counts all that
    differs between folds: parents, seeds, images. Branch and control of a fold have the same parent and the same images, so what
    these have in common is in neither. NaN for fewer than two folds.
    """

    variance: Array
    number: Array

    @classmethod
    def of(cls, sums: Array, number: Array) -> OfFolds:
        """From Δψ_f, (M, F), and how many folds have images of each target, (M,)."""
        factor = np.divide(number, number - 1, out=np.full(len(number), np.nan), where=number > 1)
        return cls(factor * (sums**2).sum(1), number)


def tested(
    branch: ArmSummary,
    control: ArmSummary,
    of_images: Array,
    seeds: Pooled,
    floor: Array,
    cases: Array,
    folds: OfFolds | None,
) -> Tested:
    """Test of every difference. NaN where the variance between seeds is not known.

    V = max[V_seed + max(V_img − E_b − E_0, 0), floor], with V_seed = max[σ² (1/S_b + 1/S_0), s_b²/S_b + s_0²/S_0], so that no
    arm is taken for steadier than it was; min(d, cases − 1) degrees of freedom, from STEADY_SEEDS on Welch's, too.

    Args:
        of_images: V_img = Σ_i (ψ̄_b,i − ψ̄_0,i)², (M,).
        floor: the smallest variance that a metric of so few images can have, (M,).
        cases: images (or groups) that the metric is taken over, (M,).
        folds: V is then at least V_fold, with at most F − 1 degrees of freedom; with one seed, where nothing is known between seeds of
            a fold, V = max[V_fold, V_img, floor].
    """
    s_b, s_0 = branch.seeds, control.seeds
    # The variance of an arm with one seed is not known, so the pooled one stands in.
    of_branch = np.where(np.isnan(branch.variance), seeds.variance, branch.variance) / s_b
    of_control = np.where(np.isnan(control.variance), seeds.variance, control.variance) / s_0
    of_seeds = np.maximum(seeds.variance * (1 / s_b + 1 / s_0), of_branch + of_control)
    images = np.maximum(of_images - branch.own - control.own, 0.0)
    variance = np.maximum(of_seeds + images, floor)
    degrees = np.minimum(float(seeds.degrees), np.maximum(cases - 1.0, 1.0))
    if s_b >= STEADY_SEEDS and s_0 > 1:
        parts = of_branch**2 / (s_b - 1) + of_control**2 / (s_0 - 1)
        welch = np.divide((of_branch + of_control) ** 2, parts, out=np.full(len(parts), np.inf), where=parts > 0)
        degrees = np.minimum(degrees, np.maximum(welch, 1.0))
    if folds is not None:
        known = ~np.isnan(variance)
        variance = np.where(
            known, np.maximum(variance, folds.variance), np.maximum(folds.variance, np.maximum(images, floor))
        )
        degrees = np.where(known, np.minimum(degrees, folds.number - 1), folds.number - 1)
    difference = branch.mean - control.mean
    error = np.sqrt(variance)
    degrees = np.where(np.isnan(variance), np.nan, degrees)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Without a floor the variance can be 0: then any difference is certain, and no difference is none.
        ratio = np.where(error > 0, np.abs(difference) / error, np.where(difference == 0, 0.0, np.inf))
    ratio = np.where(np.isnan(variance), np.nan, ratio)
    p = two_sided(ratio, degrees)
    return Tested(difference, error, degrees, p, images, floor)
