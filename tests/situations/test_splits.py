"""Splits in longer names, one level down, or under other words (fastai 1552; Kaggle's Intel images; the folders of FER+ and FER-2013)."""

from __future__ import annotations

import pytest

from tests.situations.reading import IMAGE, plant, read, refusal


def halves(train: str, other: str) -> dict[str, int]:
    return {f"{train}/cat/": 3, f"{train}/dog/": 2, f"{other}/cat/": 1, f"{other}/dog/": 2}


@pytest.mark.parametrize(
    ("train", "other"),
    [
        ("seg_train", "seg_test"), ("training_set", "test_set"), ("Train_Data", "Test_Data"), ("train_afew", "val_afew"),
        ("FER2013Train", "FER2013Valid"), ("archive/train", "archive/test"), ("images/train", "images/val"),
        ("a/b/c/Training", "a/b/c/Testing"), ("seg_train/seg_train", "seg_test/seg_test"), ("trainImages", "valImages"),
        ("images_train", "images_dev"), ("01-train", "02-test"),
    ],
)  # fmt: skip
def test_splits_under_other_names_are_read_and_said(tmp_path, train, other):
    found = read(plant(tmp_path, halves(train, other)))
    assert (found.train, found.val) == ({"cat": 3, "dog": 2}, {"cat": 1, "dog": 2})
    inner, told = other.rpartition("/")[0], found.notes
    assert (f"Read in {inner}/" in told) if inner else (f"{train}/ for training, {other}/ for validation" in told)


@pytest.mark.parametrize("val", ["auto", "test"])
def test_of_three_splits_the_test_images_are_sealed(tmp_path, val):
    found = read(plant(tmp_path, {**halves("train", "valid"), "test/cat/": 4, "test/dog/": 1}), val=val)
    assert (found.train, found.val, found.test) == ({"cat": 3, "dog": 2}, {"cat": 1, "dog": 2}, {"cat": 4, "dog": 1})
    assert (found.left_out, found.notes) == ({}, "")


def test_intels_folders_with_unlabelled_images_beside_the_splits(tmp_path):
    tree = halves("seg_train/seg_train", "seg_test/seg_test") | {"seg_pred/seg_pred/": 7}
    found = read(plant(tmp_path, tree))
    assert (found.train, found.val) == ({"cat": 3, "dog": 2}, {"cat": 1, "dog": 2})
    assert found.left_out == {"images in folders that are no split": 7}


def test_public_test_and_private_test_are_two_things_and_both_are_used(tmp_path):
    tree = halves("Training", "PublicTest") | {"PrivateTest/cat/": 2, "PrivateTest/dog/": 5}
    found = read(plant(tmp_path, tree))
    assert (found.train, found.val) == ({"cat": 3, "dog": 2}, {"cat": 3, "dog": 7})
    assert "PrivateTest/, PublicTest/ are used for validation" in found.notes


@pytest.mark.parametrize(
    "more", [{"Train/cat/": 1}, {"valid/cat/": 1, "val/cat/": 1}, {"train_old/cat/": 1}, {"PublicTest/cat/": 1}]
)
def test_two_folders_for_one_split_are_refused_by_name(tmp_path, more):
    text = refusal(plant(tmp_path, halves("train", "test") | more))
    assert "several folders for the same split" in text
    assert next(iter(more)).split("/")[0] in text


def test_no_folder_beside_the_splits_is_left_out_without_being_named(tmp_path):
    found = read(plant(tmp_path, halves("train", "test") | {"old/cat/": 4, "samples/": 2}))
    assert found.left_out == {"images in folders that are no split": 6}
    text = refusal(plant(tmp_path / "b", {"train/x/": 2, "train/y/": 2, "bus/": 3, "car/": 2}))
    assert "train/ beside bus/, car/" in text
    assert "data.level=1" in text


def test_classes_whose_names_contain_words_for_splits_stay_classes(tmp_path):
    tree = {"train_station/": 2, "bus_station/": 2, "test_tube/": 1}
    assert read(plant(tmp_path, tree)).train == {"bus_station": 2, "test_tube": 1, "train_station": 2}
    vehicles = plant(tmp_path / "v", {"train/": 2, "bus/": 1, "car/": 3})
    assert "train/ beside bus/, car/: it may be a split or a class" in refusal(vehicles)
    assert read(vehicles, level=1).train == {"bus": 1, "car": 3, "train": 2}


def test_splits_below_the_classes_are_refused_with_the_ways_out(tmp_path):
    text = refusal(plant(tmp_path, {f"{c}/{s}/": 2 for c in ("cat", "dog") for s in ("train", "test")}))
    assert "cat/, dog/" in text
    assert "hold splits" in text
    assert "data.level=1" in text


def test_flat_splits_name_the_lists_in_them(tmp_path):
    for split in ("FER2013Train", "FER2013Valid", "FER2013Test"):
        plant(tmp_path, {f"{split}/": 2, f"{split}/label.csv": 'fer0000000.png,"(0, 0, 48, 48)",4,0,0,1,3,2,0,0,0,0\n'})
    text = refusal(tmp_path)
    assert "hold their images directly" in text
    assert "FER2013Test/label.csv" in text


def test_a_folder_with_one_folder_in_it_is_gone_through_and_said(tmp_path):
    found = read(plant(tmp_path, {f"Dataset/{n}/": 2 for n in range(10)}))
    assert found.train == {str(n): 2 for n in range(10)}
    assert "Read in Dataset/" in found.notes


def test_a_flat_unlabelled_test_folder_is_left_out_and_said(tmp_path):
    """fastai 1056."""
    found = read(plant(tmp_path, {"train/cat/": 3, "train/dog/": 2, "test/": 9, "5.png": IMAGE}))
    assert (found.train, found.val) == ({"cat": 3, "dog": 2}, None)
    assert found.left_out == {"images outside of class folders": 1, "images without a class in test/": 9}
