"""Compare a branch with its control however often one looks: e-values of a t statistic, and error that is spent over looks.

Between two looks seeds are added, where they decide something. The e-value is the Bayes factor of Student's t with the right-Haar
prior on the variance and a normal prior on the effect in units of the seeds' standard deviation (Gönen et al. 2005, doi
10.1198/000313005X55233). It is a test martingale under every stopping rule that looks at these ratios (Pérez-Ortiz, Lardy,
de Heide & Grünwald 2024, "E-statistics, group invariance and anytime-valid testing", doi 10.1214/24-AOS2394; Hendriksen, de Heide
& Grünwald 2021, doi 10.1214/20-BA1234): with equal treatments it ever exceeds 1/α in at most α of all races (Ville 1939).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from raysweep.report.findings.variance import ArmSummary, pooled, tested

Array = np.ndarray
LEVEL = (
    0.05  # of a hunt among equal treatments that finds anything; it is spent on the rounds, and on the look at the end
)
OF_ROUNDS, OF_THE_END = 0.02, 0.03
EFFECT = 2.0  # standard deviation of the prior on the effect, in standard deviations between seeds


@dataclass(frozen=True)
class Looked:
    """Differences branch − control as they stand at one look, (B,) each. ``error`` is the standard error of each, ``degrees`` the
    degrees of freedom of it, ``seeds`` and ``of_control`` the trainings on either side."""

    difference: Array
    error: Array
    degrees: Array
    seeds: Array
    of_control: Array

    @property
    def ratio(self) -> Array:
        """Student's t; 0 where nothing is known."""
        known = (self.error > 0) & (self.degrees > 0)
        result: Array = np.divide(self.difference, self.error, out=np.zeros(len(self.difference)), where=known)
        return np.where(np.isfinite(result), result, 0.0)

    @property
    def size(self) -> Array:
        """n: a difference of δ standard deviations between seeds has a ratio of δ √n."""
        return 1 / (1 / self.seeds + 1 / self.of_control)


def e_better(looked: Looked) -> Array:
    """The evidence that each branch is better, (B,): 1 is none, 1/α is enough at the level α. One-sided: the prior is on positive
    effects only. A branch with one seed is never called better or worse, so it has 1."""
    return np.where(looked.seeds > 1, e_value(looked.ratio, looked.size, looked.degrees), 1.0)


def e_worse(looked: Looked) -> Array:
    """The evidence that each branch is worse, (B,)."""
    return e_better(replace(looked, difference=-looked.difference))


def e_value(ratio: Array, size: Array, degrees: Array, effect: float = EFFECT) -> Array:
    """∫ f(t | δ) p(δ) dδ / f(t | 0) for δ > 0, with f the noncentral t density with centrality δ √n and p the half-normal density.

    = g^(−½) [(1 + t²/ν) / (1 + t²/(ν g))]^((ν + 1)/2) · 2 T_(ν+1)(a t √((ν + 1)/(ν + t²/g))), with g = 1 + n c², a = √(n c²/g).

    Args:
        ratio: t (B,). size: n (B,). degrees: ν (B,); with none the e-value is 1.
    """
    from scipy.special import stdtr

    g = 1 + size * effect**2
    nu = np.where(np.asarray(degrees) > 0, degrees, 1.0)
    squared = ratio**2
    log = (nu + 1) / 2 * (np.log1p(squared / nu) - np.log1p(squared / (nu * g))) - np.log(g) / 2
    side = 2 * stdtr(nu + 1, np.sqrt(1 - 1 / g) * ratio * np.sqrt((nu + 1) / (nu + squared / g)))
    value = np.exp(np.minimum(log, 700.0)) * side
    result: Array = np.where(np.asarray(degrees) > 0, value, 1.0)
    return result


def half_width(looked: Looked, level: float, effect: float = EFFECT) -> Array:
    """Half of the confidence sequence of each difference, (B,): it covers the truth at all looks together with 1 − level. Infinite where
    so few seeds can exclude nothing.

    The differences μ whose two-sided e-value (t² at (d − μ)/error) stays below 1/level.
    """
    g = 1 + looked.size * effect**2
    nu = np.where(looked.degrees > 0, looked.degrees, 1.0)
    bound = np.exp(2 / (nu + 1) * (np.log(g) / 2 - np.log(level)))
    left = 1 - bound / g
    squared = np.divide(nu * (bound - 1), left, out=np.full(len(g), np.inf), where=(left > 0) & (looked.degrees > 0))
    result: Array = np.sqrt(squared) * np.where(np.isfinite(squared), looked.error, 1.0)
    return result


def shown(evidence: Array, level: float) -> Array:
    """bool (B,): which of B e-values are enough, where all were looked at. e-BH (Wang & Ramdas 2022, doi 10.1111/rssb.12489): the k largest
    with e ≥ B/(k · level). However the branches depend on each other, in at most ``level`` of races among equals is anything shown."""
    count = len(evidence)
    order = np.argsort(-evidence, kind="stable")
    enough = evidence[order] * np.arange(1, count + 1) >= count / level
    most = int(np.flatnonzero(enough).max()) + 1 if enough.any() else 0
    result = np.zeros(count, dtype=bool)
    result[order[:most]] = True
    return result


def spent(number: int, level: float) -> float:
    """What round ``number`` (from 1) may spend of a level: level / (r (r + 1)), so that any number of rounds spends at most all of it.

    >>> [round(spent(r, 0.06), 3) for r in (1, 2, 3)]
    [0.03, 0.01, 0.005]
    """
    return level / (number * (number + 1))


def of_arms(
    arms: Sequence[ArmSummary],
    controls: Sequence[ArmSummary],
    of: Sequence[int],
    images: Array,
    floor: float = 0.0,
    cases: float = math.inf,
) -> Looked:
    """What one metric (M = 1) of every branch shows, as a comparison of the sweep would test it: the variance between seeds is pooled over all
    arms, no arm is taken for steadier than it was, and the images count (:func:`raysweep.report.findings.variance.tested`).

    Args:
        of: of each branch which of the ``controls`` it is compared with.
        images: V_img of each difference, (B,).
        floor, cases: the smallest variance of the metric, and the images that it is taken over.
    """
    between = pooled([*controls, *arms])
    known = between.degrees > 0
    found = [
        tested(arm, controls[its], of_images[None], between, np.full(1, floor), np.full(1, cases), None)
        for arm, its, of_images in zip(arms, of, images, strict=True)
    ]
    return Looked(
        np.array([f.difference[0] for f in found]),
        np.array([f.error[0] if known else 0.0 for f in found]),
        np.array([f.degrees[0] if known else 0.0 for f in found]),
        np.array([float(arm.seeds) for arm in arms]),
        np.array([float(controls[its].seeds) for its in of]),
    )


def of_values(values: Sequence[Sequence[float]], control: Sequence[float]) -> Looked:
    """The same of numbers alone: one of each seed of every branch, and of the control that they share."""
    every = [ArmSummary(np.asarray(v, dtype=np.float64)[:, None], np.zeros(1)) for v in (control, *values)]
    return of_arms(every[1:], every[:1], [0] * len(values), np.zeros(len(values)))
