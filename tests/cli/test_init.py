"""``raysweep init`` looks at the images and writes a configuration and a grid that work as they are."""

from __future__ import annotations

import shlex

import pytest
from PIL import Image

from raysweep.config import grid as grids
from raysweep.config import load as load_config
from raysweep.config import points as points_of
from raysweep.config import starter
from raysweep.weights import SamplingWeights
from tests.cli.test_errors import run_cli
from tests.conftest import draw_classes


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYSWEEP_ROOT", raising=False)
    draw_classes(tmp_path / "faces #2", {"猫": 30, "rare: x": 8, "dog": 60})
    return tmp_path


def test_what_it_writes_fits_the_images(here, capsys):
    code, out, err = run_cli(capsys, "init", "faces #2")
    assert code == 0, err
    assert out.splitlines() == ["config.yaml", "grid.yaml"]
    assert err.splitlines()[-1] == "Next: raysweep run config.yaml"
    settings = load_config.load("config.yaml")
    assert (settings.data.path, settings.experiment.name) == ("faces #2", "faces--2")
    text = (here / "config.yaml").read_text()
    assert text.startswith("# 72 training and 26 validation images of 3 classes, 12 × 12 pixels, gray.\n")
    assert '"rare: x": 4 (5.6%), validation 4' in text
    counts = {"猫": 20, "rare: x": 4, "dog": 48}
    points, notes = points_of.expand(grids.read("grid.yaml"), SamplingWeights.complete({}, list(counts)), 0, counts)
    assert notes == []
    names = ["balanced", "control", "rarest-2", "rarest-4", "sqrt"]
    assert sorted({p.name.rpartition("-seed")[0] for p in points}) == names
    typed = (here / "grid.yaml").read_text().splitlines()[0].partition(": ")[2]
    assert shlex.split(typed) == ["raysweep", "branch", "--from", "faces--2@best", "--weights-grid", "grid.yaml"]


def test_nothing_is_overwritten_and_bad_input_leaves_nothing(here, capsys):
    before = sorted(p.name for p in here.iterdir())
    for words, told in (
        (["init", "nowhere"], "there is no nowhere"),
        (["init", "faces #2", "-o", "nowhere"], "there is no such folder"),
        (["init", "faces #2", "data.image_size=3"], "data.image_size"),
    ):
        code, out, err = run_cli(capsys, *words)
        assert (code, out, told in err) == (2, "", True)
        assert sorted(p.name for p in here.iterdir()) == before
    (here / "grid.yaml").write_text("mine")
    code, _, err = run_cli(capsys, "init", "faces #2")
    assert (code, "grid.yaml exists" in err) == (2, True)
    assert (here / "grid.yaml").read_text() == "mine"
    assert not (here / "config.yaml").exists()


def test_images_of_several_sizes_and_another_folder(here, capsys):
    Image.new("RGB", (40, 30), (200, 10, 10)).save(here / "faces #2" / "dog" / "odd.png")
    (here / "out").mkdir()
    code, _, err = run_cli(capsys, "init", "faces #2", "-o", "out")
    assert code == 0, err
    settings = load_config.load("out/config.yaml")
    assert settings.data.path == str(here / "faces #2")
    assert settings.data.image_size is not None
    assert (
        f"{settings.data.image_size} × {settings.data.image_size} pixels, color"
        in (here / "out" / "config.yaml").read_text()
    )


@pytest.mark.parametrize(("classes", "per_class", "side"), [(2, 5, 28), (7, 4000, 48), (1000, 30, 224)])
def test_any_number_of_classes(tmp_path, classes, per_class, side):
    counts = {f"class {i}: x": per_class for i in range(classes)}
    seen = starter.Seen("a b", "a-b", counts, counts, side, 3, True)
    (tmp_path / "c.yaml").write_text(starter.config_text(seen))
    (tmp_path / "g.yaml").write_text(starter.grid_text(seen))
    settings, grid = load_config.load(tmp_path / "c.yaml"), grids.read(tmp_path / "g.yaml")
    assert settings.data.image_size == side
    assert 5 <= settings.training.epochs <= 30
    assert settings.training.batch_size * 10 <= max(80, seen.images)
    assert "sqrt" not in {b.name for b in grid.branches}  # all classes have as many images: the rules change nothing
    assert len((tmp_path / "c.yaml").read_text().splitlines()) < 45
