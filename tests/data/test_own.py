"""Images of the user's own code, with groups: labels and groups are read, and no group is on both sides of a split."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from raysweep.errors import DataError

N = 60


class Listed:
    """A data set as PyTorch has them; whatever else it is given are attributes."""

    def __init__(self, items, **more):
        self.items = items
        self.__dict__.update(more)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def pixels(n=N):
    return np.random.default_rng(0).integers(0, 255, (n, 8, 8), dtype=np.uint8)


LABELS = np.arange(N) % 2
PATIENTS = np.arange(N) // 5
FORMS = {
    "a third array": (lambda: (pixels(), LABELS, PATIENTS), "groups"),
    "a third part of items": (lambda: Listed([*zip(pixels(), LABELS, PATIENTS, strict=True)]), "group"),
    "an attribute groups": (lambda: Listed(pixels(), labels=LABELS, groups=[f"p{g}" for g in PATIENTS]), "groups"),
    "an attribute of another name": (lambda: Listed(pixels(), targets=LABELS, patient=PATIENTS), "patient"),
    "a mapping": (lambda: {"train": (pixels(), LABELS, PATIENTS), "test": (pixels(9), LABELS[:9], 100 + PATIENTS[:9])}, "groups"),
}  # fmt: skip


@pytest.fixture
def opened():
    """(what the code gives, data.group) → the source."""
    from raysweep.config.settings import DataSection
    from raysweep.data import own, sources

    def go(give, group=None):
        own.provide("mine:data", own.Provided(lambda path: give(), contextlib.nullcontext, ""))
        return sources.open_source(DataSection(source="python:mine:data", group=group))

    yield go
    own._provided.pop("mine:data", None)


@pytest.mark.parametrize("form", FORMS)
def test_no_group_is_on_both_sides_of_a_split(opened, tmp_path, form):
    from raysweep.config.settings import DataSection
    from raysweep.data import cache

    give, group = FORMS[form]
    opened(give, group)
    data = cache.load(DataSection(source="python:mine:data", group=group, val_fraction=0.3), tmp_path)
    sides = [cache.groups(data, part) for part in ("train", "val")]
    images = [part.take(np.arange(len(part.labels))).reshape(len(part.labels), -1) for part in (data.train, data.val)]
    known = {image.tobytes(): patient for image, patient in zip(pixels(), PATIENTS, strict=True)}
    patients = [{known[image.tobytes()] for image in side} for side in images]
    assert patients[0] | patients[1] == set(PATIENTS)
    assert not patients[0] & patients[1]
    assert [len(set(side)) for side in sides] == [len(side) for side in patients]


def test_the_same_images_with_other_groups_are_other_data(opened):
    one = opened(lambda: (pixels(), LABELS, PATIENTS), "groups").fingerprint()
    assert opened(lambda: (pixels(), LABELS, PATIENTS), "groups").fingerprint() == one
    assert opened(lambda: (pixels(), LABELS, PATIENTS[::-1].copy()), "groups").fingerprint() != one


def test_an_image_without_a_group_is_one_of_its_own_and_it_is_said(opened):
    groups = [None, float("nan"), "", *PATIENTS[3:].tolist()]
    found = opened(lambda: (pixels(), LABELS, groups), "groups").listing()
    assert [item.group for item in found.train[:4]] == [None, None, None, "0"]
    assert "3 images without a group" in " ".join(found.notes)


def test_groups_that_nobody_asks_for_are_not_used_and_it_is_said(opened):
    found = opened(lambda: (pixels(), LABELS, PATIENTS)).listing()
    assert {item.group for item in found.train} == {None}
    assert "It has groups, which are not used: data.group=groups" in " ".join(found.notes)


@pytest.mark.parametrize(
    ("give", "group", "told"),
    [
        (lambda: (pixels(), LABELS, PATIENTS[:7]), "groups", "gives 60 images and 7 groups"),
        (lambda: (pixels(), LABELS), "groups", r"has no 'groups', which data\.group asks for\. It is an attribute"),
        (lambda: (pixels(), LABELS, PATIENTS), "patient", r"has no 'patient', which data\.group asks for"),
        (lambda: {"train": (pixels(), LABELS, PATIENTS), "val": (pixels(9), LABELS[:9], PATIENTS[:9])}, "groups", "has 2 groups with images for training and for validation: 0, 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(opened, give, group, told):
    with pytest.raises(DataError, match=told):
        opened(give, group).listing()
