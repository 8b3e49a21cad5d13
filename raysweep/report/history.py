"""``training_history.csv`` of an experiment, and its rows since the fork."""

from __future__ import annotations

import csv
import io

from raysweep.errors import StoreError
from raysweep.label_sets import IMAGES
from raysweep.store import files, layout
from raysweep.store.commands import command
from raysweep.store.experiment import Experiment

History = dict[str, list[float | None]]  # column → one value per row; None where the cell is empty


def read_history(experiment: Experiment) -> History:
    """The columns of ``training_history.csv``. Epochs that the file does not number, as in folders of the old system, are
    counted from 1.

    Raises:
        StoreError: the file is missing or damaged.
    """
    path = experiment.folder / layout.HISTORY_CSV
    try:
        rows = list(csv.reader(io.StringIO(files.read_all(path).decode(), newline="")))
        header, body = (rows[0], rows[1:]) if rows else ([], [])
        history: History = {name: [float(r[i]) if r[i] else None for r in body] for i, name in enumerate(header)}
    except (ValueError, IndexError, csv.Error) as error:
        raise StoreError(
            f"{path} is damaged ({error}). `{command(experiment.root, 'continue', experiment.id)}` writes it again from the "
            "checkpoints."
        ) from None
    history.setdefault("epoch", [float(i) for i in range(1, len(body) + 1)])
    return history


def epochs_of(history: History) -> list[int]:
    """The epoch of every row."""
    return [int(e) if e is not None else i for i, e in enumerate(history["epoch"], start=1)]


def own_rows(experiment: Experiment, history: History) -> list[int]:
    """The indices of the experiment's own rows, which come after those of its parent."""
    fork = experiment.config().fork
    return [i for i, epoch in enumerate(history["epoch"]) if epoch is not None and epoch > fork]


def class_sums(experiment: Experiment, history: History, prefix: str) -> dict[str, float]:
    """Class → the sum of the column ``prefix + class`` over the experiment's own rows."""
    own = own_rows(experiment, history)
    columns = {name.removeprefix(prefix): values for name, values in history.items() if name.startswith(prefix)}
    return {c: sum(values[i] or 0 for i in own) for c, values in columns.items()}


def cost(experiment: Experiment) -> tuple[float, int]:
    """(seconds of training, images shown) since the fork; zeros if the history is missing or damaged."""
    try:
        history = read_history(experiment)
    except StoreError:
        return 0.0, 0
    took = history.get("seconds", [])
    seconds = sum(took[i] or 0.0 for i in own_rows(experiment, history)) if took else 0.0
    return float(seconds), int(images(experiment, history, "realised_"))


def images(experiment: Experiment, history: History, prefix: str) -> float:
    """All images of the columns that begin with ``prefix``, since the fork; of several labels for an image each image counts once."""
    if experiment.config().setting("data", "multi_label"):
        return sum(history[IMAGES][i] or 0 for i in own_rows(experiment, history)) if IMAGES in history else 0
    return sum(class_sums(experiment, history, prefix).values())
