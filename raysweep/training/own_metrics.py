"""Metrics of the user: ``metrics: {NAME: python:MODULE:NAME}``, computed after every epoch from the validation predictions.

Each is called with labels, int64 (n,), probabilities, float32 (n, classes), and ``classes``, their names, if it takes them. It
returns a number. The arrays cannot be written to, and the random generators are afterwards as they were, so that a metric
changes no bit of a training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raysweep.errors import TrainingError
from raysweep.training import guest, own
from raysweep.training.own import Own

PREFIX = "metrics."


def of(codes: Mapping[str, Own]) -> dict[str, Own]:
    """Name → metric, of all code of the user."""
    return {option.removeprefix(PREFIX): code for option, code in codes.items() if option.startswith(PREFIX)}


def values(
    metrics: Mapping[str, Own], labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], best: str
) -> dict[str, float | None]:
    """Name → value; None where it is no finite number.

    Args:
        best: the metric that chooses the best epoch.

    Raises:
        ConfigError: one returns no number. TrainingError: that of the best epoch is not finite.
    """
    if not metrics:
        return {}
    with guest.generators_kept():
        found = {name: _value(code, labels, probabilities, classes) for name, code in metrics.items()}
    if found.get(best, 0.0) is None:
        raise TrainingError(
            f"metrics.{best} is no finite number after this epoch, and training.best_metric chooses the best epoch by it. The "
            f"checkpoints before it are intact. Let python:{metrics[best].target} return a number there, and continue."
        )
    return found


def _value(code: Own, labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> float | None:
    given = [part.view() for part in (labels, probabilities)]
    for part in given:
        part.flags.writeable = False
    more = {"classes": tuple(classes)} if own.takes(code.found, "classes") else {}
    found: Any = code.found(*given, **more)
    try:
        number = float(found)
    except (TypeError, ValueError):
        raise code.wrong(f"returned {type(found).__name__}. Return one number.") from None
    return number if math.isfinite(number) else None


def tried(code: Own, classes: Sequence[str]) -> None:
    """Call it with two images of each class, of which half are predicted rightly.

    Raises:
        ConfigError: it fails, or returns no number.
    """
    k = len(classes)
    labels = np.arange(2 * k) % k
    probabilities = np.full((2 * k, k), 0.5 / k, dtype=np.float32)
    probabilities[np.arange(2 * k), np.where(np.arange(2 * k) < k, labels, 0)] += 0.5
    with code.tried():
        if not callable(code.found):
            raise code.wrong("is no function of labels and probabilities.")
        _value(code, labels, probabilities, classes)
