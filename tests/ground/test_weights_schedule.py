"""Weights as a function of the epoch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.weights import SamplingWeights
from raysweep.weights_by_rule import Wanted
from raysweep.weights_schedule import Schedule, Step

COUNTS = {"a": 100, "b": 4, "c": 25}
NATURAL = SamplingWeights.complete({}, tuple(COUNTS))
BALANCED = Wanted("balanced").resolve(NATURAL, COUNTS)


def test_each_step_holds_from_its_epoch_on():
    schedule = Schedule(NATURAL, (Step(3, BALANCED), Step(5, NATURAL)))
    assert [schedule.at(e, COUNTS) for e in range(1, 7)] == [NATURAL, NATURAL, BALANCED, BALANCED, NATURAL, NATURAL]
    assert Schedule(NATURAL).at(7, COUNTS) == NATURAL


def test_a_linear_step_moves_the_shares_in_a_straight_line():
    schedule = Schedule(NATURAL, (Step(1, NATURAL), Step(5, BALANCED, linear=True)))
    for epoch, part in ((1, 0), (2, 0.25), (3, 0.5), (4, 0.75), (5, 1), (9, 1)):
        shares = schedule.at(epoch, COUNTS).shares(COUNTS)
        expected = {c: (1 - part) * n / 129 + part / 3 for c, n in COUNTS.items()}
        assert shares == pytest.approx(expected, abs=1e-12), epoch


@given(
    st.lists(st.integers(0, 5_000), min_size=2, max_size=6).filter(lambda n: sum(c > 0 for c in n) > 1),
    st.lists(st.sampled_from(["natural", "balanced", "sqrt", {"power": 1.5}]), min_size=2, max_size=4),
    st.integers(1, 40),
    st.integers(1, 20_000),
)
def test_every_epoch_shows_each_class_within_one_image_of_its_share(numbers, rules, epoch, draws):
    counts = {f"c{i}": n for i, n in enumerate(numbers)}
    base = SamplingWeights.complete({}, tuple(counts))
    steps = tuple(Step(1 + 10 * i, Wanted(r).resolve(base, counts), i > 0) for i, r in enumerate(rules))
    found = Schedule(base, steps).at(epoch, counts).quotas(counts, draws)
    i = min((epoch - 1) // 10, len(steps) - 1)
    before, after = steps[i].weights.shares(counts), steps[min(i + 1, len(steps) - 1)].weights.shares(counts)
    part = 0 if i == len(steps) - 1 else (epoch - steps[i].start) / 10
    assert sum(found.values()) == draws
    for c in counts:
        assert abs(found[c] - draws * ((1 - part) * before[c] + part * after[c])) < 1 + 1e-6
