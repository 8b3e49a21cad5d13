"""Hidden and system things at any depth (torchvision 2831, 109; Pillow 4807; garythung/trashnet's zip)."""

from __future__ import annotations

import pytest

from tests.situations.reading import IMAGE, plant, read

CLASSES = {"cat/": 3, "dog/": 2}


@pytest.mark.parametrize(
    "name",
    [
        "cat/.ipynb_checkpoints/00-checkpoint.png", "@eaDir/cat.png", "cat/@eaDir/00.png/SYNOPHOTO_THUMB_M.png",
        "__MACOSX/cat/._00.png", "cat/._00.png", ".git/logo.png", "cat/deep/.thumbs/x.png", "cat/Thumbs.db",
        "dog/desktop.ini", "$RECYCLE.BIN/x.png", "lost+found/x.png", "dog/.DS_Store",
    ],
)  # fmt: skip
def test_what_is_hidden_is_no_image_and_no_class_and_is_counted(tmp_path, name):
    found = read(plant(tmp_path, {**CLASSES, name: IMAGE}))
    assert found.train == {"cat": 3, "dog": 2}
    assert found.left_out == {"hidden and system files": 1}


def test_hidden_things_in_split_folders(tmp_path):
    tree = {f"{s}/{c}": n for s in ("train", "val") for c, n in CLASSES.items()}
    found = read(plant(tmp_path, {**tree, "train/.ipynb_checkpoints/": 7, "val/cat/.ipynb_checkpoints/": 7}))
    assert (found.train, found.val) == ({"cat": 3, "dog": 2}, {"cat": 3, "dog": 2})
    assert found.left_out == {"hidden and system files": 14}
