"""Our report against scikit-learn's, character by character."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import classification_report as theirs
from sklearn.metrics import precision_recall_fscore_support

from raysweep.report.classification import classification_report

rows = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=300)
names = st.lists(st.text("abc é<>", min_size=1, max_size=30), min_size=4, max_size=4)


@given(rows, names)
def test_the_report_is_scikit_learns(pairs, classes):
    labels, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    matrix = np.bincount(labels * 4 + predicted, minlength=16).reshape(4, 4)
    there = matrix.sum(1) > 0
    expected = theirs(labels, predicted, labels=range(4), target_names=classes, digits=4, zero_division=0)
    # scikit-learn counts in floats where a class has no image at all: 3.0 images are 3.
    expected = re.sub(r" ( *\d+)\.0\n", r"   \1\n", expected)
    lines, found = expected.split("\n"), classification_report(matrix, classes).split("\n")
    for i in np.flatnonzero(~there):  # scikit-learn shows zeros there, and counts them in the macro average
        lines[2 + i] = re.sub(r"(    \d\.\d{4}){3}", " " * 21 + "no images", lines[2 + i])
    if not there.all():
        averages = precision_recall_fscore_support(
            labels, predicted, labels=np.unique(labels), average="macro", zero_division=0
        )
        cells = "".join(f" {v:>9.4f}" for v in averages[:3])
        lines[8] = re.sub(r"(    \d\.\d{4}){3}", cells, lines[8])
    assert found == lines
