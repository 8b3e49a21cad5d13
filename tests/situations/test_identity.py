"""Digits trained from another data set's file: called after the data, and not mirrored (issue threads on MNIST with flips)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.situations.reading import plant

CONFIGS = Path(__file__).parents[2] / "configs"


def loaded(*overrides: str, file: str = "fer2013.yaml"):
    from raysweep.config import load

    return load.load(CONFIGS / file, overrides)


def test_name_and_description_come_from_the_data():
    found = loaded("data.source=digits", "data.path=").experiment
    assert (found.name, found.description) == ("digits", "The built-in digits")
    found = loaded("data.path=/somewhere/Sign language.csv").experiment
    assert (found.name, found.description) == ("Sign-language", "Images of /somewhere/Sign language.csv")
    assert loaded().experiment.name == "fer2013"
    assert "faces" not in loaded("data.source=digits", file="base.yaml").experiment.description


def test_what_the_user_gives_stays():
    found = loaded("data.path=x", "experiment.name=mine", "experiment.description=why").experiment
    assert (found.name, found.description) == ("mine", "why")


@pytest.mark.parametrize(
    ("classes", "mirrored"),
    [
        (["0", "1", "10"], False), (["A", "b"], False), (["zero", "one"], False), (["turn left", "turn_right", "stop"], False),
        (["cat", "dog"], True), (["0", "cat"], True), (["o", "ki", "su"], False), (["bright", "dull"], True),
    ],
)  # fmt: skip
def test_digits_letters_and_sides_are_not_like_their_mirror(classes, mirrored):
    from raysweep.data.augment import unlike_its_mirror

    assert (unlike_its_mirror(classes) is None) == mirrored


@pytest.mark.parametrize(("classes", "mirrored"), [(["0", "7"], False), (["cat", "dog"], True)])
def test_what_is_not_like_its_mirror_is_not_mirrored_and_it_is_said(tmp_path, classes, mirrored):
    from raysweep.plan import experiment as experiment_plan
    from tests.conftest import small_settings

    data = {"source": "folder", "path": str(plant(tmp_path / "d", {f"{c}/": 3 for c in classes})), "val_fraction": 0.3}
    for asked in (None, True, False):
        augment = {"crop_padding": 1, "flip": asked}
        settings = small_settings(
            tmp_path / "e", data=data, training={"augment": augment}, sampling={"samples_per_epoch": 9}
        )
        plan = experiment_plan.plan_experiment(settings, writable=False)
        assert plan.settings.training.augment.flip is (mirrored if asked is None else asked)
        told = [n.text for n in plan.notes if "mirrored" in n.text]
        assert bool(told) == (asked is None and not mirrored)


def test_the_settings_of_earlier_versions_keep_what_they_did():
    from raysweep.plan.upgrade import completed

    assert completed({"data": {"source": "auto", "path": "x"}})["data"]["level"] == 1
    assert completed({"data": {"level": None, "path": "x"}})["data"]["level"] is None
    assert completed({}) == {}
