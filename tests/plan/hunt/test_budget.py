"""Budgets: how they are written, divided and kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.errors import InputError
from raysweep.plan.hunt import budget
from raysweep.plan.hunt.budget import Budget


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("2h", None, None), Budget("hours", 2.0)),
        (("90m", None, None), Budget("hours", 1.5)),
        (("90 min", None, None), Budget("hours", 1.5)),
        ((None, "2M", None), Budget("images", 2e6)),
        ((None, "1,500", None), Budget("images", 1500.0)),
        ((None, "0.5k", None), Budget("images", 500.0)),
        ((None, None, 60), Budget("branches", 60.0)),
    ],
)
def test_a_budget_is_read(given, expected):
    assert budget.parse(*given) == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((None, None, None), "Give the budget once"),
        (("2h", None, 60), "Give the budget once"),
        (("2", None, None), "--budget 2 cannot be read"),
        (("2 weeks", None, None), "cannot be read"),
        ((None, "many", None), "--images many cannot be read"),
        (("0h", None, None), "larger than 0"),
    ],
)
def test_a_budget_that_cannot_be_read_is_refused(given, words):
    with pytest.raises(InputError, match=words):
        budget.parse(*given)


def test_images_and_hours_are_trainings():
    assert Budget("images", 1000).trainings(300, 0.0) == 3
    assert Budget("images", 1000).trainings(300, 0.0, spent=300.0) == 2
    assert Budget("hours", 2).trainings(300, 60.0) == 120
    assert Budget("hours", 2).trainings(300, 60.0, spent=2.5) == 0


@pytest.mark.parametrize("alone", [1, 2, 8])
@pytest.mark.parametrize("trainings", [15, 16, 31, 47, 60, 100, 333])
@pytest.mark.parametrize("rounds", [None, 1, 2, 3])
def test_all_of_it_is_spent_and_no_more(trainings, rounds, alone):
    """Every round takes what it may, and the rest goes into new seeds."""
    try:
        count = budget.rounds_for(trainings, rounds, alone)
    except InputError:
        assert trainings < (rounds or 1) * budget.LEAST + alone * (
            budget.after(rounds or 1) + budget.beside(rounds or 1)
        )
        return
    left = trainings
    for number in range(1, count + 1):
        mine = budget.of_round(left, number, count, alone)
        assert mine >= budget.LEAST
        assert budget.branches_of(mine) + budget.CONTROLS <= mine
        left -= mine + (alone if number > 1 else 0)  # the control chain beside it
    seeds = budget.seeds_at_end(left, count, alone)
    assert seeds >= budget.SEEDS
    left -= alone * budget.after(count, seeds)
    assert 0 <= left < max(2 * count * alone, 1) or seeds == 12


def test_what_a_small_budget_takes_is_said():
    with pytest.raises(InputError, match=r"1 round and the look at the end take at least 15"):
        budget.rounds_for(14)
    with pytest.raises(InputError, match=r"or fewer --rounds \(one takes 15\)"):
        budget.rounds_for(20, 2)


def test_where_trainings_are_slower_than_planned_there_are_fewer_rounds_and_not_none():
    """A hunt of four rounds had 44 trainings left after the first: too few for four rounds and their end, enough for three."""
    assert budget.of_round(44, 2, 4) < budget.LEAST
    assert budget.rounds_left(44, 2, 4) == 3
    assert budget.of_round(44, 2, 3) == 10
    assert budget.rounds_left(22, 2, 4) == 1  # what is left is for the end


@given(st.integers(0, 300), st.integers(2, 4), st.integers(2, 4), st.integers(1, 8))
def test_as_many_rounds_are_left_as_the_budget_holds(left, number, planned, alone):
    found = budget.rounds_left(left, number, planned, alone)
    assert number - 1 <= found <= max(planned, number - 1)
    for rounds in range(found + 1, planned + 1):
        if rounds >= number:
            assert budget.of_round(left, number, rounds, alone) < budget.LEAST
    if found >= number:
        assert budget.of_round(left, number, found, alone) >= budget.LEAST
