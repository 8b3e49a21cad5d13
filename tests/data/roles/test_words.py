"""Which images are for training, validation and test: by the words of the data, by FER-2013's names, by ``data.val``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from raysweep.data import cache
from tests.data.drawing import as_cifar, as_folder, as_hub, as_idx, as_manifest, encoded, pictures, publish, section
from tests.situations.reading import plant, read, refusal

FER = Path(os.environ.get("RAYSWEEP_FER", "/nowhere"))  # class folders with train/ and test/
TRAIN = {"a": 4, "b": 3}
THREE = {name: name for name in ("train", "val", "test")}
SPLITS = [("train", "Training"), ("val", "PublicTest"), ("test", "PrivateTest")]


def some(size=8, channels=1):
    """Seven images for training, three for validation, five for testing."""
    extra = pictures({"a": 3, "b": 2}, seed=5, size=size, channels=channels)
    return pictures(TRAIN, {"a": 2, "b": 1}, size=size, channels=channels) + [p._replace(split="test") for p in extra]


def test_folders_of_all_three_splits_have_their_own_purpose(tmp_path):
    found = read(as_folder(tmp_path / "d", some(), THREE), val="auto")
    assert (found.train, found.val, found.test) == (TRAIN, {"a": 2, "b": 1}, {"a": 3, "b": 2})
    assert found.left_out == {}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_lists_of_all_three_splits(tmp_path, suffix):
    found = read(as_manifest(tmp_path / f"x.{suffix}", some()), val="auto")
    assert (found.train, found.val, found.test) == (TRAIN, {"a": 2, "b": 1}, {"a": 3, "b": 2})


def test_train_and_test_alone_leave_the_test_images_sealed(tmp_path):
    kept = [p for p in some() if p.split != "val"]
    made = {
        "folder": as_folder(tmp_path / "d", kept, THREE),
        "list": as_manifest(tmp_path / "x.csv", kept),
        "hub": as_hub(tmp_path / "hub", kept, split_names={"train": "train", "test": "test"}),
    }
    for path in made.values():
        found = read(path, val="auto")
        assert (found.train, found.val, found.test) == (TRAIN, None, {"a": 3, "b": 2})
        before = read(path, val="test")
        assert (before.train, before.val, before.test) == (TRAIN, {"a": 3, "b": 2}, {})
        assert "for validation: there are no validation images of their own" in before.notes


def test_cifar_and_mnist_have_test_images(tmp_path, monkeypatch):
    def of(path):
        return read(path, val="auto").test, read(path, val="test").val

    gray = pictures({"3": 2, "7": 2}, {"3": 1, "7": 1}, size=28)
    assert of(as_idx(tmp_path / "MNIST" / "raw", gray, [str(n) for n in range(10)])) == ({"3": 1, "7": 1},) * 2
    colour = pictures({"cat": 5, "dog": 5}, {"cat": 1, "dog": 2}, size=32, channels=3)
    path = as_cifar(tmp_path / "cifar-10-batches-py", colour, ["cat", "dog"])
    publish(monkeypatch, path)
    assert of(path) == ({"cat": 1, "dog": 2},) * 2


def test_split_sets_training_images_aside_whatever_there_is(tmp_path):
    found = read(as_folder(tmp_path / "d", some(), THREE), val="split")
    assert (found.train, found.val, found.test) == (TRAIN, None, {"a": 3, "b": 2})
    assert found.left_out == {"validation images, since data.val is split": 3}
    found = read(as_manifest(tmp_path / "x.csv", some()), val="split")
    assert (found.train, found.val, found.test) == (TRAIN, None, {"a": 3, "b": 2})
    assert found.left_out == {"validation images, since data.val is split": 3}


def test_fer_2013_in_csv_has_public_for_validation_and_private_sealed(tmp_path):
    words = dict(SPLITS)
    rows = [f"{'03'[p.label == 'b']},{' '.join(map(str, p.pixels.ravel()))},{words[p.split]}" for p in some()]
    (tmp_path / "fer.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")
    found = read(tmp_path / "fer.csv", val="auto")
    assert (found.train, found.val, found.test) == (
        {"angry": 4, "happy": 3},
        {"angry": 2, "happy": 1},
        {"angry": 3, "happy": 2},
    )
    before = read(tmp_path / "fer.csv", val="test")
    assert (before.val, before.test) == ({"angry": 5, "happy": 3}, {})


@pytest.mark.parametrize("val", ["auto", "test", "split"])
def test_fer_2013_in_class_folders_is_split_by_the_names_of_its_files(tmp_path, val):
    words = dict(SPLITS)
    for i, p in enumerate(some()):
        file = tmp_path / "d" / ("train" if p.split == "train" else "test") / p.label / f"{words[p.split]}_{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(p.pixels))
    found = read(tmp_path / "d", val=val)
    wanted = {
        "auto": ({"a": 2, "b": 1}, {"a": 3, "b": 2}),
        "test": ({"a": 5, "b": 3}, {}),
        "split": (None, {"a": 3, "b": 2}),
    }
    assert (found.val, found.test) == wanted[val]
    assert ("PrivateTest stays sealed" in found.notes) == (val == "auto")


def test_one_file_of_another_name_leaves_all_test_images_sealed(tmp_path):
    tree = {"train/a/x.png": encoded(some()[0].pixels), "train/b/y.png": encoded(some()[1].pixels)}
    tree |= {f"test/a/{n}_1.png": encoded(some()[2].pixels) for n in ("PublicTest", "PrivateTest", "Other")}
    found = read(plant(tmp_path, tree), val="auto")
    assert (found.val, found.test) == (None, {"a": 3})


def test_fer_folders_of_both_tests(tmp_path):
    tree = {f"{s}/{c}/": 2 for s in ("Training", "PublicTest", "PrivateTest") for c in "ab"}
    found = read(plant(tmp_path, tree), val="auto")
    assert (found.val, found.test) == ({"a": 2, "b": 2},) * 2


def test_test_images_that_help_nobody_stop_nobody(tmp_path):
    """Without a class, without a file, of an unknown class, or in folders that are not plain."""
    rows = ["path,label,split", "i/0.png,a,train", "i/1.png,b,train", "i/2.png,a,val", "i/3.png,b,val"]
    rows += ["i/4.png,a,test", "i/5.png,,test", "i/gone.png,a,test", "i/6.png,zebra,test"]
    plant(tmp_path / "l", {"i/": 7, "x.csv": "\n".join(rows)})
    for old in (tmp_path / "l" / "i").iterdir():
        old.rename(old.with_name(f"{int(old.stem)}.png"))
    found = read(tmp_path / "l" / "x.csv", val="auto")
    assert (found.train, found.val, found.test) == ({"a": 1, "b": 1}, {"a": 1, "b": 1}, {"a": 1})
    assert found.left_out == {
        "rows of test images without a class": 1,
        "rows of test images whose files are not there": 1,
        "test images of classes without training images": 1,
    }
    halves = {f"{s}/{c}/": 2 for s in ("train", "val") for c in "ab"}
    found = read(
        plant(tmp_path / "d", halves | {"test/x/a/": 1, "test/x/b/": 1, "test/y/a/": 1, "test/y/b/": 1}), val="auto"
    )
    assert (found.val, found.test) == ({"a": 2, "b": 2}, {})
    assert found.left_out == {"test images whose classes are not plain": 4}


def test_a_class_of_test_images_in_other_capitals_is_asked_about(tmp_path):
    tree = {"train/Cat/": 2, "train/dog/": 2, "val/Cat/": 1, "val/dog/": 1, "test/cat/": 1}
    assert "differ in upper and lower case alone" in refusal(plant(tmp_path, tree), val="auto")


def test_training_copies_of_sealed_images_are_taken_out_if_asked(tmp_path):
    kept = some()
    as_folder(tmp_path / "d", kept, THREE)
    (tmp_path / "d" / "test" / "a" / "again.png").write_bytes(encoded(kept[0].pixels))
    for how, images in (("report", 7), ("drop_train", 6)):
        data = cache.load(section(tmp_path / "d", val="auto", duplicates=how), tmp_path / "cache")
        assert len(data.train.labels) == images
        assert data.reading.seal.in_train == (how == "report")


@pytest.mark.slow
@pytest.mark.skipif(not FER.is_dir(), reason="RAYSWEEP_FER names no folder with FER-2013, which is not ours to ship")
def test_fer_2013_has_the_same_three_sets_in_folders_and_in_csv(tmp_path):
    from PIL import Image

    from raysweep.data.pixels_csv import FER_LABELS

    lines = ["emotion,pixels,Usage"]
    for file in sorted(FER.glob("*/*/*.jpg")):
        pixels = " ".join(map(str, np.asarray(Image.open(file)).ravel().tolist()))
        lines.append(f"{FER_LABELS.index(file.parent.name)},{pixels},{file.name.split('_')[0]}")
    (tmp_path / "fer2013.csv").write_text("\n".join(lines) + "\n")
    from raysweep.data.sealed import open_sealed

    sets = []
    for path in (FER, tmp_path / "fer2013.csv"):
        data = cache.load(section(path, val="auto"), tmp_path / "cache")
        test = open_sealed(section(path, val="auto"), tmp_path / "cache", form=(48, 1))
        assert (len(data.train.labels), len(data.val.labels), test.count) == (28_709, 3_589, 3_589)
        sets.append((data.sha256, test.digests.tolist(), test.labels.tolist()))
    assert sets[0] == sets[1]
    found = cache.load(section(FER, val="auto"), tmp_path / "cache").reading
    assert sum(found.copies.leaked.values()) + found.seal.in_train == 568
    before = cache.load(section(FER), tmp_path / "cache").reading.copies
    assert (sum(before.leaked.values()), before.other_class, before.surplus, before.contradictions) == (
        568,
        16,
        1_236,
        39,
    )
