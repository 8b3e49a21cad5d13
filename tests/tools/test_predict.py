"""``raysweep predict`` on folders: every good image is answered, the bad ones are named, and the accuracy is an honest one."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from raysweep.tools.asked import natural
from tests.cli.test_errors import run_cli
from tests.conftest import draw_classes
from tests.tools.evaluating import draw_nothing, train


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Any]:
    """(a folder, an experiment on the images in it, of which those in ``test`` are sealed)."""
    folder = tmp_path_factory.mktemp("predict")
    draw_classes(folder / "images" / "train", {"cat": 24, "big dog": 24})
    draw_classes(folder / "images" / "val", {"cat": 6, "big dog": 6}, seed=1)
    draw_classes(folder / "images" / "test", {"cat": 5, "big dog": 5}, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        return folder, train(folder / "root", folder / "images")


@pytest.fixture
def predict(made, capsys):
    folder, experiment = made

    def go(*words: object) -> tuple[int, str, str]:
        return run_cli(capsys, "predict", f"{experiment.id}@best", *words, "--root", folder / "root")

    return go


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def new(tmp_path) -> Path:
    """Images of nobody's training: in class folders that are spelled otherwise, in one that is no class, and beside them."""
    folder = tmp_path / "my new 图"
    draw_classes(folder, {"Cat": 12, "Big_Dog": 11}, seed=5)
    draw_classes(folder, {"eel": 3}, seed=6)
    shutil.copy(folder / "Cat" / "0000.png", folder / "loose.png")
    (folder / "Cat" / "0003.png").write_bytes(b"")
    (folder / "Cat" / "notes.txt").write_text("x")
    (folder / ".hidden.png").write_text("x")
    return folder


def test_a_folder_is_answered_and_the_bad_images_are_named(predict, new):
    code, out, err = predict(new)
    assert code == 1
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["image", "class", "probability", "next", "folder"]
    assert len(lines) == 1 + 12 - 1 + 11 + 3 + 1
    assert {(Path(r[0]).parent.name, r[4]) for r in lines[1:]} == {
        ("Cat", "cat"), ("Big_Dog", "big dog"), ("eel", ""), (new.name, ""),
    }  # fmt: skip
    assert f"1 of 27 files cannot be used: {new / 'Cat' / '0003.png'} (" in err
    assert "Left out: 1 hidden and system files." in err
    assert "files that are no images (1 .txt)" in err
    assert (
        "These folders are called as no class of the network, so their images count in no accuracy: eel (3), my new 图 (1)."
        in err
    )
    right = sum(r[1] == r[4] for r in lines[1:] if r[4])
    assert f"Accuracy {right / 22:.1%}: {right} of 22 images whose folder is a class are named so." in err
    assert "trained on" not in err


def test_the_folder_of_one_class_says_its_class_and_so_do_single_files(predict, new):
    _, out, _ = predict(new / "Big_Dog")
    assert {line.split("\t")[4] for line in out.splitlines()[1:]} == {"big dog"}
    code, out, err = predict(new / "Big_Dog" / "0000.png", new / "loose.png", new / "missing.png")
    assert code == 1
    assert f"no class of the network, so their images count in no accuracy: {new.name} (1)." in err
    assert [line.split("\t")[4] for line in out.splitlines()[1:]] == ["big dog", ""]
    assert "of 1 image whose folder" in err


def test_what_it_was_trained_on_is_said_and_sealed_images_are_in_no_accuracy(predict, made, tmp_path):
    folder, experiment = made
    shutil.copytree(folder / "images", tmp_path / "all")  # roles belong to the images, wherever they lie
    code, out, err = predict(tmp_path / "all", "--json")
    assert code == 0
    rows = json.loads(out)
    assert len(rows) == 48 + 12 + 10
    val = [r for r in rows if "/val/" in r["image"]]
    right = sum(r["class"] == r["folder"] for r in val)
    assert "of 60 images whose folder is a class" in err
    assert (
        f"The network was trained on 48 of these images, of which it knows the answers; of the other 12, {right} ("
        in err
    )
    assert "10 images of them are sealed test images of this experiment and counted in no accuracy here" in err
    assert f"`raysweep evaluate {experiment.id}@best` scores them" in err
    _, _, err = predict(tmp_path / "all" / "test")
    assert "Accuracy" not in err
    assert "10 images of them are sealed" in err


