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
    there = np.unique(labels)  # of a class without images nothing is known, whatever was predicted
    for name, theirs in (("precision", precision), ("recall", recall), ("f1", f1)):
        expected = [pytest.approx(theirs[c]) if c in there else None for c in range(4)]
        assert list(found[name].values()) == expected
    assert found["val_acc"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found["val_macro_f1"] == pytest.approx(f1[there].mean())


def test_a_class_without_images_has_no_numbers_and_counts_nowhere():
    # torchvision 8297 and 4925: macro-F1 1.000 in the terminal, 0.667 in the report, recall 0.0 in the history
    perfect = metrics.summarise(np.array([[5, 0, 0], [0, 0, 0], [0, 0, 5]]), ("cat", "dog", "eel"))
    guessed = metrics.summarise(np.array([[4, 1, 0], [0, 0, 0], [0, 0, 5]]), ("cat", "dog", "eel"))
    assert perfect["val_macro_f1"] == 1.0
    assert guessed["val_macro_f1"] == pytest.approx(
        (8 / 9 + 1) / 2
    )  # not a third of it less for a dog that is not there
    for found in (perfect, guessed):
        assert found["recall"]["dog"] is found["precision"]["dog"] is found["f1"]["dog"] is None
    assert metrics.worst_class(guessed["recall"]) == ("cat", 0.8)
