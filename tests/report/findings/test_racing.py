"""Racing: seeds only where they decide something, and the images that this saves."""

from __future__ import annotations

import numpy as np
import pytest

from raysweep.report.findings import racing as deciding
from raysweep.report.findings import sequential
from raysweep.report.findings.racing import Rules
from tests.report.findings import racing

FOURTEEN = [2.0, 2.0] + [0.0] * 8 + [-1.0, -1.0, -2.0, -2.0]


def power(times: int) -> tuple[float, float, float, float, int]:
    """(power and images of a race, power and images of full-length branches, and the races with a false finding)."""
    rng = np.random.default_rng(3)
    raced = [racing.race(rng, FOURTEEN, Rules()) for _ in range(times)]
    whole = [racing.full(rng, FOURTEEN, 7, 10) for _ in range(times)]
    false = sum(bool(shown[2:].any()) for shown, _, _ in raced)
    return (
        float(np.mean([shown[:2].mean() for shown, _, _ in raced])),
        float(np.mean([cost for _, cost, _ in raced])),
        float(np.mean([shown[:2].mean() for shown, _ in whole])),
        float(np.mean([cost for _, cost in whole])),
        false,
    )


def test_a_race_costs_half_of_full_length_branches():
    found, images, _, of_whole, _ = power(6)
    assert found >= 0.5
    assert images <= 0.6 * of_whole


@pytest.mark.slow
def test_a_race_of_14_needs_at_most_half_of_the_images_at_the_same_power():
    found, images, of_full, of_whole, false = power(200)
    assert found >= of_full - 0.03
    assert images <= 0.5 * of_whole
    assert false <= 16


def look(values, control):
    return sequential.of_values(values, control)


def test_a_branch_that_cannot_be_shown_gets_no_more_seeds():
    looked = look([[0.0], [3.0]], [0.0, 1.0, -1.0, 0.5])
    step = deciding.step(["a", "b"], ["control"] * 2, looked, Rules(most=4, most_control=6))
    assert step.settled == {"a": "out of reach"}
    assert step.more == {"b": 1}


def test_what_is_shown_is_settled_and_so_is_what_is_worse():
    steady = [0.0, 0.1, -0.1, 0.05]
    looked = look([[2.0, 2.1, 1.9], [-2.0, -2.1, -1.9], [0.2, 0.1, 0.3]], steady)
    step = deciding.step(["up", "down", "even"], ["control"] * 3, looked, Rules())
    assert {k: v for k, v in step.settled.items() if k != "even"} == {"up": "better", "down": "worse"}


def test_trainings_end_a_race_and_the_most_promising_come_first():
    looked = look([[1.5], [3.0], [2.5]], [0.0, 1.0, -1.0, 0.5, 0.2, -0.3])
    names, controls = ["a", "b", "c"], ["control"] * 3
    assert deciding.step(names, controls, looked, Rules(trainings=1)).more == {"b": 1}
    over = deciding.step(names, controls, looked, Rules(trainings=0))
    assert (over.more, set(over.settled)) == ({}, {"a", "b", "c"})
    two = deciding.step(names, controls, looked, Rules(trainings=2, most_control=6)).more
    assert two == {"b": 1, "c": 1}


def test_all_seeds_are_the_end():
    looked = look([[1.0, 1.4]], [0.0, 1.0, -1.0, 0.5])
    assert deciding.step(["a"], ["control"], looked, Rules(most=2, most_control=4)).more == {}
