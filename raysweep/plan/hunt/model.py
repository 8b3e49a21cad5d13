"""The model of a hunt: what every round so far says of all treatments, and which ones to try next.

A round measures differences: each branch against the control that it shares with the others of its round, which may have another
treatment than that of the round before. So the model is a Gaussian process of the metric over all treatments, of which such
differences are observed (Rasmussen & Williams 2006, ISBN 026218253X, chapter 2). Proposals are those with the largest upper bound, one after
another, each as if the ones before had come out as expected: GP-BUCB (Desautels, Krause & Burdick 2014, JMLR 15:3873).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

SCALES = (0.15, 0.3, 0.6, 1.2)  # over which the metric changes, as a part of the space
HEIGHTS = (0.5, 1.0, 2.0, 4.0)  # standard deviation of the metric over the space, in that of the differences
BOLD = 3.0  # standard deviations that are added to what is expected
CANDIDATES = 256  # of each proposal, beside those around the best; a power of two, as Sobol's points need


@dataclass(frozen=True)
class Round:
    """What one round measured. ``points`` (B, D) in the unit cube and ``control`` (D,); ``gains`` (B,) over the control, and
    their ``noise`` (B, B): the shared control makes them vary together."""

    points: Array
    control: Array
    gains: Array
    noise: Array


@dataclass(frozen=True)
class Model:
    """The posterior: of any points what is expected of them over the control of the first round, and how sure that is."""

    points: Array  # (P, D), those that were observed
    differences: Array  # (N, P), which two points each observed gain is the difference of
    weights: Array  # (N,), (A K Aᵀ + noise)⁻¹ gains
    root: Array  # (N, N), lower Cholesky root of A K Aᵀ + noise
    scale: float
    height: float

    def _to(self, points: Array) -> Array:
        """Covariance of the function at ``points`` (C, D) with the observed gains, (C, N)."""
        result: Array = kernel(points, self.points, self.scale, self.height) @ self.differences.T
        return result

    def mean(self, points: Array) -> Array:
        """What is expected at ``points`` (C, D), up to a constant that all share: (C,)."""
        result: Array = self._to(points) @ self.weights
        return result

    def covariance(self, points: Array) -> Array:
        """(C, C)"""
        from scipy.linalg import solve_triangular

        half = solve_triangular(self.root, self._to(points).T, lower=True)
        result: Array = kernel(points, points, self.scale, self.height) - half.T @ half
        return result


def kernel(a: Array, b: Array, scale: float, height: float) -> Array:
    """Matérn's of order 5/2 between points (A, D) and (B, D) of the unit cube, (A, B)."""
    from scipy.spatial.distance import cdist

    r = np.sqrt(5.0) * cdist(a, b) / (scale * np.sqrt(a.shape[1]))
    result: Array = height**2 * (1 + r + r**2 / 3) * np.exp(-r)
    return result


def fit(rounds: Sequence[Round]) -> Model:
    """The model of all rounds, with the scale and the height that make what was measured most likely. Deterministic."""
    points = np.concatenate([np.vstack([r.control[None], r.points]) for r in rounds])
    gains = np.concatenate([r.gains for r in rounds])
    differences, noise = np.zeros((len(gains), len(points))), np.zeros((len(gains), len(gains)))
    row = column = 0
    for r in rounds:
        count = len(r.gains)
        differences[row : row + count, column] = -1
        differences[row : row + count, column + 1 : column + 1 + count] = np.eye(count)
        noise[row : row + count, row : row + count] = r.noise
        row, column = row + count, column + 1 + count
    spread = max(float(np.sqrt(np.mean(gains**2))), 1e-6)
    found: list[tuple[float, Model]] = []
    for scale in SCALES:
        shape = differences @ kernel(points, points, scale, 1.0) @ differences.T
        for height in (spread * times for times in HEIGHTS):
            of_gains = height**2 * shape + noise + 1e-9 * spread**2 * np.eye(len(gains))
            root = np.linalg.cholesky(of_gains)
            weights = np.linalg.solve(of_gains, gains)
            likelihood = float(-gains @ weights / 2 - np.log(np.diag(root)).sum())
            found.append((likelihood, Model(points, differences, weights, root, scale, height)))
    return max(found, key=lambda pair: pair[0])[1]


def spread_out(count: int, dimensions: int, seed: int) -> Array:
    """(count, D): points that fill the unit cube evenly, for a first round; a function of the seed alone."""
    from scipy.stats import qmc

    size = 1 << max(0, count - 1).bit_length()
    found: Array = qmc.Sobol(dimensions, rng=np.random.default_rng(seed)).random(size)[:count]
    return found


def propose(model: Model, candidates: Array, count: int, bold: float = BOLD) -> list[int]:
    """The indices of the ``count`` candidates (C, D) to try next."""
    mean, spread = model.mean(candidates), model.covariance(candidates)
    chosen: list[int] = []
    jitter = 1e-6 * model.height**2
    for _ in range(min(count, len(candidates))):
        bound = mean + bold * np.sqrt(np.maximum(np.diag(spread), 0.0))
        bound[chosen] = -np.inf
        best = int(bound.argmax())
        chosen.append(best)
        column = spread[:, best]
        spread = spread - np.outer(column, column) / (column[best] + jitter + 0.05 * model.height**2)
    return chosen


def next_points(
    model: Model, tried: Array, count: int, seed: int, snap: Callable[[Array], Array] = lambda points: points
) -> Array:
    """(count, D): what to try next, from points all over the unit cube and around the best of those that were ``tried`` (T, D).

    Args:
        snap: moves points to where treatments really are.
    """
    best = tried[np.argsort(-model.mean(tried), kind="stable")[:3]]
    candidates = snap(np.vstack([spread_out(CANDIDATES, tried.shape[1], seed), around(best, seed)]))
    result: Array = candidates[propose(model, candidates, count)]
    return result


def around(points: Array, seed: int, each: int = 32, step: float = 0.12) -> Array:
    """(P · each, D): points close to those that are good."""
    drawn = np.random.default_rng(seed).normal(0.0, step, (len(points), each, points.shape[1]))
    result: Array = np.clip(points[:, None] + drawn, 0.0, 1.0).reshape(-1, points.shape[1])
    return result
