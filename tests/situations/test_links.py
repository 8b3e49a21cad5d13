"""Links to folders below a class, and files that are read twice by them (timm 334, fastai 2270; ResEmoteNet 42)."""

from __future__ import annotations

import os

from tests.situations.reading import IMAGE, plant, read


def test_linked_folders_are_followed(tmp_path):
    plant(tmp_path, {"data/cat/": 3, "data/dog/": 2, "far/more/": 40, "far/dogs/": 5})
    (tmp_path / "data" / "cat" / "more").symlink_to(tmp_path / "far" / "more")
    (tmp_path / "data" / "eel").symlink_to("../far/dogs")
    found = read(tmp_path / "data")
    assert found.train == {"cat": 43, "dog": 2, "eel": 5}
    assert "40 images lie in folders below their class, such as cat/more/" in found.notes


def test_circles_and_links_to_nowhere_are_counted(tmp_path):
    plant(tmp_path, {"data/cat/": 3, "data/dog/": 2})
    for name, target in (("cat/up", ".."), ("cat/self", "."), ("dog/root", "/"), ("dog/a.png", "gone.png")):
        (tmp_path / "data" / name).symlink_to(target)
    found = read(tmp_path / "data")
    assert found.train == {"cat": 3, "dog": 2}
    assert found.left_out == {"links that lead in a circle": 3, "links that lead nowhere": 1}


def test_classes_that_link_to_one_another_end(tmp_path):
    plant(tmp_path, {f"{c}/": 1 for c in "abcde"})
    for c in "abcde":
        for d in "abcde":
            (tmp_path / c / f"to_{d}").symlink_to(f"../{d}")
    found = read(tmp_path)
    assert set(found.train) == set("abcde")
    assert found.left_out["links that lead in a circle"] > 0


def test_one_file_in_two_classes_or_splits_is_said(tmp_path):
    plant(tmp_path, {"train/cat/": 3, "train/dog/": 2, "val/cat/": 1, "val/dog/": 1})
    (tmp_path / "train" / "dog" / "same.png").symlink_to("../cat/00.png")
    os.link(tmp_path / "train" / "cat" / "01.png", tmp_path / "val" / "cat" / "copy.png")
    (tmp_path / "train" / "cat" / "twice.png").symlink_to("02.png")
    found = read(tmp_path)
    assert found.train == {"cat": 4, "dog": 3}
    assert "1 file is in two classes: train/cat/00.png is train/dog/same.png as cat and dog." in found.notes
    assert "1 file is both in training and validation: train/cat/01.png is val/cat/copy.png." in found.notes
    assert "1 file is read more than once: train/cat/02.png is train/cat/twice.png." in found.notes
    assert read(plant(tmp_path / "plain", {"a/": 2, "b/0.png": IMAGE})).notes == ""
