"""Folder trees at random, whose right reading is known: read rightly or refused by name, and every file is used or counted."""

from __future__ import annotations

import os
import shutil
import tempfile
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.drawing import encoded, pictures, section

IMAGE = encoded(pictures({"a": 1})[0].pixels)
NAMES = ["happy", "sad face", "café", "Ärger", "日本", "0", "10", "a.b", "valley", "detest"]
TRAINS = ["train", "Training", "TRAIN", "seg_train", "training_set", "Train_Data", "train_afew", "FER2013Train"]
VALS = ["val", "Valid", "validation", "dev", "seg_val", "val_set", "Valid_Data", "val_afew", "FER2013Valid"]
TESTS = ["test", "Testing", "eval", "seg_test", "test_set", "Test_Data", "test_afew", "FER2013Test"]
WRAPPERS = ["archive", "images", "Dataset", "my data", "FER"]
SUFFIXES = [".png", ".PNG", ".jfif", ".jpe", ".jpeg", ".bmp", "", ".pgm", ".0001"]
OTHERS = [".txt", ".xml", ".heic", ".mp4", ".csv~", ""]


@dataclass
class Tree:
    """A tree on disk: what is to be read of it, and how many files there are in all."""

    root: Path
    images: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)  # (split, class) → names of its images
    files: int = 0
    plain: bool = True  # it must be read, not refused

    def write(self, path: Path, content: bytes = IMAGE) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(content)
            self.files += 1


@dataclass(frozen=True)
class Shape:
    """How a tree is to look."""

    classes: list[str]
    train: str | None  # the folder of the training images; None: no split
    val: str | None
    test: str | None
    wrappers: list[str]
    counts: list[int]
    suffixes: list[str]
    decomposed: bool  # the validation folders write their classes in the other Unicode form
    junk: list[tuple[str, int]]  # (kind, where)


@st.composite
def shapes(draw) -> Shape:
    split = draw(st.sampled_from(["none", "train", "val", "test", "all"]))
    hinted = draw(st.booleans())  # words for splits in longer names; those of one form go together

    def word(words: list[str]) -> str:
        return draw(st.sampled_from(words[3:] if hinted else words[:3]))

    classes = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True))
    return Shape(
        classes=classes,
        train=None if split == "none" else "train" if split == "train" else word(TRAINS),
        val=word(VALS) if split in ("val", "all") else None,
        test=word(TESTS) if split in ("test", "all") else None,
        wrappers=draw(st.lists(st.sampled_from(WRAPPERS), max_size=2, unique=True)),
        counts=draw(st.lists(st.integers(1, 3), min_size=12, max_size=12)),
        suffixes=draw(st.lists(st.sampled_from(SUFFIXES), min_size=5, max_size=5)),
        decomposed=draw(st.booleans()),
        junk=draw(st.lists(st.tuples(st.sampled_from(sorted(JUNK)), st.integers(0, 99)), max_size=6)),
    )


def plant(folder: Path, shape: Shape) -> Tree:
    """Write a tree of this shape."""
    tree = Tree(folder / "data")
    base = tree.root.joinpath(*shape.wrappers)
    parts = [("train", shape.train or "")]
    parts += [("val", name) for name in (shape.val,) if name]
    parts += [("val" if shape.val is None else "test", name) for name in (shape.test,) if name]
    n = 0
    folders = []
    for split, part in parts:
        for c in shape.classes:
            written = unicodedata.normalize("NFD", c) if shape.decomposed and split == "val" else c
            where = base / part / written
            folders.append((split, c, where))
            for _ in range(shape.counts[n % len(shape.counts)]):
                file = where / f"{n:03}{shape.suffixes[n % len(shape.suffixes)]}"
                tree.write(file)
                tree.images.setdefault((split, c), Counter())[str(file.relative_to(tree.root))] += 1
                n += 1
    for kind, where in shape.junk:
        JUNK[kind](tree, folder, base, *folders[where % len(folders)], where)
    return tree


def _hidden(tree, folder, base, split, c, where, n):
    for name in (".ipynb_checkpoints/copy.png", "@eaDir/0.png/thumb.png", "._0.png", "Thumbs.db", "__pycache__/x.png"):
        tree.write(where / name)


def _system(tree, folder, base, split, c, where, n):
    tree.write(tree.root / "__MACOSX" / where.name / "._0.png")
    tree.write(base / ".DS_Store")
    tree.write(base / ".git" / "objects" / "ab" / "x.png")


