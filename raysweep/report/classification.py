"""``classification_report.txt``: scikit-learn's table, character by character, from the confusion matrix.

A class without images is the one exception: scikit-learn shows zeros and counts them in the macro average.

It is written here because importing scikit-learn takes three seconds in every process of a sweep. A test compares the two.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from raysweep.report.findings import measures


def classification_report(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """The text that ``sklearn.metrics.classification_report(…, digits=4, zero_division=0)`` returns. A class without images has
    ``no images`` instead of numbers, and the macro average leaves it out.

    Args:
        matrix: int64 (classes, classes): row = true class, column = predicted class.
        classes: their names, sklearn's ``target_names``.
    """
    support, guessed = matrix.sum(1), matrix.sum(0)
    hits = np.diag(matrix).astype(np.float64)

    scores = _scores(hits, support, guessed)
    total = int(support.sum())
    width = max(len("weighted avg"), *(len(c) for c in classes))
    row = functools.partial(_row, width)
    text = _head(width) + _rows(width, classes, scores, support)
    text += row("accuracy", ["", "", hits.sum() / total if total else 0.0], total)
    there = scores[support > 0]
    text += row("macro avg", (there.mean(0) if len(there) else scores.mean(0)).tolist(), total)
    weights = support / total if total else np.zeros(len(support))
    return text + row("weighted avg", (scores * weights[:, None]).sum(0).tolist(), total)


def of_labels(labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> str:
    """The same where an image has several labels, with scikit-learn's other means, and the average precision of each label below.

    Args:
        labels, predicted: bool (n, classes). probabilities: (n, classes).
    """
    hits, support, guessed = ((table).sum(0).astype(np.float64) for table in (labels & predicted, labels, predicted))
    scores, total = _scores(hits, support, guessed), int(support.sum())
    width = max(len("weighted avg"), *(len(c) for c in classes))
    there = scores[support > 0]
    of_images = _scores(*((table).sum(1).astype(np.float64) for table in (labels & predicted, labels, predicted)))
    means = {
        "micro avg": _scores(*(np.array([v.sum()]) for v in (hits, support, guessed)))[0],
        "macro avg": there.mean(0) if len(there) else scores.mean(0),
        "weighted avg": (scores * (support / max(1, total))[:, None]).sum(0),
        "samples avg": of_images.mean(0) if len(of_images) else np.zeros(3),
    }
    text = _head(width) + _rows(width, classes, scores, support)
    text += "".join(_row(width, name, values.tolist(), total) for name, values in means.items())
    each = measures.ranked(probabilities, labels.T, with_influence=False).average_precision
    ap = [*zip(classes, each.value.tolist(), strict=True), ("mAP", float(measures.mean(each).value[0]))]
    text += f"\n{'':>{width}}  average precision\n\n"
    return text + "".join(f"{c:>{width}}  {'no images' if v != v else f'{v:.4f}':>9}\n" for c, v in ap)


def _scores(hits: np.ndarray, support: np.ndarray, guessed: np.ndarray) -> np.ndarray:
    """Precision, recall and F1 in columns; 0 / 0 is 0."""
    pairs = ((hits, guessed), (hits, support), (2 * hits, support + guessed))
    return np.stack([np.divide(a, b, out=np.zeros(len(hits)), where=b > 0) for a, b in pairs], axis=1)


def _head(width: int) -> str:
    heads = "".join(f" {h:>9}" for h in ("precision", "recall", "f1-score", "support"))
    return f"{'':>{width}} {heads}\n\n"


def _row(width: int, name: str, values: Sequence[float | str], count: int) -> str:
    cells = "".join(f" {v:>9}" if isinstance(v, str) else f" {v:>9.4f}" for v in values)
    return f"{name:>{width}} {cells} {count:>9}\n"


def _rows(width: int, classes: Sequence[str], scores: np.ndarray, support: np.ndarray) -> str:
    nothing = ["", "", "no images"]
    shown = [scores[i].tolist() if support[i] else nothing for i in range(len(classes))]
    return "".join(_row(width, c, shown[i], int(support[i])) for i, c in enumerate(classes)) + "\n"