def test_csv_has_a_row_for_each_image_and_each_fault(predict, new, tmp_path):
    target = tmp_path / "out.csv"
    code, out, err = predict(new, "--csv", target)
    assert (code, out) == (1, "")
    assert f"26 images written to {target}." in err
    rows = rows_of(target)
    assert list(rows[0]) == [
        *("image", "class", "probability", "folder", "series", "number", "before", "change", "error"), "p_big dog", "p_cat",
    ]  # fmt: skip
    good, bad = [r for r in rows if not r["error"]], [r for r in rows if r["error"]]
    assert [Path(r["image"]).name for r in bad] == ["0003.png"]
    assert len(good) == 26
    for row in good:
        shares = {c: float(row[f"p_{c}"]) for c in ("big dog", "cat")}
        assert sum(shares.values()) == pytest.approx(1)
        assert max(shares, key=shares.__getitem__) == row["class"]
        assert float(row["probability"]) == max(shares.values())


@pytest.mark.parametrize("name", ["img.png", "no/out.csv", "folder.csv", "out"])
def test_csv_takes_the_name_of_a_csv_file_and_nothing_else(predict, new, tmp_path, monkeypatch, name):
    """Who takes it for a switch would lose the image that follows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "img.png").write_bytes(b"precious")
    code, _, err = predict("--csv", name, new)
    assert code == 2
    assert f"--csv {name}" in err
    assert (tmp_path / "img.png").read_bytes() == b"precious"


def test_series_gives_the_changes_between_numbered_frames(predict, tmp_path):
    clip = tmp_path / "clip"
    clip.mkdir()
    bright = {1: 40, 2: 40, 9: 40, 10: 110, 11: 110}  # a dark image is a big dog's, a brighter one a cat's
    for number, value in bright.items():
        Image.new("L", (12, 12), value).save(clip / f"img{number}.png")
    (clip / "img3.png").write_bytes(b"")
    code, out, err = predict(clip, "--series", "--csv", tmp_path / "s.csv", "--json")
    assert code == 1
    rows = rows_of(tmp_path / "s.csv")
    assert [(r["number"], r["before"]) for r in rows] == [
        ("1", ""), ("2", "1"), ("9", "2"), ("10", "9"), ("11", "10"), ("", ""),
    ]  # fmt: skip
    shares = [float(r["p_cat"]) for r in rows[:-1]]
    moved = [abs(b - a) for a, b in itertools.pairwise(shares)]
    assert [float(r["change"]) for r in rows[1:-1]] == pytest.approx(moved)
    assert moved[0] == moved[1] == moved[3] == 0 < moved[2]
    assert f"img#: 5 images, {int(rows[2]['class'] != rows[3]['class'])} change" in err
    assert f"The largest change is from 9 to 10 ({moved[2]:.1%})." in err
    assert "no image has the numbers 4, 5, 6, 7, 8" in err
    told = {Path(r["image"]).name: r for r in json.loads(out)}
    assert told["img10.png"]["change"] == pytest.approx(moved[2])
    assert (told["img10.png"]["number"], told["img10.png"]["before"]) == (10, 9)
    code, out, _ = predict(clip, "--series")
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0][4:] == ["number", "change", "was"]
    assert [line[4] for line in lines[1:]] == ["1", "2", "9", "10", "11"]


def test_an_empty_folder_is_named(predict, tmp_path):
    (tmp_path / "empty").mkdir()
    code, out, err = predict(tmp_path / "empty")
    assert (code, out) == (1, "")
    assert f"{tmp_path / 'empty'} (it holds no images)" in err


def test_a_terminal_shows_the_first_images_only(made, new, monkeypatch):
    from raysweep.cli import predict as verb
    from tests.cli.test_encodings import call

    folder, experiment = made
    monkeypatch.setattr(verb, "MOST_SHOWN", 5)
    for width in ("60", "120"):
        monkeypatch.setenv("COLUMNS", width)
        code, out, err = call(
            ["predict", f"{experiment.id}@best", new / "Big_Dog", "--root", folder / "root"], "utf-8", terminal=True
        )
        assert code == 0
        assert out.count(".png") == 5
        assert "… 6 more images; --csv FILE.csv has all." in err


def test_names_are_ordered_as_people_count():
    assert sorted(["img10", "img9", "img1a", "b", "10", "9"], key=natural) == ["9", "10", "b", "img1a", "img9", "img10"]
