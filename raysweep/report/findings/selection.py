"""Correct the gain of a winner for having been chosen: the best of 14 equal branches claims a point that is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
DRAWS = 2000


@dataclass(frozen=True)
class Winner:
    """The branch with the largest gain, its gain as measured and corrected for having been chosen among ``among`` branches."""

    branch: str
    gain: float
    corrected: float
    among: int


def covariance(
    influence: Array, own: Array, own_control: float, between: float, seeds: Array, seeds_control: int
) -> Array:
    """Σ (B, B) of the branches' gains over the control that they share: Σ = ΨΨᵀ − diag(E_b) − E_0 11ᵀ + σ² (diag(1/S_b) + 11ᵀ/S_0),
    negative eigenvalues cut. NaN if σ² is.

    Args:
        influence: Ψ (B, G), the mean influence of every case on the branch minus that on the control.
        own: E_b (B,), the part of Ψ's sum of squares that comes from the seeds; ``own_control`` that of the control.
        between: σ², the variance between seeds.
        seeds: S_b (B,).
    """
    if np.isnan(between):
        return np.full((len(influence), len(influence)), np.nan)
    raw = influence @ influence.T - np.diag(own) - own_control
    raw += between * (np.diag(1 / seeds) + 1 / seeds_control)
    values, vectors = np.linalg.eigh((raw + raw.T) / 2)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    result: Array = root @ root.T
    return result


def wider(spread: Array, sums: Array) -> Array:
    """``spread`` (B, B), or in k-fold cross-validation what the gains show from fold to fold, if that is more or the other is not known:
    F/(F − 1) ΦΦᵀ.

    Args:
        sums: Φ (B, F), the influence of the cases of each fold, added up.
    """
    folds = sums.shape[1]
    between: Array = sums @ sums.T * (folds / max(folds - 1, 1))
    return between if np.isnan(spread).any() or np.trace(between) > np.trace(spread) else spread


def luck(gains: Array, spread: Array, of_seeds: Array, seed: int = 0) -> float:
    """What the winner gains on other images, too, by luck of its seeds and without a better treatment: its networks are really
    better, and other seeds would not be.

    The best of each draw of :func:`corrected` has a part of its d* − d̃ from the seeds: in the mean Σ_seeds Σ⁻¹ (d* − d̃).

    Args:
        of_seeds: (B,), the variance of each branch's gain that the branch's own seeds make on any images.
    """
    centre, drawn = _draws(gains, spread, seed)
    chosen = drawn.argmax(1)
    off = np.linalg.pinv(spread, hermitian=True) @ (drawn - centre).T
    return float((of_seeds[chosen] * off[chosen, np.arange(DRAWS)]).mean())


def corrected(names: Sequence[str], gains: Array, spread: Array, seed: int = 0) -> Winner:
    """The winner of B branches, with the mean bias of a winner subtracted.

    Draws d* ~ N(d̃, Σ) around the gains shrunk to their mean by max(0, 1 − noise/observed variance); of each draw the winner's
    d* − d̃ is its bias.

    Args:
        gains: (B,), mean of the branch − mean of the control.
        spread: Σ (B, B), their covariance.
        seed: of the draws.
    """
    centre, drawn = _draws(gains, spread, seed)
    chosen = drawn.argmax(1)
    bias = float((drawn[np.arange(DRAWS), chosen] - centre[chosen]).mean())
    winner = int(gains.argmax())
    return Winner(names[winner], float(gains[winner]), float(gains[winner]) - bias, len(gains))


def _draws(gains: Array, spread: Array, seed: int) -> tuple[Array, Array]:
    """(the gains shrunk to their mean, (B,); draws around them, (DRAWS, B))."""
    count = len(gains)
    # What all branches share (the control's noise) does not spread them.
    noise = (np.trace(spread) - spread.sum() / count) / max(count - 1, 1)
    observed = gains.var(ddof=1)
    keep = max(0.0, 1 - noise / observed) if observed > 0 else 0.0
    centre = gains.mean() + keep * (gains - gains.mean())
    values, vectors = np.linalg.eigh(spread)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return centre, centre + np.random.default_rng(seed).standard_normal((DRAWS, count)) @ root.T
