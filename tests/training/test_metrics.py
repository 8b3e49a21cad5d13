"""Our counts against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, precision_recall_fscore_support

from raysweep.training import metrics

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@pytest.mark.filterwarnings("ignore")  # scikit-learn warns of classes that are never predicted
@given(pairs)
def test_metrics_agree_with_scikit_learn(rows):
    labels, predicted = (np.array(column) for column in zip(*rows, strict=True))
    matrix = metrics.confusion(labels, predicted, 4)
    assert np.array_equal(matrix, confusion_matrix(labels, predicted, labels=range(4)))
    found = metrics.summarise(matrix, "abcd")
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, labels=range(4), zero_division=0)
    assert list(found["precision"].values()) == pytest.approx(list(precision))
    assert list(found["recall"].values()) == pytest.approx(list(recall))
    assert list(found["f1"].values()) == pytest.approx(list(f1))
    assert found["val_acc"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    seen = np.union1d(labels, predicted)
    assert found["val_macro_f1"] == pytest.approx(f1[seen].mean())
