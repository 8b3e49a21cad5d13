"""Images with several labels, or none: what a split leaves for training, and what is said where a label is left with nothing."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raysweep.config.settings import DataSection
from raysweep.data import cache, copies, multi_label
from raysweep.data.listing import Item, Listing
from raysweep.data.roles import split
from raysweep.data.roles.sides import Hashed, Known, short, sided
from raysweep.errors import DataError


def write(folder, rows, head=("path", "labels"), unreadable=()):
    """A list beside its images, each of its own pixels; images that are named twice have the same."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(dict.fromkeys(row[0] for row in rows)):
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    for name in unreadable:
        (folder / name).write_bytes(b"no image")
    lines = [",".join(map(str, row)) for row in (head, *rows)]
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return folder / "list.csv"


def section(path="list.csv", **options):
    return DataSection(path=str(path), **{"multi_label": True, **options})


def listing_of(has, val=None):
    """A listing of images whose labels are the rows of ``has``, bool (n, classes); the last ``val`` of them are for validation."""
    sets = sorted({tuple(np.flatnonzero(row).tolist()) for row in has})
    items = [Item(str(i), sets.index(tuple(np.flatnonzero(row).tolist())), b"") for i, row in enumerate(has)]
    end = len(items) - (val or 0)
    names = tuple(f"l{i:02}" for i in range(has.shape[1]))
    return Listing(names, items[:end], None if val is None else items[end:], sets=tuple(sets))


def hashed(listing, bad=frozenset(), groups=None):
    """(what a split is made of, the listing whose classes are the strata)."""
    numbers = np.array([item.label for item in [*listing.train, *(listing.val or [])]])
    digests = np.array([hashlib.md5(str(i).encode()).hexdigest().encode() for i in range(len(numbers))], dtype="S32")
    strata, names = multi_label.strata(listing, numbers, bad)
    has = multi_label.labels_of(listing, numbers)
    return Hashed(strata, digests, digests, frozenset(bad), groups, has, listing.classes), listing._replace(
        classes=names
    )


def with_rare(images, labels, seed=0):
    """bool (images, labels): two frequent labels, all others with one image each."""
    rng = np.random.default_rng(seed)
    has = np.zeros((images, labels), dtype=bool)
    has[:, :2] = rng.random((images, 2)) < 0.5
    has[rng.choice(images, labels - 2, replace=False), np.arange(2, labels)] = True
    return has


@pytest.mark.parametrize(("images", "labels"), [(80, 3), (600, 60)])
@pytest.mark.parametrize("seed", range(8))
def test_a_label_with_one_image_keeps_it_for_training_whatever_the_seed(images, labels, seed):
    has = with_rare(images, labels)
    some, stratified = hashed(listing_of(has))
    found = [sided(some, stratified, section(split_seed=seed), None).parts for _ in range(2)]
    parts = found[0]
    assert has[parts["train"]].any(0).all()
    assert sorted([*parts["train"], *parts["val"]]) == list(range(images))
    assert np.array_equal(parts["val"], found[1]["val"])
    good = np.arange(images)
    order = good[np.lexsort((some.digests, some.labels))]
    plain = split.own_split(order, some.labels, section(split_seed=seed), stratified.classes, some.digests)
    assert len(parts["val"]) == len(plain["val"])  # another image takes the place
    if has[plain["train"]].any(0).all():  # what worked before stays as it was
        assert np.array_equal(parts["val"], plain["val"])


def test_images_of_a_group_stay_together_where_one_is_kept_for_training():
    has = with_rare(80, 20)
    groups = np.arange(80) // 2
    some, stratified = hashed(listing_of(has), groups=groups)
    for seed in range(8):
        parts = sided(some, stratified, section(split_seed=seed, group="column:g"), None).parts
        assert has[parts["train"]].any(0).all()
        assert not set(groups[parts["train"]]) & set(groups[parts["val"]])


def test_an_ancestors_validation_images_stay_where_they_are():
    has = with_rare(80, 3)
    some, stratified = hashed(listing_of(has))
    rare = np.flatnonzero(has[:, 2])
    known = Known(np.empty(0, dtype=np.uint64), short(some.digests[rare]))
    with pytest.raises(DataError, match=r"no training images with the label l02.*an ancestor"):
        sided(some, stratified, section(), known)


