"""The recall, F1 and precision of each class after one epoch, as the history of an experiment has them."""

from __future__ import annotations

import contextlib
import csv
import io

from raysweep._paths import read_regular
from raysweep.store import files, layout
from raysweep.store.experiment import Experiment

KINDS = ("recall", "f1", "precision")


def of_epoch(experiment: Experiment, epoch: int) -> dict[str, float]:
    """``recall_CLASS``, ``f1_CLASS`` and ``precision_CLASS`` → the value, in the order of the classes. Empty where the history is
    missing, damaged or of the old system, and without classes that have no validation images."""
    starts = tuple(f"{kind}_" for kind in KINDS)
    with contextlib.suppress(OSError, ValueError, IndexError, csv.Error):
        rows = csv.reader(
            io.StringIO(read_regular(experiment.folder / layout.HISTORY_CSV, files.LIMIT).decode(), newline="")
        )
        head = next(rows, [])
        place = head.index("epoch")
        for row in rows:
            if row[place] == str(epoch):
                return {name: float(row[i]) for i, name in enumerate(head) if name.startswith(starts) and row[i]}
    return {}
