"""A class without validation images (torchvision 8297, 4925): folders and lists accept the same, and say so."""

from __future__ import annotations

import pytest

from tests.situations.reading import plant, read, refusal


def as_list(tree: dict[str, int]) -> dict[str, int | str]:
    rows = [f"{f}{i:02}.png,{f.split('/')[1]},{f.split('/')[0]}" for f, n in tree.items() for i in range(n)]
    return {**{f"images/{f}": n for f, n in tree.items()}, "list.csv": "\n".join(["path,label,split", *rows])}


@pytest.mark.parametrize("form", ["folders", "list"])
def test_it_is_accepted(tmp_path, form):
    tree = {"train/cat/": 3, "train/dog/": 2, "val/cat/": 1}
    plant(tmp_path, tree if form == "folders" else as_list(tree))
    found = read(tmp_path) if form == "folders" else read(tmp_path / "list.csv", images=str(tmp_path / "images"))
    assert (found.train, found.val) == ({"cat": 3, "dog": 2}, {"cat": 1})


def test_an_empty_folder_is_the_same_as_none(tmp_path):
    plant(tmp_path, {"train/cat/": 3, "train/dog/": 2, "val/cat/": 1, "val/dog/": 0})
    assert read(tmp_path).val == {"cat": 1}


@pytest.mark.parametrize("form", ["folders", "list"])
def test_a_class_without_training_images_is_refused_with_the_line_that_leaves_it_out(tmp_path, form):
    tree = {"train/cat/": 3, "train/dog/": 2, "val/cat/": 1, "val/eel/": 1}
    plant(tmp_path, tree if form == "folders" else as_list(tree))
    path, options = tmp_path, {}
    if form == "list":
        path, options = tmp_path / "list.csv", {"images": str(tmp_path / "images")}
    text = refusal(path, **options)
    assert "no training images of class eel" in text
    assert "'data.drop=[\"eel\"]'" in text
    found = read(path, drop=["eel"], **options)
    assert (found.train, found.val) == ({"cat": 3, "dog": 2}, {"cat": 1})
