"""Names of classes: two Unicode forms, outer spaces, upper and lower case (paperbanana 240; muxspace/facial_expressions)."""

from __future__ import annotations

import unicodedata

import pytest

from tests.situations.reading import plant, read, refusal

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_forms_that_look_the_same_are_one_class_and_said(tmp_path):
    found = read(plant(tmp_path, {f"{NFC}/": 3, f"{NFD}/": 2, "tea ": 1, "tea /": 1, "tea/": 1}))
    assert found.train == {NFC: 5, "tea": 2}
    assert f"Read as one class {NFC}: 'cafe\\u0301', 'caf\\xe9'." in found.notes
    assert "Read as one class tea: 'tea', 'tea '." in found.notes


def test_a_split_in_another_form_has_the_same_classes(tmp_path):
    found = read(plant(tmp_path, {f"train/{NFC}/": 3, "train/tea/": 2, f"val/{NFD}/": 1, "val/tea/": 1}))
    assert (found.train, found.val) == ({NFC: 3, "tea": 2}, {NFC: 1, "tea": 1})


def test_names_that_differ_in_case_are_refused_with_the_line_that_merges_them(tmp_path):
    tree = plant(tmp_path, {"HAPPINESS/": 2, "happiness/": 4, "sadness/": 3})
    text = refusal(tree)
    assert "happiness (4 images), HAPPINESS (2 images)" in text
    line = '{"HAPPINESS": "happiness"}'
    assert f"'data.rename={line}'" in text
    assert read(tree, rename={"HAPPINESS": "happiness"}).train == {"happiness": 6, "sadness": 3}


def test_the_line_in_the_message_can_be_typed(tmp_path):
    from raysweep.config import load

    tree = plant(tmp_path, {"Big cat/": 2, "big cat/": 4, "sadness/": 3})
    typed = refusal(tree).split("add '")[1].split("'")[0]
    data = load.parse_overrides([typed])["data"]
    assert read(tree, **data).train == {"big cat": 6, "sadness": 3}


def test_classes_are_renamed_dropped_and_chosen_and_the_rest_is_counted(tmp_path):
    tree = plant(tmp_path, {"0/": 2, "1/": 3, "2/": 4, "contempt/": 1})
    found = read(tree, rename={0: "angry", "1": "sad"}, drop=["contempt"])
    assert found.train == {"2": 4, "angry": 2, "sad": 3}
    assert found.left_out == {"images of classes that are not used (1 contempt)": 1}
    found = read(tree, classes=["2", "0"])
    assert found.train == {"0": 2, "2": 4}
    assert found.left_out == {"images of classes that are not used (3 1, 1 contempt)": 4}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"drop": ["contemt"]}, "data.drop names contemt; .* has contempt, joy.* Did you mean 'contempt'"),
        ({"rename": {"Joy": "joy"}}, "data.rename names Joy"),
        ({"classes": ["joy", "j\u043ey"]}, r"data.classes names jоy \('j\\u043ey'\)"),
    ],
)
def test_a_class_that_is_not_there_is_an_error_that_shows_what_it_is_written_with(tmp_path, options, told):
    from raysweep.errors import DataError

    with pytest.raises(DataError, match=told):
        read(plant(tmp_path, {"joy/": 2, "contempt/": 1}), **options)


def test_what_is_asked_of_the_classes_is_part_of_the_cache_s_key(tmp_path):
    from raysweep.data.sources import open_source
    from tests.data.drawing import section

    tree = plant(tmp_path, {"a/": 2, "b/": 3, "c/": 4})
    asked = [{}, {"classes": ["c", "b", "a"]}, {"classes": ["a", "b"]}, {"drop": ["c"]}, {"rename": {"a": "z"}}]
    prints = [open_source(section(tree, **options)).fingerprint() for options in asked]
    assert prints[0] == prints[1]  # an order alone needs no other images
    assert len(set(prints)) == 4


def test_weights_name_a_class_in_any_form_and_a_wrong_one_is_shown_with_escapes():
    from raysweep.errors import WeightsError
    from raysweep.weights import SamplingWeights

    assert SamplingWeights.complete({NFD: 2.0, " tea": 3.0}, [NFC, "tea"]).as_dict() == {NFC: 2.0, "tea": 3.0}
    with pytest.raises(WeightsError, match=r"Did you mean 'tea' \('tea', not 't\\u0435a'\)"):  # a Cyrillic letter
        SamplingWeights.complete({"t\u0435a": 2.0}, ["tea", "coffee"])


def test_a_checkpoint_of_an_earlier_version_keeps_its_spelling(tmp_path):
    from raysweep.data import cache
    from raysweep.data.order import as_written, in_order
    from tests.data.drawing import section

    data = cache.load(section(plant(tmp_path / "d", {f"{NFD}/": 12, "tea /": 12})), tmp_path / "cache")
    assert data.classes == (NFC, "tea")
    before = ("tea ", NFD)
    found = in_order(as_written(data, before), before)
    assert found.classes == before
    assert found.train.counts(before) == {"tea ": 10, NFD: 10}
    assert as_written(data, ("tea", "coffee")) is data
    assert as_written(data, None) is data
