"""The model of a hunt: what it expects, what it proposes, and that it finds a planted optimum with fewer images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from raysweep.plan.hunt import model
from raysweep.plan.hunt.model import Round

HEIGHT, NEAR, HORIZON = (
    4.0,
    0.6,
    132,
)  # of the optimum, in standard deviations between seeds; what counts as found; trainings
Truth = Callable[[np.ndarray], np.ndarray]


def planted(rng: np.random.Generator, dimensions: int) -> Truth:
    best = rng.uniform(0.1, 0.9, dimensions)
    return lambda x: HEIGHT * np.exp(-((np.atleast_2d(x) - best) ** 2).sum(1) / (2 * 0.35**2))


def found_after(path: Sequence[tuple[int, float]]) -> float:
    """After how many trainings what is recommended is close to the optimum, for good."""
    good = math.inf
    for trainings, value in reversed(path):
        if value < HEIGHT - NEAR:
            break
        good = trainings
    return good


def hunt(rng: np.random.Generator, f: Truth, dimensions: int, branches: int = 8, controls: int = 2) -> float:
    control = rng.uniform(0, 1, dimensions)
    tried, rounds, path, used = control[None], [], [], 0
    while used + branches + controls <= HORIZON:
        if not rounds:
            points = model.spread_out(branches, dimensions, int(rng.integers(10**6)))
        else:
            points = model.next_points(known, tried, branches, len(rounds))  # noqa: F821
        gains = f(points) + rng.normal(0, 1, branches) - f(control)[0] - rng.normal(0, 1, controls).mean()
        rounds.append(Round(points, control, gains, np.eye(branches) + 1 / controls))
        tried, used, known = np.vstack([tried, points]), used + branches + controls, model.fit(rounds)
        control = tried[known.mean(tried).argmax()]
        path.append((used, float(f(control)[0])))
    return found_after(path)


def one_by_one(rng: np.random.Generator, f: Truth, points: np.ndarray, controls: int = 4) -> float:
    """Whoever tries points with one seed each, and believes the best."""
    values = f(points) + rng.normal(0, 1, len(points))
    best = [int(values[: n + 1].argmax()) for n in range(len(points))]
    return found_after([(controls + n + 1, float(v)) for n, v in enumerate(f(points)[best])])


def races(hunts: int) -> np.ndarray:
    """(hunts, 3): trainings until a hunt, a random search and a grid have found the optimum."""
    from threadpoolctl import threadpool_limits

    rows = []
    with threadpool_limits(1):  # of small matrices more threads only wait for each other
        for seed in range(hunts):
            rows.append(_race(seed))
    return np.array(rows)


def _race(seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    f = planted(rng, 3)
    levels = np.linspace(0, 1, 5)
    grid = rng.permutation(np.array(list(itertools.product(levels, repeat=3))))
    return [hunt(rng, f, 3), one_by_one(rng, f, rng.uniform(0, 1, (128, 3))), one_by_one(rng, f, grid)]


def test_a_hunt_finds_a_planted_optimum_with_fewer_images():
    found = races(4)
    assert (found[:, 0] < found[:, 1]).mean() >= 0.5


@pytest.mark.slow
def test_30_hunts_against_random_search_and_a_grid():
    found = races(30)
    assert (found[:, 0] < found[:, 1]).mean() >= 0.7
    assert (found[:, 0] < found[:, 2]).mean() >= 0.7
    hunted, others = np.median(found[:, 0]), np.median(found[:, 1:], axis=0)
    assert (hunted / others <= 0.6).all()  # those that never find it count as infinite


def test_differences_from_controls_of_other_rounds_are_put_together():
    """Round 2 is measured against a treatment that gains 2: a gain of 1 over it is 3 over the first control."""
    a, b, c = (np.array([x, x]) for x in (0.1, 0.5, 0.9))
    small = np.eye(1) * 1e-4
    known = model.fit([Round(b[None], a, np.array([2.0]), small), Round(c[None], b, np.array([1.0]), small)])
    mean = known.mean(np.stack([a, b, c]))
    assert mean - mean[0] == pytest.approx([0.0, 2.0, 3.0], abs=0.05)


def test_a_noisy_gain_is_believed_less():
    a, b, c = (np.array([x, 0.0]) for x in (0.0, 0.5, 1.0))
    noise = np.diag([1e-4, 25.0])
    known = model.fit([Round(np.stack([b, c]), a, np.array([1.0, 3.0]), noise)])
    mean = known.mean(np.stack([a, b, c]))
    assert mean[1] - mean[0] == pytest.approx(1.0, abs=0.1)
    assert mean[2] - mean[0] < 2


def test_proposals_differ_and_are_the_same_again():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, (6, 2))
    known = model.fit([Round(points, points[0], rng.normal(0, 1, 6), np.eye(6))])
    first, again = (model.next_points(known, points, 5, 3) for _ in range(2))
    assert (first == again).all()
    assert len(np.unique(first, axis=0)) == 5
    assert ((first >= 0) & (first <= 1)).all()
