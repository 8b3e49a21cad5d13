"""The space of a hunt: what may stand in it, and that points and treatments are the same thing."""

from __future__ import annotations

import numpy as np
import pytest

from raysweep.config import space as spaces
from raysweep.errors import ConfigError
from raysweep.plan.hunt.space import Axes, Treatment

SPACE = {
    "weights": {"a": {"log_uniform": [0.5, 8.0]}, "b": {"choice": [1.0, 2.0]}},
    "settings": {"loss.kind": ["cross_entropy", "focal"], "training.learning_rate": {"log_uniform": [0.001, 0.1]}},
    "ways": [{"name": "even", "weights": "balanced"}, {"name": "later", "settings": {"sampling.schedule": [{"from": 3, "weights": "balanced"}]}}],
}  # fmt: skip
PARENT = Treatment({"a": 1.0, "b": 1.0, "c": 1.0}, {}, {"loss.kind": "cross_entropy", "training.learning_rate": 0.01})


@pytest.fixture
def axes():
    return Axes(spaces.check(SPACE), PARENT)


def test_a_point_is_a_treatment_and_back(axes):
    assert axes.dimensions == 5
    points = axes.snapped(np.random.default_rng(0).uniform(0, 1, (64, 5)))
    kinds = set()
    for point in points:
        treatment = axes.treatment(point)
        assert axes.point(treatment) == pytest.approx(point)
        kinds.add(
            "balanced"
            if treatment.weights == "balanced"
            else "schedule"
            if "sampling.schedule" in treatment.settings
            else "weights"
        )
        assert set(treatment.settings) >= {"loss.kind", "training.learning_rate"}
        if kinds == {"weights"}:
            assert 0.5 <= treatment.weights["a"] <= 8
    assert kinds == {"balanced", "schedule", "weights"}


def test_points_of_the_same_treatment_are_one(axes):
    same = np.array(
        [[0.5, 0.1, 0.1, 0.2, 0.3], [0.5, 0.9, 0.9, 0.4, 0.3]]
    )  # a way of its own: the weights do not matter
    assert len(axes.snapped(same)) == 1


def test_the_parent_is_a_point(axes):
    own = axes.treatment(axes.parent)
    assert own.weights == {"a": 1.0, "b": 1.0}
    assert own.settings == {"loss.kind": "cross_entropy", "training.learning_rate": 0.01}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, "the space is empty"),
        ({"weights": {"a": {"log_uniform": [0, 1]}}}, "two numbers > 0"),
        ({"settings": {"training.epochs": [1, 2]}}, "training.epochs cannot be varied"),
        ({"settings": {"sampling.samples_per_epoch": [10]}}, "all show as many images"),
        ({"settings": {"training.momentun": [0.9]}}, "there is no setting"),
        ({"settings": {"loss.kind": []}}, "empty list"),
        ({"settings": {"sampling.policy": [{"kind": "worst", "on": "val"}]}}, "put it under ways"),
        ({"ways": [{"name": "x", "weights": "sqrt"}] * 2}, "same name"),
        ({"weights": {"a": {"uniform": [0, 1]}}, "selct": "accuracy"}, "selct"),
        ({"settings": {"training.learning_rate": [0.1]}, "fork": {"schedule": "constant"}}, "would change nothing"),
    ],
)
def test_a_space_that_cannot_be_is_refused(space, words):
    with pytest.raises(ConfigError, match=words):
        spaces.check(space)


def test_the_usual_space_has_the_rarest_classes():
    found = spaces.usual(
        {"a": 1.0, "b": 2.0, "c": 1.0, "d": 1.0}, {"a": 900, "b": 50, "c": 300, "d": 200}, "focal", 0.01
    )
    assert list(found.weights) == ["b", "d", "c"]
    assert found.weights["b"].log_uniform == (1.0, 16.0)
    assert list(found.settings) == ["training.learning_rate"]
    one = spaces.usual({"a": 1.0, "b": 1.0}, {"a": 9, "b": 5}, "cross_entropy", 0.01)
    assert list(one.weights) == ["b"]
    assert one.settings["loss.kind"] == ["cross_entropy", "balanced_softmax"]
