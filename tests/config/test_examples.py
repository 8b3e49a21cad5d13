"""The examples come with the program: they can be named anywhere, and are what the checkout shows."""

from __future__ import annotations

import ast
import fnmatch
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
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
    with pytest.raises(WeightsError, match=r"it is a folder\. Name a JSON or YAML file in it"):
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
        ("training.mixup", "Here it is training.augment.mixup"),
        ("nesterov", "There is nothing for it here"),
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


def shipped() -> list[str]:
    """The files in the package that are no Python, as the checkout has them."""
    listed = subprocess.run(["git", "ls-files", "raysweep"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:  # no checkout of git
        listed.stdout = "\n".join(str(p.relative_to(ROOT)) for p in (ROOT / "raysweep").rglob("*.*") if p.is_file())
    return [n for n in listed.stdout.splitlines() if not n.endswith((".py", ".pyc")) and "__pycache__" not in n]


def test_every_file_of_the_package_is_said_to_belong_to_it():
    """Else it is in the checkout, and a wheel lacks it."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["raysweep"]
    files = shipped()
    assert "raysweep/examples/base.yaml" in files
    for name in files:
        assert any(fnmatch.fnmatch(name, f"raysweep/{pattern}") for pattern in patterns), name


FOLDERS = r"(?:docs|configs|tests|benchmarks|\.ci|\.github)/[\w./-]+"


def texts() -> Iterator[tuple[str, str]]:
    """(where, text) of all that the program may print, in files with such a name: its strings, without docstrings but those that are
    help, and the examples."""
    for path in sorted((ROOT / "raysweep").rglob("*.py")):
        content = path.read_text(encoding="utf-8")
        if not re.search(FOLDERS, content):
            continue
        tree = ast.parse(content)
        silent = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and isinstance(node.body[0], ast.Expr)
            and not (path.parent.name == "cli" and isinstance(node, ast.FunctionDef))
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
                yield f"{path.name}, line {node.lineno}", node.value
    for path in examples.FOLDER.glob("*.yaml"):
        yield path.name, path.read_text(encoding="utf-8")


def test_no_text_names_a_file_that_only_a_checkout_has():
    """A help, an error or an example may name an address of the project, and that leads somewhere."""
    for where, text in texts():
        for found in re.finditer(FOLDERS, text):
            before = re.split(r"\s", text[: found.start()])[-1]
            assert before.lstrip("(").startswith("https://"), f"{where} names {found[0]}"
            assert (ROOT / found[0].rstrip(".")).exists(), f"{where} names {before}{found[0]}"


def test_every_example_in_a_help_can_be_typed_anywhere(tmp_path, monkeypatch):
    from raysweep.cli import help_texts

    monkeypatch.chdir(tmp_path)
    named = []
    for verb in help_texts.EXAMPLES:
        for line in help_texts.examples(verb):
            words = line.split()
            if words[:2] == ["raysweep", "run"] and "=" not in words[2]:
                named.append(words[2])
            named += [after for word, after in itertools.pairwise(words) if word == "--weights-grid"]
    assert {*named} >= {"base", "grid", "rules"}
    assert [name for name in named if not examples.find(name).is_file()] == []


def test_the_schema_that_an_example_names_lies_beside_it():
    for path in examples.FOLDER.glob("*.yaml"):
        assert (path.parent / path.read_text().splitlines()[0].partition("$schema=")[2]).is_file()


FIRST = (["--version"], ["--help"], ["run", "base", "--dry-run"], ["run", "data.source=digits", "--dry-run"], ["list"])


@pytest.mark.slow
def test_from_the_checkout_by_an_sdist_and_a_wheel_to_the_first_commands(tmp_path):
    """As somebody gets it who has only the files of a release; what raysweep needs is taken from this environment."""
    source, dist, place = tmp_path / "source", tmp_path / "dist", tmp_path / "environment"
    wanted = ["pyproject.toml", "README.md", "LICENSE", "raysweep", "configs"]
    listed = subprocess.run(["git", "ls-files", *wanted], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    dist.mkdir()
    build = "import sys, setuptools.build_meta as b; print(b.build_sdist(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, dist], cwd=source, check=True, capture_output=True)
    (sdist,) = dist.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", dist, sdist], check=True
    )
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        assert {n for n in shipped()} <= {*packed.namelist()}
        assert not [n for n in packed.namelist() if n.startswith(("tests", "benchmarks"))]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    (packages,) = (place / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")  # after the wheel's own
    (tmp_path / "empty").mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for words in (*FIRST, ["init", str(draw_classes_in(tmp_path / "my faces"))]):
        done = subprocess.run(
            [place / "bin" / "raysweep", *words],
            cwd=tmp_path / "empty",
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "empty").glob("*.yaml")} == {"config.yaml", "grid.yaml"}
    code = "import raysweep; print(raysweep.__file__)"
    shown = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert str(place) in shown.stdout


def draw_classes_in(folder: Path) -> Path:
    from tests.conftest import draw_classes

    draw_classes(folder, {"cat": 12, "dog": 8})
    return folder
