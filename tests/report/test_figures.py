"""Report and pictures: complete, never cut, and harmless whatever the classes are called."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from raysweep.report import figures, predictions
from raysweep.report.history import read_history
from raysweep.report.predictions import Predictions

NAMES = ("a", "a class with a very long name that must be wrapped and not cut off", "$x^{2$", "<script>", "ελληνικά")


def made_up(classes: int) -> Predictions:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 200)
    probabilities = rng.dirichlet(np.ones(classes), 200).astype(np.float32)
    names = tuple(NAMES[i] if i < len(NAMES) else f"class {i}" for i in range(classes))
    return Predictions(3, names, labels, probabilities.argmax(1), probabilities)


def edges_are_blank(png: bytes) -> bool:
    """Whether nothing touches the picture's border, as something that is cut off would."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    return all((edge == 255).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


@pytest.mark.parametrize(
    "classes", [2, 12, pytest.param(5, marks=pytest.mark.slow), pytest.param(40, marks=pytest.mark.slow)]
)
def test_no_confusion_matrix_is_cut_off(classes):
    assert edges_are_blank(figures.confusion_png(made_up(classes), "x" * 100))


def test_a_class_without_images_does_not_divide_by_zero():
    found = made_up(5)
    without = Predictions(1, found.classes, np.zeros_like(found.labels), found.predicted, found.probabilities)
    assert edges_are_blank(figures.confusion_png(without, "only one class"))


def test_the_history_of_a_child_marks_the_fork(quick_run, quick_child):
    parent = quick_run(training={"epochs": 1})
    child = quick_child(f"{parent.id}@1", epochs=1)
    assert edges_are_blank((child.folder / "training_history.png").read_bytes())
    columns = read_history(child)
    assert columns["epoch"] == [1, 2]


def test_the_report_is_scikit_learns_for_the_best_epoch(quick_run):
    run = quick_run()
    text = (run.folder / "classification_report.txt").read_text()
    found = predictions.read(run)
    accuracy = (found.labels == found.predicted).mean()
    assert "macro avg" in text
    assert f"{accuracy:.4f}" in text
    assert f"Epoch {found.epoch} of {run.id}" in text
