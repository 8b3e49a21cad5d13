"""Our report against scikit-learn's, character by character."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import classification_report as theirs

from raysweep.report.classification import classification_report

rows = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=300)
names = st.lists(st.text("abc é<>", min_size=1, max_size=30), min_size=4, max_size=4)


@given(rows, names)
def test_the_report_is_scikit_learns(pairs, classes):
    labels, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    matrix = np.bincount(labels * 4 + predicted, minlength=16).reshape(4, 4)
    expected = theirs(labels, predicted, labels=range(4), target_names=classes, digits=4, zero_division=0)
    # scikit-learn counts in floats where a class has no image at all: 3.0 images are 3.
    expected = re.sub(r" ( *\d+)\.0\n", r"   \1\n", expected)
    assert classification_report(matrix, classes) == expected
