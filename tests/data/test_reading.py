"""The record of what was read: its sentences, and that it survives JSON."""

from __future__ import annotations

import json

import pytest

from raysweep.data.reading import Cropped, LeftOut, Reading


def test_every_kind_of_fact_is_a_sentence():
    reading = Reading(
        left_out={"hidden files": LeftOut.of(f".{i}" for i in range(5)), "linked folders": LeftOut(1, ("a/b",))},
        cropped=Cropped(2, 41.6, 75.0, "train/cat/0.png"),
        transparent=1,
        modes={"CMYK": 2, "I;16": 1_000},
        validation={"cat": 300, "dog": 0, "eel": 2, "fox": 9, "gnu": 10},
        notes=("Read in Dataset/, the only folder there.",),
    )
    assert reading.lines() == [
        "Read in Dataset/, the only folder there.",
        "Left out: 5 hidden files (.0, .1, .2 …).",
        "Left out: 1 linked folder (a/b).",
        "Cropped to the middle: 2 images, which lose 42 % of their area on average, at most 75 % (train/cat/0.png).",
        "Put on white: 1 image with transparency.",
        "Converted: 1,002 images in other modes than gray and RGB (2 CMYK, 1,000 I;16).",
        "No validation images: dog. So nothing will be known of it: no part in the means over all classes, such as macro-F1 or mAP, and no "
        "verdict.",
        "Few validation images: eel (2), fox (9). One image is up to 50 points of its recall, so small differences of these "
        "mean nothing.",
    ]
    assert Reading.from_json(json.loads(json.dumps(reading.to_json()))) == reading


def test_where_everything_was_read_as_it_is_there_is_nothing_to_say():
    assert Reading(validation={"cat": 10}).lines() == []
    one = Reading(cropped=Cropped(1, 25.0, 25.0, "x"))
    assert one.lines() == ["Cropped to the middle: 1 image, which loses 25 % of its area."]


@pytest.mark.parametrize(
    ("kind", "one"),
    [
        ("images that cannot be decoded", "image that cannot be decoded"),
        ("hidden and system files", "hidden or system file"),
        ("pipes, sockets and devices", "pipe, socket or device"),
        ("links that lead nowhere", "link that leads nowhere"),
        ("rows that name no image", "row that names no image"),
        ("rows whose votes are tied", "row whose votes are tied"),
        ("files that are no images", "file that is no image"),
        ("images in folders that are no split", "image in folders that are no split"),
        ("images of classes that are not used (b)", "image of classes that are not used (b)"),
        ("test images of classes without training images", "test image of classes without training images"),
        ("hidden folders that cannot be opened", "hidden folder that cannot be opened"),
        ("class folders", "class folder"),
    ],
)
def test_one_of_a_kind_is_said_in_the_singular(kind, one):
    from raysweep.data import reading

    assert reading.one(kind) == one
    told = reading.Reading({kind: reading.LeftOut(1, ("x",))}).lines()
    assert told == [f"Left out: 1 {one} (x)."]
    assert reading.Reading({kind: reading.LeftOut(2, ("x", "y"))}).lines() == [f"Left out: 2 {kind} (x, y)."]
