"""Folders below the classes (brendenlake/omniglot: 964 characters of 30 alphabets; hromi/SMILEsmileD)."""

from __future__ import annotations

from tests.situations.reading import plant, read, refusal

OMNIGLOT = {f"images_background/{a}/character{c:02}/": 2 for a in ("Greek", "Latin", "Korean") for c in range(1, 5)}


def test_a_second_level_is_asked_about(tmp_path):
    text = refusal(plant(tmp_path, OMNIGLOT))
    assert "the 3 folders of the first level (Greek, Korean, Latin)" in text
    assert "the 12 of the second (character01" in text
    assert text.endswith("data.level=1 or data.level=2.")


def test_the_level_says_which_folders_are_the_classes(tmp_path):
    plant(tmp_path, OMNIGLOT)
    assert read(tmp_path / "images_background", level=1).train == {"Greek": 8, "Korean": 8, "Latin": 8}
    found = read(tmp_path, level=2)
    assert len(found.train) == 12
    assert set(found.train.values()) == {2}
    assert "Greek/character01" in found.train
    kingdoms = plant(tmp_path / "k", {"animals/cat/": 2, "animals/dog/": 3, "plants/oak/": 1})
    assert read(kingdoms, level=2).train == {"cat": 2, "dog": 3, "oak": 1}  # each name says enough


def test_the_names_of_a_second_level_are_the_same_in_every_split(tmp_path):
    tree = {"train/a/x/": 2, "train/b/x/": 2, "train/b/y/": 1, "val/a/x/": 1, "val/b/y/": 1, "val/b/x/": 1}
    found = read(plant(tmp_path, tree), level=2)
    assert (found.train, found.val) == ({"a/x": 2, "b/x": 2, "b/y": 1}, {"a/x": 1, "b/x": 1, "b/y": 1})


def test_one_folder_in_each_class_is_gone_through_and_said(tmp_path):
    found = read(plant(tmp_path, {"positives/positives7/": 3, "negatives/negatives7/": 2}))
    assert found.train == {"negatives": 2, "positives": 3}
    assert "5 images lie in folders below their class, such as negatives/negatives7/" in found.notes
