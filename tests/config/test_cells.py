"""Settings in a grid: which cells there are, and what each branch is compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysweep.config import cells
from raysweep.config import grid as grids
from raysweep.config.points import expand
from raysweep.config.settings import Settings
from raysweep.errors import ConfigError
from raysweep.weights import SamplingWeights

CLASSES = ("angry", "disgust", "fear")
COUNTS = {"angry": 100, "disgust": 10, "fear": 40}
BEFORE = cells.flat(Settings.model_validate({"data": {"source": "faces"}}).model_dump(mode="json"))


def points_of(**values):
    return expand(grids.check(values), SamplingWeights.complete({}, CLASSES), 0, COUNTS, BEFORE)


def arms_of(**values):
    """arm → (the arm that it is compared with, settings)"""
    points, _ = points_of(**values)
    return {p.arm: (p.reference, p.settings) for p in points}


def test_every_branch_is_compared_with_the_control_of_its_own_cell():
    assert arms_of(weights={"fear": [2, 4]}, settings={"training.learning_rate": [0.001, 0.003]}) == {
        "control": (None, {}),  # 0.003 is the parent's
        "learning_rate=0.001": (None, {"training.learning_rate": 0.001}),
        "learning_rate=0.001_fear=2": ("learning_rate=0.001", {"training.learning_rate": 0.001}),
        "learning_rate=0.001_fear=4": ("learning_rate=0.001", {"training.learning_rate": 0.001}),
        "fear=2": (None, {}),
        "fear=4": (None, {}),
    }


def test_settings_alone_are_compared_with_the_plain_control():
    found = arms_of(settings={"loss.kind": ["cross_entropy", "balanced_softmax"], "training.weight_decay": [0.02, 0.1]})
    assert found == {
        "control": (None, {}),
        "weight_decay=0.1": (None, {"training.weight_decay": 0.1}),
        "loss=balanced_softmax": (None, {"loss.kind": "balanced_softmax"}),
        "loss=balanced_softmax_weight_decay=0.1": (
            None, {"loss.kind": "balanced_softmax", "training.weight_decay": 0.1},
        ),
    }  # fmt: skip


def test_a_named_branch_with_weights_and_settings_gets_the_control_of_its_cell():
    branches = [{"name": "both", "weights": "balanced", "settings": {"loss": "focal"}}]
    points, notes = points_of(branches=branches)
    assert [(p.name, p.control, p.reference) for p in points] == [
        ("control", True, None), ("loss=focal", False, None), ("both", False, "loss=focal"),
    ]  # fmt: skip
    assert notes == ["loss=focal is added: both is compared with it."]
    named = [{"name": "mine", "settings": {"loss.kind": "focal"}}, *branches]
    assert arms_of(branches=named)["both"][0] == "mine"
    assert arms_of(branches=branches, control=False) == {"both": (None, {"loss.kind": "focal"})}


def test_the_control_of_a_cell_has_as_many_seeds_as_the_control():
    points, _ = points_of(
        seeds=[0, 1],
        control_seeds=3,
        branches=[
            {"name": "both", "weights": {"fear": 2}, "settings": {"loss": "focal"}},
            {"name": "alone", "settings": {"training.weight_decay": 0.5}},
        ],
    )
    seeds = {arm: [p.seed for p in points if p.arm == arm] for arm in dict.fromkeys(p.arm for p in points)}
    assert seeds == {"control": [0, 1, 2], "loss=focal": [0, 1, 2], "alone": [0, 1], "both": [0, 1]}


def test_schedules_and_policies_are_branches_of_every_cell():
    schedule = [{"from": 1, "weights": "natural"}, {"from": 9, "weights": "balanced"}]
    policy = {"kind": "worst", "classes": 3, "on": "val"}
    found = arms_of(schedules=[schedule], policies=[policy], settings={"training.learning_rate": [0.003, 0.1]})
    assert {name: reference for name, (reference, _) in found.items()} == {
        "control": None,
        "learning_rate=0.1": None,
        "from1=natural_from9=balanced": None,
        "policy=worst_classes=3_on=val": None,
        "learning_rate=0.1_from1=natural_from9=balanced": "learning_rate=0.1",
        "learning_rate=0.1_policy=worst_classes=3_on=val": "learning_rate=0.1",
    }
    assert found["policy=worst_classes=3_on=val"][1] == {"sampling.policy": policy}


def test_equal_settings_are_one_cell_however_they_are_written():
    points, notes = points_of(
        branches=[
            {"name": "a", "settings": {"loss.kind": "focal"}},
            {"name": "b", "settings": {"loss": {"kind": "focal"}}},
        ]
    )
    assert [p.arm for p in points] == ["control", "a"]
    assert notes == ["b is trained as a is; it runs once."]


def test_another_loss_begins_with_its_own_defaults():
    over = cells.overrides({"loss.kind": "cross_entropy", "training.learning_rate": 0.1})
    assert (
        over["loss"]["gamma"] == 2.0
    )  # the parent's focal loss may have had another one, which cross-entropy does not read
    assert over["training"] == {"learning_rate": 0.1}
    assert "loss" not in cells.overrides({"training.learning_rate": 0.1})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"training.learning_rat": [1]}, r"no setting 'training.learning_rat'. Did you mean .*training.learning_rate"),
        ({"data.split_seed": [1, 2]}, "compared on the same images"),
        ({"training.epochs": [1, 2]}, "all branches share"),
        ({"seed": [1, 2]}, "use seeds"),
        ({"sampling.weights": ["balanced"]}, "use weights"),
        ({"loss.kind": []}, "empty list"),
        ({"sampling.policy": [{"kind": "worst"}]}, "use schedules, policies or branches"),
    ],
)
def test_settings_that_a_sweep_cannot_vary_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        grids.check({"settings": settings})


def test_weights_and_a_schedule_in_one_branch_are_refused():
    branch = {"name": "x", "weights": {"fear": 2}, "settings": {"sampling.schedule": [{"from": 1}]}}
    with pytest.raises(ConfigError, match="both set the weights of an epoch"):
        grids.check({"branches": [branch]})


def test_levels_that_only_stand_together_are_one_factor():
    focal = {"loss.kind": "focal", "loss.gamma": 1.0}
    assert cells.levels([{}, focal, {"training.learning_rate": 0.1}, {**focal, "training.learning_rate": 0.1}]) == [
        {},
        {"loss.kind and loss.gamma": "loss=focal and gamma=1"},
        {"training.learning_rate": "learning_rate=0.1"},
        {"training.learning_rate": "learning_rate=0.1", "loss.kind and loss.gamma": "loss=focal and gamma=1"},
    ]


def test_the_grid_of_losses_has_a_branch_for_each_way_to_treat_imbalance():
    points, notes = expand(
        grids.read(Path(__file__).parents[2] / "configs" / "cifar10-lt-grid.yaml"),
        SamplingWeights.complete({}, CLASSES), 0, COUNTS, BEFORE,
    )  # fmt: skip
    arms = ["control", "balanced", "balanced_softmax", "logit_adjusted", "focal", "class_weights"]
    assert list(dict.fromkeys(p.arm for p in points)) == arms
    assert ({p.reference for p in points}, len(points), notes) == ({None}, 18, [])


def test_a_section_with_a_short_form_can_be_varied_and_a_whole_one_cannot():
    given = {
        "training.augment.mixup": 0.2,
        "training.augment.affine": {"degrees": 10},
        "training.augment.classes": {"a": {"flip": True}},
    }
    assert cells.checked(given) == {
        "training.augment.mixup": 0.2,
        "training.augment.affine.degrees": 10,
        "training.augment.classes.a.flip": True,
    }
    for name in ("training", "training.augment.mixup.beta", "training.augment.mix"):
        with pytest.raises(ValueError, match="there is no setting"):
            cells.checked({name: 3})


def test_what_is_frozen_can_be_varied():
    found = cells.checked({"model.freeze": "backbone", "model.unfreeze": 3})
    assert found == {"model.freeze": "backbone", "model.unfreeze": 3}
    with pytest.raises(
        ValueError,
        match=r"model\.head cannot be varied.*training\.…, loss\.…, sampling\.…, model\.freeze, model\.unfreeze",
    ):
        cells.checked({"model.head": "replace"})
