"""Data sets as their authors publish them, small: the folder as it is unpacked, with all that lies beside the images."""

from __future__ import annotations

import gzip
import struct

import pytest

from tests.situations.reading import IMAGE, plant, read, refusal

REPOSITORY = {"README.md": "# Data\n", "LICENSE": "MIT", ".gitignore": "*.pyc\n", "train.py": "import os\n"}


def rows(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def test_muxspace_facial_expressions(tmp_path):
    """A list in ``data/``, images in ``images/``, and some of the same names in ``test/``."""
    listed = rows("user.id,image,emotion", "1,00.png,happiness", "1,01.png,fear", "2,02.png,HAPPINESS", "2,03.png,fear")
    plant(
        tmp_path, {**REPOSITORY, "data/legend.csv": listed, "images/": 5, "test/": 3, "python/a.py": "", "R/README": ""}
    )
    told = refusal(tmp_path)  # the first command
    line = 'data.rename={"HAPPINESS": "happiness"}'
    assert line in told
    found = read(tmp_path, rename={"HAPPINESS": "happiness"})  # the second
    assert found.train == {"fear": 2, "happiness": 2}
    assert f"those in {tmp_path / 'images'} are used, the only folder that has all" in found.notes
    assert found.left_out["images that the list does not name"] == 4
    assert "may be in" in refusal(plant(tmp_path, {"test/03.png": IMAGE}))  # now two folders have all


def test_hromi_smilesmiled(tmp_path):
    tree = {f"SMILEs/{c}/{c}7/": n for c, n in (("negatives", 5), ("positives", 3))}
    tree |= {f"SMILEs/{c}/smiles_01.idx": "a.jpg 1 0 0 64 64\n" for c in ("negatives", "positives")}
    found = read(plant(tmp_path, {**REPOSITORY, **tree, "smileD/smiled_01.xml": "<x/>", "appz/smileD.c": "int x;"}))
    assert found.train == {"negatives": 5, "positives": 3}
    assert "Read in SMILEs/" in found.notes


def test_ardamavi_sign_language_digits(tmp_path):
    """Class folders in ``Dataset/`` beside a folder of examples: two classes were read."""
    from PIL import Image

    plant(tmp_path, {**REPOSITORY, **{f"Dataset/{n}/": 2 for n in range(10)}, "Examples/": 10})
    told = refusal(tmp_path)
    assert "Dataset/ in" in told
    assert "holds 10 folders with images (0, 1, 2 …), but Examples/ holds images directly" in told
    assert f"data.path={tmp_path / 'Dataset'} for the folders in it, or data.level=1" in told
    assert "image_size" not in told
    Image.new("L", (30, 20)).save(tmp_path / "Dataset" / "3" / "large.png")
    assert (
        told + " The images are not squares of one size, so add a side for all of them, too: data.image_size=8."
        == refusal(tmp_path)
    )
    (tmp_path / "Dataset" / "3" / "large.png").unlink()
    assert read(tmp_path / "Dataset").train == {str(n): 2 for n in range(10)}
    assert read(tmp_path, level=1).train == {"Dataset": 20, "Examples": 10}


@pytest.mark.parametrize(
    "tree",
    [
        {"brain_tumor_dataset/no/": 2, "brain_tumor_dataset/yes/": 3, "no/": 2, "yes/": 3},
        {"Parasitized/": 3, "Uninfected/": 2, "cell_images/Parasitized/": 3, "cell_images/Uninfected/": 2},
    ],
)
def test_the_same_class_folders_once_more_in_a_folder_beside_them(tmp_path, tree):
    """Kaggle's navoneel/brain-mri-images-for-brain-tumor-detection and iarunava/cell-images-for-detecting-malaria."""
    inner = next(name.split("/")[0] for name in tree if name.count("/") == 2)
    assert f"data.path={tmp_path / inner} for the folders in it" in refusal(plant(tmp_path, tree))
    assert len(read(tmp_path / inner).train) == 2


def test_brendenlake_omniglot(tmp_path):
    """Two archives unpacked side by side, each with alphabets and characters."""
    tree = {
        f"python/images_background_small{i}/{a}{i}/character{c:02}/": 2
        for i in (1, 2) for a in ("Greek", "Latin") for c in (1, 2, 3)
    }  # fmt: skip
    told = refusal(plant(tmp_path, {**REPOSITORY, "omniglot_grid.png": IMAGE, **tree}))
    first = tmp_path / "python" / "images_background_small1"
    assert told.endswith(
        f"data.level=1 or data.level=2, or data.path={first} with either for the folders in one of them."
    )
    assert len(read(first, level=2).train) == 6


def test_alexolsen_deepweeds(tmp_path):
    """Flat images, lists of five folds in ``labels/``, and a folder of code: the code was called an empty class."""
    lists = {
        "labels/labels.csv": rows(
            "Filename,Label,Species", "00.png,0,Lantana", "01.png,1,Negative", "02.png,1,Negative"
        )
    }
    for n in range(2):
        for split, image in (("train", "00.png"), ("val", "01.png"), ("test", "02.png")):
            lists[f"labels/{split}_subset{n}.csv"] = rows("Filename,Label", f"{image},{int(image[1])}")
    plant(tmp_path, {**REPOSITORY, **lists, "images/": 3, "tensorrt/src/Makefile": "all:\n"})
    told = refusal(tmp_path)
    assert f"Give one of them, such as data.path={tmp_path / 'labels' / 'labels.csv'}" in told
    assert read(tmp_path / "labels" / "labels.csv").train == {"Lantana": 1, "Negative": 2}
    alone = read(tmp_path / "labels" / "train_subset0.csv")
    assert "put one list for each split into a folder of their own" in alone.notes
    assert "takes the lists of all splits" not in alone.notes


def test_garythung_trashnet(tmp_path):
    """The archive unpacked in ``data/``, beside the lists of another program."""
    tree = {f"data/dataset-resized/{c}/{c}{i}.png": IMAGE for c in ("glass", "paper") for i in (1, 2)}
    hidden = {f"data/__MACOSX/dataset-resized/{c}/._{c}1.png": b"\0\5\x16\7" for c in ("glass", "paper")}
    lines = [f"{c}{i}.png {n}" for n, c in enumerate(("glass", "paper"), 1) for i in (1, 2)]
    lists = {"data/one-indexed-files.txt": rows(*lines), "data/one-indexed-files-notrash_train.txt": rows(*lines[:3])}
    found = read(plant(tmp_path, {**REPOSITORY, **tree, **hidden, **lists, "data/dataset-resized/.DS_Store": b"\0"}))
    assert found.train == {"glass": 2, "paper": 2}
    assert found.left_out["hidden and system files"] == 4
    assert f"data.path={tmp_path / 'data' / 'one-indexed-files.txt'} or data.source=folder" in refusal(
        tmp_path / "data"
    )
    assert read(tmp_path / "data" / "one-indexed-files.txt").train == {"1": 2, "2": 2}


def test_microsoft_ferplus(tmp_path):
    """Ten votes an image, of which one row of 35,887 has nine; images in the folders of three splits."""
    folders = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
    lines, tree = ["Usage,Image name,neutral,happiness,NF"], {}
    for n in range(200):
        usage = ("Training", "PublicTest", "PrivateTest")[n % 4 % 3]
        name = f"fer{n:07}.png"
        tree[f"data/{folders[usage]}/{name}"] = b""
        lines.append(f"{usage},{name},{('9,1,0', '2,8,0')[n % 2]}" if n != 100 else f"{usage},{name},4,5,0")
    lines += ["Training,,0,0,10", "Training,tied.png,5,5,0"]
    tree |= {"data/FER2013Train/tied.png": b"", "data/FER2013Train/other.png": b""}
    plant(tmp_path, {**REPOSITORY, "fer2013new.csv": rows(*lines), **tree})
    found = read(tmp_path)
    assert (found.train, found.val) == ({"happiness": 51, "neutral": 49}, {"happiness": 50, "neutral": 50})
    assert "the one with the most of 10 votes" in found.notes
    assert "1 row has another number of votes: line 102 has 9." in found.notes
    assert found.left_out["rows that name no image"] == found.left_out["rows whose votes are tied"] == 1
    assert found.left_out["images that the list does not name"] == 1


def test_zalandoresearch_fashion_mnist(tmp_path):
    """Gzipped idx files in ``data/fashion/``, beside the pictures of the documentation."""
    from PIL import Image

    idx = {}
    for part, n in (("train", 20), ("t10k", 10)):
        idx[f"data/fashion/{part}-images-idx3-ubyte.gz"] = gzip.compress(
            struct.pack(">IIII", 2051, n, 2, 2) + bytes(4 * n)
        )
        idx[f"data/fashion/{part}-labels-idx1-ubyte.gz"] = gzip.compress(
            struct.pack(">II", 2049, n) + bytes(i % 10 for i in range(n))
        )
    plant(tmp_path, {**REPOSITORY, **idx, "doc/img/": 5, "static/img/": 2, "data/mnist/README.md": ""})
    Image.new("L", (30, 20)).save(tmp_path / "doc" / "img" / "large.png")
    told = refusal(tmp_path)
    assert "image_size" not in told  # the size of the documentation's pictures says nothing
    assert "several data sets: class folders, data/fashion" in told.replace(" and ", ", ")
    found = read(tmp_path / "data" / "fashion")
    assert (sum(found.train.values()), found.train["Ankle boot"], found.val["Bag"]) == (20, 2, 1)
    alone = plant(tmp_path / "x", {**idx, "README.md": ""})
    assert sum(read(alone).train.values()) == 20
