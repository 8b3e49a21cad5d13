"""What the next round tries, by each proposer."""

from __future__ import annotations

import numpy as np
import pytest

from raysweep.config import space as spaces
from raysweep.plan.hunt import proposals
from raysweep.plan.hunt.model import Round
from raysweep.plan.hunt.space import Axes, Treatment

AXES = Axes(
    spaces.check({"weights": {"a": {"uniform": [0, 1]}}, "settings": {"loss.gamma": {"uniform": [0, 1]}, "loss.kind": ["focal"]}}),
    Treatment({"a": 0.5}, {}, {"loss.gamma": 0.5, "loss.kind": "focal"}),
)  # fmt: skip


def measured(seed: int = 0) -> list[Round]:
    """The best is at (0.9, 0.9)."""
    points = AXES.snapped(np.random.default_rng(seed).uniform(0, 1, (12, 3)))
    gains = -((points[:, :2] - 0.9) ** 2).sum(1) + ((AXES.parent[:2] - 0.9) ** 2).sum()
    return [Round(points, AXES.parent, gains, np.eye(len(points)) * 1e-4)]


@pytest.mark.parametrize("proposer", proposals.PROPOSERS)
def test_every_proposer_proposes_new_points_and_the_same_again(proposer):
    for rounds in ([], measured()):
        first, again = (proposals.next_round(rounds, AXES, AXES.parent, 6, proposer, 3) for _ in range(2))
        assert (first == again).all()
        assert 4 <= len(first) <= 6
        assert np.abs(first - AXES.parent).max(axis=1).min() > 1e-9  # none is the control


def test_the_model_comes_close_to_the_best():
    found = proposals.next_round(measured(), AXES, AXES.parent, 6, "model", 0)
    assert np.abs(found[:, :2] - 0.9).max(axis=1).min() < 0.2
    expected = proposals.expected(measured())
    assert expected.argmax() == measured()[0].gains.argmax()


def test_a_space_that_is_used_up_proposes_nothing():
    only = Axes(spaces.check({"settings": {"loss.kind": ["focal"]}}), Treatment({}, {}, {"loss.kind": "focal"}))
    assert len(proposals.next_round([], only, only.parent, 4, "model", 0)) == 0
