"""Exact copies are counted, told, and taken out if asked; near copies are listed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from raysweep.data import copies
from tests.cli.test_errors import run_cli


@pytest.fixture
def folder(tmp_path):
    """Two classes with a split: two leaks, one of them under the other class, a repeated and a contradicting training image."""
    rng = np.random.default_rng(0)

    def put(name: str, pixels: np.ndarray) -> None:
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)

    made = [rng.integers(0, 256, (16, 16), dtype=np.uint8) for _ in range(40)]
    for i in range(12):
        put(f"train/cat/{i}.png", made[i])
        put(f"train/dog/{i}.png", made[12 + i])
        put(f"val/cat/{i}.png" if i < 6 else f"val/dog/{i}.png", made[24 + i])
    put("val/cat/leak.png", made[0])
    put("val/dog/other.png", made[1])
    put("train/cat/again.png", made[2])
    put("train/dog/contradiction.png", made[3])
    close = made[24].copy()
    close[0, 0] ^= 1
    put("train/cat/close.png", close)
    return tmp_path / "images"


def loaded(folder, **options):
    from raysweep.config.settings import DataSection
    from raysweep.data import cache

    return cache.load(DataSection(path=str(folder), **options), folder.parent / "cache")


def test_copies_are_counted_and_told(folder):
    data = loaded(folder)
    found = data.reading.copies
    assert found == copies.Copies({"cat": 1, "dog": 1}, other_class=1, surplus=2, contradictions=1)
    text = "\n".join(data.reading.lines())
    assert "2 validation images are also in training (cat 1, dog 1), 1 of them under another class" in text
    assert "2 training images repeat another one" in text
    assert "1 group of equal training images has several classes" in text


@pytest.mark.parametrize(("how", "train", "val"), [("report", 27, 14), ("drop_train", 25, 14), ("drop_val", 27, 12)])
def test_copies_across_the_split_are_taken_out_if_asked(folder, how, train, val):
    data = loaded(folder, duplicates=how)
    assert (len(data.train.labels), len(data.val.labels)) == (train, val)
    found = data.reading.copies
    assert found is not None
    assert found.dropped == 41 - train - val
    assert bool(found.leaked) == (how == "report")


def test_a_split_of_our_own_never_has_equal_pixels_on_both_sides(tmp_path):
    from raysweep.data import audit

    rng = np.random.default_rng(1)
    for c in ("a", "b"):
        (tmp_path / "images" / c).mkdir(parents=True)
        for i in range(30):
            pixels = np.full((8, 8), rng.integers(0, 12), dtype=np.uint8)  # few different ones, also across classes
            pixels[0, 0] = i if i % 3 == 0 else 0
            Image.fromarray(pixels).save(tmp_path / "images" / c / f"{i}.png")
    for seed in range(5):
        data = loaded(tmp_path / "images", split_seed=seed, image_size=8, val_fraction=0.4)
        assert not audit.exact(data).leaks.any()
        assert len(data.val.labels) > 0


def test_near_copies_are_listed_by_name(folder):
    from raysweep.data import audit

    (pair,) = audit.near(loaded(folder))
    assert {pair.one.name.rpartition("/")[2], pair.other.name.rpartition("/")[2]} == {"close.png", "0.png"}
    assert {pair.one.split, pair.other.split} == {"train", "val"}
    assert pair.distance <= audit.NEAR


def test_the_command_audits_without_training(folder, tmp_path, capsys):
    code, out, err = run_cli(capsys, "audit", folder, "--root", tmp_path / "e", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["copies"]["leaked"] == {"cat": 1, "dog": 1}
    assert {row["validation"] for row in found["leaked"]} == {"val/cat/leak.png", "val/dog/other.png"}
    assert [row for row in found["leaked"] if row["training_classes"] == ["cat"]]
    assert len(found["near"]) == 1
    code, out, err = run_cli(capsys, "audit", folder, "--root", tmp_path / "e")
    assert code == 0
    assert "also in training" in err + out
    code, out, err = run_cli(capsys, "audit", folder, "--no-near", "--root", tmp_path / "e", "--json")
    assert json.loads(out)["near"] is None
