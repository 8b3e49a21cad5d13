"""``classification_report.txt``: scikit-learn's table, character by character, from the confusion matrix.

A class without images is the one exception: scikit-learn shows zeros and counts them in the macro average.

It is written here because importing scikit-learn takes three seconds in every process of a sweep. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def classification_report(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """The text that ``sklearn.metrics.classification_report(…, digits=4, zero_division=0)`` returns. A class without images has
    ``no images`` instead of numbers, and the macro average leaves it out.

    Args:
        matrix: int64 (classes, classes): row = true class, column = predicted class.
        classes: their names, sklearn's ``target_names``.
    """
    support, guessed = matrix.sum(1), matrix.sum(0)
    hits = np.diag(matrix).astype(np.float64)

    def ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
        result: np.ndarray = np.divide(over, under, out=np.zeros(len(over)), where=under > 0)
        return result

    scores = np.stack([ratio(hits, guessed), ratio(hits, support), ratio(2 * hits, support + guessed)], axis=1)
    total = int(support.sum())
    width = max(len("weighted avg"), *(len(c) for c in classes))

    def row(name: str, values: Sequence[float | str], count: int) -> str:
        cells = "".join(f" {v:>9}" if isinstance(v, str) else f" {v:>9.4f}" for v in values)
        return f"{name:>{width}} {cells} {count:>9}\n"

    text = f"{'':>{width}} " + "".join(f" {h:>9}" for h in ("precision", "recall", "f1-score", "support")) + "\n\n"
    nothing = ["", "", "no images"]
    shown = [scores[i].tolist() if support[i] else nothing for i in range(len(classes))]
    text += "".join(row(c, shown[i], int(support[i])) for i, c in enumerate(classes)) + "\n"
    text += row("accuracy", ["", "", hits.sum() / total if total else 0.0], total)
    there = scores[support > 0]
    text += row("macro avg", (there.mean(0) if len(there) else scores.mean(0)).tolist(), total)
    weights = support / total if total else np.zeros(len(support))
    return text + row("weighted avg", (scores * weights[:, None]).sum(0).tolist(), total)
