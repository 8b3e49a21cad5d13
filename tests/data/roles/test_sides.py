"""Validation images beyond ``data.max_val``, and the shares that accuracy is weighted back to."""

from __future__ import annotations

import pytest

from raysweep.data import cache
from tests.data.drawing import as_folder, pictures, section

NAMES = {"train": "train", "val": "val"}


def loaded(tmp_path, train, val=None, **options):
    path = as_folder(tmp_path / "d", pictures(train, val), NAMES if val else {})
    return cache.load(section(path, **{"val": "auto", "min_val": 10, **options}), tmp_path / "cache")


def test_max_val_takes_a_seeded_part_of_each_class_of_the_datas_own_validation_images(tmp_path):
    data = loaded(tmp_path, {"a": 20, "b": 20}, {"a": 60, "b": 20}, max_val=40)
    assert data.val.counts(data.classes) == {"a": 27, "b": 13}
    assert data.reading.prior == {"a": 0.75, "b": 0.25}
    assert "accuracy and loss are weighted back" in " ".join(data.reading.lines())
    whole = loaded(tmp_path, {"a": 20, "b": 20}, {"a": 60, "b": 20}, max_val=80)
    assert (whole.val.counts(whole.classes), whole.reading.prior) == ({"a": 60, "b": 20}, None)
    other = loaded(tmp_path, {"a": 20, "b": 20}, {"a": 60, "b": 20}, max_val=40, split_seed=1)
    assert other.val.counts(other.classes) == {"a": 27, "b": 13}
    assert other.sha256 != data.sha256


def test_of_a_split_made_here_the_rest_stays_in_training(tmp_path):
    data = loaded(tmp_path, {"a": 200, "b": 100}, max_val=30)
    assert data.val.counts(data.classes) == {"a": 18, "b": 12}  # ten of each, then in proportion
    assert len(data.train.labels) == 270
    assert data.reading.prior == pytest.approx({"a": 2 / 3, "b": 1 / 3})


def test_shares_that_hardly_differ_are_not_weighted(tmp_path):
    assert loaded(tmp_path, {"a": 101, "b": 99, "c": 52}).reading.prior is None


def test_before_there_was_min_val_nothing_was_weighted(tmp_path):
    some = pictures({"a": 100, "b": 10}) + pictures({"b": 1}, seed=3) * 8
    data = cache.load(section(as_folder(tmp_path / "d", some, {})), tmp_path / "cache")
    assert data.val.counts(data.classes)["b"] == 4
    assert data.reading.prior is None
