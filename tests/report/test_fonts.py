"""Names in pictures, whatever the script: drawn with a font that has it, else numbered; two classes never look the same."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from raysweep.report import effects_picture, figures, fonts
from raysweep.report.comparison import Compared, Comparison
from raysweep.report.effects import NOT_SHOWN
from raysweep.report.predictions import Predictions
from tests.report.making import effect

THAI, CHINESE, ARABIC = "แมว", "猫", "قطة"


@pytest.fixture
def no_other_fonts(monkeypatch):
    monkeypatch.setattr(fonts, "_covering", lambda missing: ())


@pytest.fixture
def every_font(monkeypatch):
    monkeypatch.setattr(fonts, "_covering", lambda missing: (("Some Font", frozenset(missing)),))


def test_without_a_font_a_name_becomes_a_number_with_a_legend(no_other_fonts):
    found = fonts.labels(["cat", THAI, CHINESE, "猫猫"])
    assert found.texts == ["cat", "#2", "#3", "#4"]
    assert "classification_report.txt" in found.legend
    assert fonts.one_line(f"{CHINESE} 1→5") == r"\u732b 1→5"


def test_with_a_font_a_name_stays(every_font):
    assert fonts.labels(["cat", THAI, CHINESE]) == fonts.Labels(["cat", THAI, CHINESE], "")
    assert fonts._families(frozenset(CHINESE)) == ["Some Font"]


def test_arabic_is_numbered_where_matplotlib_would_write_it_backwards(every_font, monkeypatch):
    monkeypatch.setattr(fonts, "_orders_letters", lambda: False)
    assert fonts.labels(["cat", ARABIC]).texts == ["cat", "#2"]
    monkeypatch.setattr(fonts, "_orders_letters", lambda: True)
    assert fonts.labels(["cat", ARABIC]).texts == ["cat", ARABIC]


@pytest.mark.parametrize("pair", [("cat", "cat\u200f"), ("a  b", "a b"), ("caf\u00e9", "cafe\u0301"), ("", " ")])
def test_two_names_that_look_the_same_are_told_apart(pair):
    one, other = fonts.labels(list(pair)).texts
    assert one != other


def matrix_of(classes: list[str]) -> Predictions:
    rng = np.random.default_rng(0)
    labels = np.arange(3 * len(classes)) % len(classes)
    predicted = np.where(rng.random(len(labels)) < 0.6, labels, rng.integers(0, len(classes), len(labels)))
    return Predictions(1, tuple(classes), labels, predicted, np.zeros((len(labels), 0), dtype=np.float32))


def test_a_picture_with_such_names_has_no_boxes(no_other_fonts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that is missing
        figures.confusion_png(matrix_of([THAI, CHINESE, "猫猫", "cat"]), f"{CHINESE} against {THAI}")


def size(png: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(png)).size


def test_a_thousand_classes_make_a_picture_that_can_be_looked_at(monkeypatch):
    found = matrix_of([f"character{i}" for i in range(964)])
    matrix, names, more = figures._most_confused(found.matrix, found.classes)
    assert matrix.shape == (figures.MOST_CLASSES - 1, figures.MOST_CLASSES)
    assert more == 964 - len(names.texts)
    assert (matrix.sum(1) == 3).all()  # the last column has the images that other classes were called
    assert max(size(figures.confusion_png(found, "x"))) < 3500


def test_the_picture_of_effects_shows_the_largest_and_says_how_many_more():
    classes = tuple(f"character{i}" for i in range(964))
    rng = np.random.default_rng(0)
    targets = [*((c, "f1") for c in classes), ("(all)", "macro_f1"), ("(all)", "accuracy")]
    effects = [
        effect(f"b{i}", c, m, d, NOT_SHOWN, width=0.1)
        for i in range(2)
        for (c, m), d in zip(targets, rng.normal(0, 0.1, len(targets)), strict=True)
    ]
    branches = [Compared(f"b{i}", [], [], {}, 1.0, 1, 1) for i in range(2)]
    found = Comparison("s", "the control", classes, dict.fromkeys(classes, 4), branches, effects, [])
    assert max(size(effects_picture.heat_map(found))) < 4500  # it was 107,220 pixels wide
    assert effects_picture._omitted(found, 24, 2) == (
        "\nnot shown: 940 more classes with smaller changes; effects.csv has all"
    )
