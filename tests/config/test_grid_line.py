"""A grid on one line of the command line."""

from __future__ import annotations

import pytest

from raysweep.config import grid as grids
from raysweep.config import grid_line
from raysweep.errors import ConfigError


@pytest.mark.parametrize(
    ("line", "same"),
    [
        ("disgust=3,5 fear=2", {"weights": {"disgust": [3.0, 5.0], "fear": [2.0]}}),
        ("fear=35%,50% seeds=0,1 epochs=4", {"weights": {"fear": ["35%", "50%"]}, "seeds": [0, 1], "epochs": 4}),
        (
            "disgust=3 training.learning_rate=1e-3,0.01 loss=focal,balanced_softmax control_seeds=4",
            {
                "weights": {"disgust": [3.0]},
                "settings": {"training.learning_rate": [0.001, 0.01], "loss": ["focal", "balanced_softmax"]},
                "control_seeds": 4,
            },
        ),
        ("fear=2 fork=cooldown", {"weights": {"fear": [2.0]}, "fork": {"schedule": "cooldown"}}),
        ("balanced sqrt", {"branches": [{"name": n, "weights": n} for n in ("balanced", "sqrt")]}),
        ("training.augment.flip=true,false", {"settings": {"training.augment.flip": [True, False]}}),
        ('"small dot"=4', {"weights": {"small dot": [4]}}),
        ("training.augment.mixup=0.2,0.4", {"settings": {"training.augment.mixup": [0.2, 0.4]}}),
        ("training.augment.classes.a.affine=9", {"settings": {"training.augment.classes.a.affine": [9]}}),
    ],
)
def test_a_line_means_the_same_as_a_file(line, same):
    assert grid_line.parse(line) == grids.check(same)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "the grid is empty"),
        ("disgust", "'disgust' cannot be read"),
        ("small dot=4", "'small' cannot be read. .* Put a name with spaces in quotation marks"),
        ("disgust=", "cannot be read"),
        ("disgust=3,,5", "cannot be read"),
        ("disgust=3 disgust=5", "stands there twice"),
        ("seeds=a", "whole numbers"),
        ("disgust=3 epochs=1,2", "takes one number"),
        ("'disgust=3", "no partner"),
        ("disgust=3 fork=anew", "fork.schedule"),
        ("training.epochs=3,4", "all branches share"),
    ],
)
def test_what_cannot_be_read_is_said(line, told):
    with pytest.raises(ConfigError, match=told):
        grid_line.parse(line)