def test_groups_that_an_ancestor_was_validated_on_stay_there():
    has = with_rare(80, 3)
    (rare,) = np.flatnonzero(has[:, 2])
    some, stratified = hashed(listing_of(has), groups=np.where(np.arange(80) // 40 == rare // 40, 0, np.arange(80)))
    beside = next(i for i in range(80) if some.groups[i] == 0 and i != rare)
    known = Known(np.empty(0, dtype=np.uint64), short(some.digests[[beside]]))
    with pytest.raises(DataError, match=r"no training images with the label l02.*of their groups"):
        sided(some, stratified, section(group="column:g"), known)


def test_where_every_image_is_the_only_one_with_a_label_none_can_be_set_aside():
    some, stratified = hashed(listing_of(np.eye(3, dtype=bool)))
    with pytest.raises(DataError, match=r"no image can be set aside.*the only one with one of its labels"):
        sided(some, stratified, section(), None)


LABELS = st.lists(st.tuples(*[st.booleans()] * 4), min_size=2, max_size=30).map(lambda rows: np.array(rows, dtype=bool))


@given(LABELS, st.integers(0, 3), st.sets(st.integers(0, 29), max_size=4), st.booleans())
def test_a_split_leaves_every_label_an_image_for_training(labels, seed, bad, grouped):
    bad = frozenset(i for i in bad if i < len(labels))
    good = [i for i in range(len(labels)) if i not in bad]
    if not labels.any(0).all():
        return
    groups = np.arange(len(labels)) // 2 if grouped else None
    some, stratified = hashed(listing_of(labels), bad, groups)
    refused, parts = "", {}
    try:
        parts = sided(some, stratified, section(split_seed=seed), None).parts
    except DataError as error:
        refused = str(error)
    assert "Class" not in refused  # a stratum
    lacking = not len(good) or not labels[good].any(0).all()
    assert lacking == ("readable images with the label" in refused)
    if refused:
        return
    assert sorted([*parts["train"], *parts["val"]]) == good
    assert labels[parts["train"]].any(0).all()
    assert len(parts["val"])


ROWS = [(f"{i}.png", "|".join(c for c, every in (("a", 2), ("b", 3), ("c", 2)) if i % every == 0)) for i in range(60)]


@pytest.mark.parametrize("role", [None, "train"])
def test_a_stratum_without_readable_images_is_no_label_without_images(tmp_path, role):
    """``a|b`` alone is of the stratum b, which has a second image; neither can be read, and a|b|c remain."""
    rows = [
        *((f"{i}.png", "a|b|c" if i < 20 else "b|c|d" if i < 30 else "") for i in range(58)),
        ("x.png", "d"),
        ("y.png", "d"),
    ]
    rows += [("z.png", "e|a"), ("w.png", "e|a"), ("u.png", "e|b"), ("v.png", "e")]
    head = ("path", "labels")
    if role:
        rows = [(*row, "val" if i % 5 == 4 else role) for i, row in enumerate(rows)]
        head = (*head, "split")
    none = [row[0] for row in rows if not row[1]]
    table = write(tmp_path / "one", rows, head, unreadable=none)
    data = cache.load(section(table, on_bad_image="skip"), tmp_path / "cache")
    assert data.train.labels.any(1).all()
    assert data.train.labels.any(0).all()
    one = none[:-1]  # a single one is left
    table = write(tmp_path / "two", rows, head, unreadable=one)
    data = cache.load(section(table, on_bad_image="skip"), tmp_path / "cache")
    assert (~data.train.labels.any(1)).sum() + (~data.val.labels.any(1)).sum() == 1


def test_copies_that_are_dropped_empty_a_stratum_and_no_label(tmp_path):
    rows = [
        (f"{i}.png", "a|b|c" if i < 20 else "a" if i < 40 else "b|c", "train" if i % 4 else "val") for i in range(60)
    ]
    rows += [("none.png", "", "train"), ("none.png", "", "val"), ("more.png", "", "train"), ("more.png", "", "val")]
    table = write(tmp_path / "one", rows, ("path", "labels", "split"))
    data = cache.load(section(table, duplicates=copies.DROP_TRAIN), tmp_path / "cache")
    assert data.train.labels.any(1).all()
    assert (~data.val.labels.any(1)).sum() == 2


def test_a_label_whose_images_are_all_dropped_is_named(tmp_path):
    rows = [(f"{i}.png", "a|b" if i % 2 else "b", "train" if i % 4 else "val") for i in range(20)]
    rows += [("z.png", "z", "train"), ("z.png", "z", "val")]
    table = write(tmp_path / "one", rows, ("path", "labels", "split"))
    with pytest.raises(DataError, match="no training images with the label z"):
        cache.load(section(table, duplicates=copies.DROP_TRAIN), tmp_path / "cache")
    rows = [(f"{i}.png", "a|b" if i % 2 else "b") for i in range(20)] + [("z.png", "z"), ("y.png", "z")]
    table = write(tmp_path / "two", rows, unreadable=["z.png", "y.png"])
    with pytest.raises(DataError, match="no readable images with the label z"):
        cache.load(section(table, on_bad_image="skip"), tmp_path / "cache")
    rows = [(f"{i}.png", "") for i in range(20)] + [("z.png", "z|y"), ("y.png", "z")]
    table = write(tmp_path / "three", rows, unreadable=[row[0] for row in rows[:-2]])
    assert cache.load(section(table, on_bad_image="skip"), tmp_path / "cache").train.labels.shape == (1, 2)
