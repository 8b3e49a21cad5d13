"""A split made here: enough of small classes, equal pixels and groups on one side, no more than data.max_val."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.config.settings import DataSection
from raysweep.data.roles import split
from raysweep.data.roles.split import Fixed


def made(counts, digests=None, groups=None, fixed=None, **options):
    """(labels, images for validation per class, the parts)"""
    labels = np.repeat(np.arange(len(counts)), counts)
    digests = np.arange(len(labels)) if digests is None else np.asarray(digests)
    data = DataSection.model_validate({"source": "faces", **options})
    order = np.lexsort((np.arange(len(labels)), labels))
    parts = split.own_split(order, labels, data, [f"c{i}" for i in range(len(counts))], digests, groups, fixed)
    assert sorted([*parts["train"], *parts["val"]]) == list(range(len(labels)))
    return labels, np.bincount(labels[parts["val"]], minlength=len(counts)).tolist(), parts


@pytest.mark.parametrize(
    ("images", "wanted"), [(2, 1), (9, 4), (19, 9), (20, 10), (21, 10), (40, 10), (50, 10), (60, 12), (1000, 200)]
)
def test_ten_images_of_a_class_or_half_of_it(images, wanted):
    assert made([images, 500])[1] == [wanted, 100]


def test_before_there_was_min_val_small_classes_had_their_part_only():
    assert made([20, 500], min_val=0)[1] == [4, 100]


def test_max_val_takes_the_same_part_of_each_class_but_leaves_ten():
    assert made([1000, 500, 60], max_val=100)[1] == [57, 32, 11]
    assert sum(made([1000, 500, 60], max_val=7)[1]) == 7
    assert made([1000, 500, 60], max_val=1000)[1] == [200, 100, 12]


@given(st.lists(st.integers(0, 80), min_size=1, max_size=6), st.integers(1, 200), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_a_limit_is_kept_and_used_up(counts, most, least):
    found = split.limited(np.array(counts), most, least)
    assert found.sum() == min(most, sum(counts))
    assert (found <= counts).all()


def test_equal_pixels_are_never_on_both_sides():
    rng = np.random.default_rng(0)
    digests = rng.integers(0, 60, 120)
    _, _, parts = made([60, 60], digests)
    assert not set(digests[parts["train"]]) & set(digests[parts["val"]])


def test_a_class_that_has_only_pairs_of_copies_gets_whole_pairs():
    _, counts, parts = made([20, 100], [*np.repeat(np.arange(10), 2), *range(100, 200)])
    assert counts == [10, 20]
    assert Counter(np.repeat(np.arange(10), 2)[parts["val"][parts["val"] < 20]].tolist()) == dict.fromkeys(
        sorted({i // 2 for i in parts["val"][:10].tolist()}), 2
    )
    assert made([20, 100], [*np.repeat(np.arange(10), 2), *range(100, 200)], min_val=0)[1] == [0, 20]


def test_copies_under_two_classes_stay_in_training():
    digests = np.concatenate([np.arange(30), np.arange(30)])
    assert made([30, 30], digests)[1] == [0, 0]


@given(st.integers(0, 10_000), st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_a_group_is_never_on_both_sides(seed, number):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, number, 200)
    digests = rng.integers(0, 150, 200)
    labels, _, parts = made([120, 50, 30], digests, groups)
    for of in (groups, digests):
        assert not set(of[parts["train"]]) & set(of[parts["val"]])
    assert (np.bincount(labels[parts["train"]], minlength=3) > 0).all()


def test_groups_give_each_class_about_its_part():
    groups = np.arange(600) % 100
    _, counts, _ = made([400, 160, 40], None, groups)
    assert [abs(n - want) <= 4 for n, want in zip(counts, (80, 32, 10), strict=True)] == [True] * 3
    assert made([400, 160, 40], None, groups)[1] == counts
    assert (
        made([400, 160, 40], None, groups, split_seed=1)[2]["val"].tolist()
        != made([400, 160, 40], None, groups)[2]["val"].tolist()
    )


@pytest.mark.parametrize("grouped", [False, True])
def test_roles_that_are_fixed_stay(grouped):
    train, val = np.zeros(100, dtype=bool), np.zeros(100, dtype=bool)
    train[:30], val[30:36] = True, True
    groups = np.arange(100) // 2 if grouped else None
    _, counts, parts = made([60, 40], None, groups, Fixed(train, val))
    assert set(range(30)) <= set(parts["train"].tolist())
    assert set(range(30, 36)) <= set(parts["val"].tolist())
    assert counts == [12, 10]
