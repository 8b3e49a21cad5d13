"""Races and hunts among treatments whose true effects are known, in standard deviations between seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raysweep.report.findings import racing, sequential
from raysweep.report.findings.findings import _adjusted
from raysweep.report.findings.racing import Rules
from raysweep.report.findings.variance import two_sided


def race(rng: np.random.Generator, effects: Sequence[float], rules: Rules) -> tuple[np.ndarray, int, np.ndarray]:
    """(which branches were ever shown to be better; the trainings that it took; the means of the branches at its end)."""
    values = [list(rng.normal(e, 1, racing.FIRST)) for e in effects]
    control = list(rng.normal(0, 1, racing.FIRST_CONTROL))
    names = [str(i) for i in range(len(effects))]
    ever = np.zeros(len(effects), dtype=bool)
    while True:
        looked = sequential.of_values(values, control)
        ever |= sequential.shown(sequential.e_better(looked), rules.level)
        step = racing.step(names, ["control"] * len(names), looked, rules)
        if not step.more:
            return ever, sum(map(len, values)) + len(control), looked.difference
        control += rng.normal(0, 1, step.more.get("control", 0)).tolist()
        for name in names:
            values[int(name)] += rng.normal(effects[int(name)], 1, step.more.get(name, 0)).tolist()


def full(rng: np.random.Generator, effects: Sequence[float], seeds: int, controls: int) -> tuple[np.ndarray, int]:
    """(which branches an ordinary sweep shows to be better, all with as many seeds; its trainings)."""
    looked = sequential.of_values(
        [rng.normal(e, 1, seeds).tolist() for e in effects], rng.normal(0, 1, controls).tolist()
    )
    q = _adjusted(two_sided(np.abs(looked.ratio), looked.degrees))
    return (q <= 0.05) & (looked.difference > 0), len(effects) * seeds + controls


def hunt_finds(rng: np.random.Generator, branches: int, rounds: int, seeds: int = 3, gain: float = 0.0) -> bool:
    """Whether a hunt among equal treatments finds something: in a round, or at its end with new seeds of the winner."""
    for number in range(1, rounds + 1):
        rules = Rules(sequential.spent(number, sequential.OF_ROUNDS), 6, 8, 20)
        shown, _, _ = race(rng, [gain] * branches, rules)
        if shown.any():
            return True
    end = sequential.of_values([rng.normal(gain, 1, seeds).tolist()], rng.normal(0, 1, seeds).tolist())
    p = two_sided(np.abs(end.ratio), end.degrees)[0]
    return bool(end.difference[0] > 0 and p <= sequential.OF_THE_END)
