"""The examples come with the program: they can be named anywhere, and are what the checkout shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from raysweep.cli import run
from raysweep.config import examples, grid, weights_file
from raysweep.config import load as load_config
from raysweep.errors import ConfigError, WeightsError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["base", "base.yaml", "configs/base.yaml"])
def test_an_example_can_be_named_anywhere(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert load_config.load(name).data.source == "faces"
    assert load_config.load(name, ["training.epochs=2"]).training.epochs == 2
    assert grid.read(name.replace("base", "grid")).weights


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("data: {source: digits}\n")
    assert load_config.load("base.yaml").data.source == "digits"
    with pytest.raises(ConfigError, match=r"There is no file elsewhere/base.yaml"):
        load_config.load("elsewhere/base.yaml")


def test_a_folder_of_that_name_is_no_file(tmp_path, monkeypatch):
    """People call their data so: the examples are found, and a setting or a rule stays one."""
    monkeypatch.chdir(tmp_path)
    for name in ("fer2013", "base.yaml", "grid", "rules", "balanced", "a=1", "data.source=digits"):
        (tmp_path / name).mkdir()
    assert load_config.load("fer2013").data.path == "data/fer2013"
    assert load_config.load("base.yaml").data.source == "faces"
    assert grid.read("grid").weights
    assert grid.read("rules").branches
    assert weights_file.parse("balanced") == "balanced"
    assert weights_file.parse("a=1") == {"a": 1.0}
    assert run.is_override("data.source=digits")


@pytest.mark.parametrize("name", ["my faces", "fer2013/", "人脸", "faces.csv"])
def test_data_in_the_place_of_a_configuration_are_answered_with_what_to_type(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if name.endswith("csv"):
        (tmp_path / name).write_text("image,label\n")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(ConfigError) as error:
        load_config.load(name)
    quoted = shlex.quote(name)
    assert f"type `raysweep run data.path={quoted}`" in str(error.value)
    assert f"`raysweep init {quoted}`" in str(error.value)


def test_a_folder_is_no_grid_and_holds_no_weights(tmp_path):
    with pytest.raises(ConfigError, match="is a folder, no grid file"):
        grid.read(tmp_path)
    with pytest.raises(WeightsError, match="it is a folder[.] Name a JSON or YAML file in it"):
        weights_file.parse(str(tmp_path))


def test_what_the_checkout_shows_is_what_comes_with_the_program():
    for name in examples.NAMES:
        assert (ROOT / "configs" / f"{name}.yaml").resolve() == (examples.FOLDER / f"{name}.yaml").resolve()


def test_without_a_file_the_options_are_enough(tmp_path):
    settings = load_config.load(None, ["data=" + str(tmp_path), "model=cnn", "loss=focal"])
    assert settings.data.path == str(tmp_path)
    assert (settings.model.name, settings.loss.kind) == ("cnn", "focal")
    settings = load_config.load("base", ["model=torchvision:resnet18"])
    assert (settings.model.name, settings.data.source) == ("torchvision:resnet18", "faces")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("epochs", "training.epochs"),
        ("learning_rate", "training.learning_rate"),
        ("weights", "sampling.weights or sampling.schedule"),
        ("training.lr", "learning_rate"),
        ("image_size", "data.image_size"),
    ],
)
def test_a_short_key_is_answered_with_the_dotted_one(key, meant):
    with pytest.raises(ConfigError) as error:
        load_config.load("base", [f"{key}=3"])
    assert meant.split(" or ")[0] in str(error.value)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("training.lr", "Here it is training.learning_rate."),
        ("imb_factor", "There is nothing for it here"),
        ("loss_type", "Here it is loss.kind: CE is cross_entropy"),
        ("training.mixup", "There is nothing for it here."),
        ("cls-num-list", "are counted"),
    ],
)
def test_words_of_other_programs_are_answered(key, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_config.load("base", [f"{key}=3"])


def test_the_answers_name_options_that_exist_and_the_document_shows_them():
    from raysweep.config import synonyms

    names = {*load_config.option_names(), "root"}
    for here, _ in synonyms.WORDS.values():
        for key in re.findall(r"\b[a-z]+\.[a-z_]+", here):
            assert any(name == key or name.startswith(f"{key}.") for name in names), key
    assert synonyms.table() in (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8")
    assert all(word == word.lower().replace("_", "").replace("-", "") for word in synonyms.WORDS)


@pytest.mark.slow
def test_a_wheel_holds_all_that_the_first_commands_need(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "wheel", ROOT],
        check=True,
    )
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "installed")
    (tmp_path / "empty").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    for words in (["run", "base", "--dry-run"], ["run", "data.source=digits", "--dry-run"], ["list"], ["--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "raysweep", *words],
            cwd=tmp_path / "empty",
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    code = "import raysweep; print(raysweep.__file__)"
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert str(tmp_path) in shown.stdout