def _others(tree, folder, base, split, c, where, n):
    tree.write(where / f"notes{OTHERS[n % len(OTHERS)]}", b"a text")
    tree.write(base / "README.md", b"a text")


def _circle(tree, folder, base, split, c, where, n):
    link = where / f"loop{n}"
    if not link.is_symlink():
        link.symlink_to([tree.root, where, where.parent][n % 3])
        tree.files += 1


def _nowhere(tree, folder, base, split, c, where, n):
    link = where / f"gone{n}.png"
    if not link.is_symlink():
        link.symlink_to(folder / "nowhere.png")
        tree.files += 1


def _linked(tree, folder, base, split, c, where, n):
    """Some of a class's images lie elsewhere, and a link in its folder leads there."""
    link = where / f"more{n}"
    if not link.is_symlink():
        elsewhere = folder / "elsewhere" / f"{len(list(folder.glob('elsewhere/*')))}"
        elsewhere.mkdir(parents=True)
        link.symlink_to(elsewhere)
        for i in range(2):
            tree.write(elsewhere / f"{i}.png")
            tree.images[split, c][str((link / f"{i}.png").relative_to(tree.root))] += 1


def _damaged(tree, folder, base, split, c, where, n):
    file = where / f"damaged{n}.jpg"
    if not file.exists():
        tree.write(file, b"no image")  # it is for decoding to say
        tree.images[split, c][str(file.relative_to(tree.root))] += 1


def _above(tree, folder, base, split, c, where, n):
    tree.write(where.parent / f"sample{n}.png")


def _beside(tree, folder, base, split, c, where, n):
    """A folder that is no split, beside the splits; where there are no others, it may also be a class."""
    if where.parent != base:
        tree.write(where.parent.parent / "samples" / "x.png")
        tree.plain = tree.plain and any(s == "val" for s, _ in tree.images)


JUNK = {
    "hidden": _hidden, "system": _system, "others": _others, "circle": _circle, "nowhere": _nowhere, "linked": _linked,
    "damaged": _damaged, "above": _above, "beside": _beside,
}  # fmt: skip


def check(shape: Shape) -> bool:
    """Whether the tree was read; it is read rightly, or refused by name."""
    from raysweep.data.sources import open_source
    from raysweep.errors import DataError

    folder = Path(tempfile.mkdtemp())
    try:
        tree = plant(folder, shape)
        refused: str | None = None
        try:
            found = open_source(section(tree.root)).listing()
        except DataError as error:
            refused = str(error)
        if refused is not None:
            assert not tree.plain, refused
            assert str(tree.root) in refused
            return False
        read: dict[tuple[str, str], Counter[str]] = {}
        for split, items in (("train", found.train), ("val", found.val or []), ("test", found.test)):
            for item in items:
                read.setdefault((split, found.classes[item.label]), Counter())[item.name] += 1
        assert read == tree.images
        assert (found.val is None) == (shape.val is None and shape.test is None)
        left = sum(what.count for what in found.left_out.values())
        used = len(found.train) + len(found.val or []) + len(found.test)
        assert used + left == tree.files, (found.left_out, sorted(map(str, tree.root.rglob("*"))))
        return True
    finally:
        shutil.rmtree(folder)


@given(shapes())
@settings(max_examples=30, deadline=None)
def test_a_tree_is_read_rightly_or_refused_by_name(shape):
    check(shape)


@pytest.mark.slow
@given(shapes())
@settings(max_examples=int(os.environ.get("RAYSWEEP_TREES", "500")), deadline=None)
def test_500_trees_are_read_rightly_or_refused_by_name(shape):
    check(shape)


def test_most_trees_are_read():
    """The control of the tests above: they do not refuse everything, and see an image that is lost."""
    plain = Shape(["happy", "sad face"], "seg_train", None, "seg_test", ["archive"], [2] * 12, [".png"] * 5, True, [])
    assert check(plain)
    flat = Shape(["test", "happy"], None, None, None, [], [1] * 12, [".png"] * 5, False, [])  # a class called test?
    with pytest.raises(AssertionError, match="it may be a split or a class"):
        check(flat)
    with pytest.MonkeyPatch.context() as patch:
        from raysweep.data import tree

        patch.setattr(tree, "is_image", lambda path: path.name != "000.png")
        with pytest.raises(AssertionError):
            check(plain)
