"""What the next round tries: from the model of all rounds so far, or from one of Optuna's samplers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from raysweep.errors import ConfigError
from raysweep.plan.hunt import model
from raysweep.plan.hunt.model import Round
from raysweep.plan.hunt.space import Axes

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Array = np.ndarray
MODEL, OPTUNA, RANDOM = PROPOSERS = ("model", "optuna", "random")


def next_round(rounds: Sequence[Round], axes: Axes, control: Array, count: int, proposer: str, seed: int) -> Array:
    """(≤ count, D): the points to try next, none of them the control's; fewer where the space has no more. Deterministic.

    Args:
        rounds: what was measured; none before the first round.
        control: the point of the treatment that the round starts from.
    """
    number = len(rounds) + 1
    own = seed * 1000 + number
    if not rounds or proposer == RANDOM:
        drawn = model.spread_out(4 * count, axes.dimensions, own)
        return _others(axes.snapped(drawn if proposer == RANDOM else drawn[:count]), control)[:count]
    if proposer == OPTUNA:
        return _others(axes.snapped(_optuna(rounds, axes.dimensions, count, own)), control)
    known = model.fit(rounds)
    tried = np.vstack([np.vstack([r.control[None], r.points]) for r in rounds])
    found: Array = model.next_points(known, tried, count, own, lambda points: _others(axes.snapped(points), control))
    return found


def expected(rounds: Sequence[Round]) -> Array:
    """What the model expects of the last round's branches over its control, (B,)."""
    known, last = model.fit(rounds), rounds[-1]
    base = known.mean(last.control[None])
    found: Array = known.mean(last.points) - base
    return found


def _others(points: Array, control: Array) -> Array:
    """Without those that are what the control does."""
    kept: Array = points[np.abs(points - control).max(axis=1) > 1e-9]
    return kept


def _optuna(rounds: Sequence[Round], dimensions: int, count: int, seed: int) -> Array:
    """What Optuna's TPE sampler proposes, over the unit cube; gains are put together by adding those of the controls.

    Raises:
        ConfigError: Optuna is not installed.
    """
    try:
        import optuna
        from optuna.distributions import FloatDistribution
    except ImportError:
        raise ConfigError("--proposer optuna needs Optuna: pip install 'raysweep[optuna]'.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, BaseDistribution] = {f"x{i}": FloatDistribution(0.0, 1.0) for i in range(dimensions)}
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=4)
    )
    for r, before in zip(rounds, _of_controls(rounds), strict=True):
        for point, gain in zip(r.points, r.gains, strict=True):
            params = {name: float(x) for name, x in zip(space, point, strict=True)}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=float(gain + before)))
    return np.array([list(study.ask(space).params.values()) for _ in range(count)])


def _of_controls(rounds: Sequence[Round]) -> list[float]:
    """What the control of each round gained over that of the first, as its own round measured it."""
    found = [0.0]
    for before, now in itertools.pairwise(rounds):
        same = np.flatnonzero(np.abs(before.points - now.control).max(axis=1) <= 1e-9)
        found.append(found[-1] + (float(before.gains[same[0]]) if len(same) else 0.0))
    return found
