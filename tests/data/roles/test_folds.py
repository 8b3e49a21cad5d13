"""k-fold: every training image is for validation once, classes are spread evenly, and roles stay in a lineage."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.data.roles.folds import parts
from raysweep.errors import ConfigError, DataError
from tests.conftest import draw_classes
from tests.data.roles.test_split import made


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(2, 9), st.integers(0, 999))
@settings(max_examples=80, deadline=None)
def test_each_class_is_in_every_fold_equally_often_within_one_image_and_so_are_all(counts, folds, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    fold = parts(labels, np.arange(len(labels)), folds, seed)
    assert fold.min() >= 0
    for c in range(len(counts)):
        found = np.bincount(fold[labels == c], minlength=folds)
        assert found.max() - found.min() <= 1
    found = np.bincount(fold, minlength=folds)
    assert found.max() - found.min() <= 1
    assert (fold == parts(labels, np.arange(len(labels)), folds, seed)).all()


@given(st.integers(0, 10_000), st.integers(5, 60), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_what_belongs_together_is_in_one_fold_and_the_folds_are_about_equal(seed, number, folds):
    rng = np.random.default_rng(seed)
    labels, units = rng.integers(0, 3, 300), rng.integers(0, number, 300)
    fold = parts(labels, units, folds, seed)
    assert len(np.unique(np.stack([units, fold]), axis=1)[0]) == len(np.unique(units))
    largest = np.bincount(units).max()
    found = np.bincount(fold, minlength=folds)
    assert found.max() - found.min() <= 2 * largest


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_validation_images_of_all_folds_are_all_images_once(seed):
    rng = np.random.default_rng(seed)
    digests, groups = rng.integers(0, 150, 200), rng.integers(0, 60, 200)
    for of_group in (None, groups):
        seen = [
            made([120, 50, 30], digests, of_group, folds=5, fold=k)[2]["val"].tolist()  # checks the union with training
            for k in range(1, 6)
        ]
        assert sorted(i for part in seen for i in part) == list(range(200))
        for part in seen:
            outside = np.setdiff1d(np.arange(200), part)
            assert not set(digests[part]) & set(digests[outside])
            assert of_group is None or not set(groups[part]) & set(groups[outside])


@pytest.fixture
def with_a_test(tmp_path):
    folder = tmp_path / "images"
    draw_classes(folder / "train", {"cat": 25, "dog": 12})
    draw_classes(folder / "val", {"cat": 5, "dog": 5}, seed=1)
    draw_classes(folder / "test", {"cat": 6, "dog": 6}, seed=2)
    return folder


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    from raysweep.launch import runner

    monkeypatch.setattr(runner, "derive", lambda *_: None)


def planned(folder, **data):
    from raysweep.plan import experiment as experiment_plan
    from tests.conftest import small_settings

    options = {"source": "folder", "path": str(folder), **data}
    root = folder.parent / "experiments"
    return experiment_plan.plan_experiment(small_settings(root, data=options), writable=False)


def test_sealed_images_stay_sealed_in_every_fold_and_those_for_validation_take_no_part(with_a_test):
    plans = [planned(with_a_test, folds=3, fold=k) for k in (1, 2, 3)]
    alone = planned(with_a_test)
    for plan in plans:
        assert plan.roles.sealed.tolist() == alone.roles.sealed.tolist()
        assert not np.isin(plan.roles.sealed[:, 1], [*plan.roles.trained[:, 1], *plan.roles.val[:, 1]]).any()
        assert not np.isin(plan.roles.val[:, 0], alone.roles.val[:, 0]).any()  # of the data's own validation images
        assert "validation images, since data.val is split" in " ".join(plan.data.reading.lines())
    everyone = np.concatenate([p.roles.val[:, 0] for p in plans])
    assert sorted(everyone) == sorted(alone.roles.trained[:, 0])
    assert [n.text for n in plans[0].notes if "Fold 1 of 3" in n.text] == [
        "Fold 1 of 3 of the training images is for validation: 13 of 37."
    ]


def test_a_child_stays_in_the_fold_of_its_parent(with_a_test, quick_run, quick_child):
    data = {"source": "folder", "path": str(with_a_test), "folds": 3, "fold": 2}
    parent = quick_run(training={"epochs": 1}, data=data)
    for other in ({"fold": 1}, {"folds": 4}, {"folds": None, "fold": None}):
        with pytest.raises(ConfigError, match=re.escape("trained for fold 2 of 3")):
            quick_child(f"{parent.id}@1", epochs=1, overrides={"data": other})
    draw_classes(with_a_test / "train" / "cat", {"more": 7}, seed=9)  # the data grow; roles stay
    from raysweep.data.roles import record

    child = quick_child(f"{parent.id}@1", epochs=1)
    before, now = record.read(parent.folder), record.read(child.folder)
    assert len(now.val) + len(now.trained) == 44
    assert np.isin(before.val[:, 0], now.val[:, 0]).all()
    assert not np.isin(now.val[:, 0], before.trained[:, 0]).any()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"folds": 5}, "a run takes one fold, such as data.folds=5 data.fold=1"),
        ({"fold": 1}, "a run takes one fold"),
        ({"folds": 5, "fold": 6}, "a run takes one fold"),
        ({"folds": 1, "fold": 1}, "greater than or equal to 2"),
        ({"folds": 5, "fold": 1, "val": "test"}, "each training image is for validation once"),
        ({"folds": 5, "fold": 1, "max_val": 100}, "each training image is for validation once"),
    ],
)
def test_folds_that_mean_nothing_are_refused(tmp_path, data, told):
    from tests.conftest import small_settings

    with pytest.raises(ConfigError, match=re.escape(told)):
        small_settings(tmp_path, data={"source": "digits", **data})


def test_an_image_that_an_ancestor_was_trained_on_is_never_for_validation(with_a_test, quick_run):
    """Whatever way the fold is asked for: the record of the lineage refuses it."""
    from raysweep.data.roles.record import Before, read

    data = {"source": "folder", "path": str(with_a_test), "folds": 3, "fold": 2}
    parent = quick_run(training={"epochs": 1}, data=data)
    before = Before(None, read(parent.folder), parent.id)
    other = planned(with_a_test, folds=3, fold=1)
    with pytest.raises(DataError, match=r"was trained on 1[23] validation images"):
        before.inherited(other.roles)
