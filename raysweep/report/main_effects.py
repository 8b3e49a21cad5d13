"""What every weight and every setting of a sweep does by itself, estimated from all its branches together.

Every level of every varied class and setting adds its own amount to the difference from the control (generalised least squares, since
the branches share the control; Aitken 1936). So the effects of the two weights of ``disgust=5_fear=2`` are
separated wherever the other branches allow it. A level counts as real by Holm's method over all levels (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raysweep.config import cells
from raysweep.report import effects
from raysweep.report.comparison import Comparison
from raysweep.report.findings.variance import errors, two_sided


@dataclass(frozen=True)
class Level:
    """One weight of one class that was tried: what it adds to the metric by itself, with its standard error, in [0, 1], and half of its
    95 % interval. The last two are NaN where no branch has two seeds."""

    weight: float
    effect: float
    error: float
    real: bool  # by Holm's method over all levels of the sweep
    half: float = math.nan


@dataclass(frozen=True)
class SettingLevel:
    """One value of a setting that was tried, as :class:`Level`. ``settings``: by dotted key; several where only all of them together
    were tried."""

    name: str
    settings: cells.Flat
    effect: float
    error: float
    real: bool
    half: float


@dataclass(frozen=True)
class MainEffects:
    """``classes``: class → the levels that were tried, the lowest first. ``settings``: factor → its levels. ``mixed``: the classes and
    factors whose own part the branches do not determine, because they were always varied together with others."""

    classes: Mapping[str, list[Level]]
    settings: Mapping[str, list[SettingLevel]]
    mixed: Sequence[str]


def estimate(found: Comparison, metric: str) -> MainEffects:
    """The main effects of a sweep on a metric over all classes."""
    assert found.findings is not None, "a sweep with a control has predictions"
    changed = [{c: after for c, (_, after) in b.change.items()} for b in found.branches]
    weights = sorted({(c, w) for branch in changed for c, w in branch.items()})
    factors = cells.levels([b.settings for b in found.branches])
    values = list(dict.fromkeys((f, level) for branch in factors for f, level in branch.items()))
    if not weights and not values:
        return MainEffects({}, {}, [])
    design = np.array(
        [
            [float(by_class.get(c) == w) for c, w in weights] + [float(mine.get(f) == level) for f, level in values]
            for by_class, mine in zip(changed, factors, strict=True)
        ]
    )
    gains, degrees = found.findings.gains[metric], found.findings.seeds.degrees
    estimates, spread = least_squares(design, gains.values, gains.covariance, gains.shared)
    real = _holm(estimates, spread, degrees)
    half = errors(effects.LEVEL, degrees) * spread if degrees else spread
    rows = list(zip(estimates.tolist(), spread.tolist(), real.tolist(), half.tolist(), strict=True))
    classes: dict[str, list[Level]] = {}
    for (c, w), row in zip(weights, rows, strict=False):
        classes.setdefault(c, []).append(Level(w, *row))
    settings: dict[str, list[SettingLevel]] = {}
    for (f, level), row in zip(values, rows[len(weights) :], strict=True):
        tried = next(b.settings for b, mine in zip(found.branches, factors, strict=True) if mine.get(f) == level)
        own = {k: v for k, v in tried.items() if k in f.split(" and ")}
        settings.setdefault(f, []).append(SettingLevel(level, own, *row))
    owners = [c for c, _ in weights] + [f for f, _ in values]
    return MainEffects(classes, settings, _mixed(design, owners))


def _mixed(design: np.ndarray, owners: Sequence[str]) -> list[str]:
    """The classes and factors of which some effect is not determined."""
    rank, names = np.linalg.matrix_rank, np.array(owners, dtype=object)
    return [o for o in dict.fromkeys(owners) if rank(design) - rank(design[:, names != o]) < owners.count(o)]


def least_squares(
    design: np.ndarray, gains: np.ndarray, covariance: np.ndarray, shared: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(estimates, standard errors) of every column of ``design`` (branches, levels); errors are NaN where the covariance is.

    The branches are weighted by what is known beforehand, the numbers of seeds and the control that they share. Weights from the
    measured covariance would favour what seems steady by luck. Where levels cannot be told apart, the pseudo-inverse gives the smallest effects that explain the differences.

    Args:
        shared: (branches, branches), see :class:`Gains`; None: all arms have equally many seeds.
    """
    count = len(gains)
    known = np.eye(count) + 1 if shared is None else shared
    weighted = design.T @ np.linalg.inv(known)
    solution = np.linalg.pinv(weighted @ design, rcond=1e-9, hermitian=True) @ weighted
    variance = np.einsum("ib,bc,ic->i", solution, covariance, solution)
    return solution @ gains, np.sqrt(np.maximum(variance, 0.0))


def _holm(estimates: np.ndarray, spread: np.ndarray, degrees: int) -> np.ndarray:
    """bool: which effects are not 0, with at most 5 % of sweeps without any effect naming one."""
    if not degrees or np.isnan(spread).any():
        return np.zeros(len(estimates), dtype=bool)
    p = two_sided(np.abs(estimates) / np.maximum(spread, 1e-12), degrees)
    order = np.argsort(p)
    passed = p[order] * np.arange(len(p), 0, -1) <= effects.LEVEL
    real = np.zeros(len(p), dtype=bool)
    real[order] = np.logical_and.accumulate(passed)
    return real
