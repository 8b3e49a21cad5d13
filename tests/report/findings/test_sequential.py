"""E-values of Student's t: their value, and that looking as often as one likes finds nothing among equals."""

from __future__ import annotations

import numpy as np
import pytest

from raysweep.report.findings import sequential
from raysweep.report.findings.sequential import Looked
from tests.report.findings import racing


@pytest.mark.parametrize(("ratio", "size", "degrees"), [(2.0, 1.5, 10), (-1.0, 2.0, 5), (4.0, 3.0, 30), (0.0, 1.0, 3)])
def test_an_e_value_is_the_integral_that_it_says(ratio, size, degrees):
    from scipy.integrate import quad
    from scipy.stats import halfnorm, nct, t

    def density(effect: float) -> float:
        return float(nct.pdf(ratio, degrees, effect * size**0.5) * halfnorm.pdf(effect, scale=sequential.EFFECT))

    expected = quad(density, 0, 20)[0] / t.pdf(ratio, degrees)
    found = sequential.e_value(np.array([ratio]), np.array([size]), np.array([degrees]))[0]
    assert found == pytest.approx(expected, rel=1e-6)


def equal_arms_ever_exceed(count: int, level: float, looks: int = 20) -> tuple[int, int]:
    """(of so many races of one branch, how many ever show something; how many confidence sequences ever miss 0)."""
    rng = np.random.default_rng(5)
    false = missed = 0
    for _ in range(count):
        branch, control = rng.normal(size=looks), rng.normal(size=looks)
        every = [sequential.of_values([branch[:k]], control[:k]) for k in range(2, looks + 1)]
        false += any(sequential.e_better(one)[0] >= 1 / level for one in every)
        missed += any(abs(one.difference[0]) > sequential.half_width(one, level)[0] for one in every)
    return false, missed


def test_looking_after_every_seed_finds_nothing_among_equals():
    false, missed = equal_arms_ever_exceed(60, 0.05)
    assert false <= 7
    assert missed <= 7


@pytest.mark.slow
def test_looking_after_every_seed_finds_nothing_among_equals_in_many_races():
    false, missed = equal_arms_ever_exceed(1000, 0.05)
    assert false <= 65
    assert missed <= 65


def test_the_confidence_sequence_ends_where_the_e_value_reaches_the_level():
    looked = sequential.of_values([[1.0, 2.0, 1.5, 1.2]], [0.0, 0.3, -0.2, 0.1])
    half = sequential.half_width(looked, 0.05)[0]
    g = 1 + looked.size[0] * sequential.EFFECT**2
    nu, t = looked.degrees[0], half / looked.error[0]
    e = g**-0.5 * ((1 + t**2 / nu) / (1 + t**2 / (nu * g))) ** ((nu + 1) / 2)
    assert e == pytest.approx(20)


def test_what_is_not_known_is_no_evidence():
    one = sequential.of_values([[5.0]], [0.0, 0.1, 0.2])  # one seed
    assert sequential.e_better(one)[0] == 1
    nothing = sequential.of_values([[5.0]], [0.0])  # nothing varies
    assert (nothing.degrees[0], sequential.e_better(nothing)[0]) == (0, 1)
    assert np.isinf(sequential.half_width(nothing, 0.05)[0])
    same = sequential.of_values(
        [[1.0, 1.0]], [0.0, 0.0]
    )  # no variation at all: no doubt is known, so nothing is claimed
    assert sequential.e_better(same)[0] <= 1


def test_the_shared_level_of_many_branches():
    assert sequential.shown(np.array([100.0, 1.0, 39.0]), 0.05).tolist() == [True, False, True]
    assert sequential.shown(np.array([59.0, 1.0, 1.0]), 0.05).tolist() == [False, False, False]
    assert sum(sequential.spent(r, 0.02) for r in range(1, 1000)) <= 0.02
    assert pytest.approx(sequential.LEVEL) == sequential.OF_ROUNDS + sequential.OF_THE_END


def test_a_branch_that_is_worse_is_told_by_the_same_evidence():
    looked = Looked(np.array([-2.0]), np.array([0.4]), np.array([12.0]), np.array([4.0]), np.array([6.0]))
    assert sequential.e_worse(looked)[0] > 20 > 1 > sequential.e_better(looked)[0]


def hunts_that_find(count: int) -> int:
    rng = np.random.default_rng(11)
    return sum(racing.hunt_finds(rng, branches=8, rounds=3) for _ in range(count))


def test_hunts_among_equal_treatments_find_nothing():
    assert hunts_that_find(10) <= 2


@pytest.mark.slow
def test_of_200_hunts_among_equal_treatments_at_most_16_find_something():
    assert hunts_that_find(200) <= 16
