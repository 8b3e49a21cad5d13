"""Read ``val_predictions.parquet``: the network's predictions for every validation image."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from raysweep.errors import NotFoundError, StoreError
from raysweep.store import files, layout
from raysweep.store.experiment import Experiment


@dataclass(frozen=True)
class Predictions:
    """Predictions of one epoch: ``labels`` and ``predicted`` int64 (n,), ``probabilities`` float32 (n, classes)."""

    epoch: int
    classes: tuple[str, ...]
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray

    @property
    def matrix(self) -> np.ndarray:
        """int64 (classes, classes): row = true class, column = predicted class."""
        k = len(self.classes)
        return np.bincount(self.labels * k + self.predicted, minlength=k * k).reshape(k, k)

    @property
    def sha256(self) -> str:
        """The hash that the manifest records: of the content, not of the file, which holds two epochs."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for values, kind in ((self.labels, "<i4"), (self.predicted, "<i4"), (self.probabilities, "<f4")):
            digest.update(np.ascontiguousarray(values, dtype=kind).tobytes())
        return digest.hexdigest()


def _classes(text: bytes) -> tuple[str, ...]:
    """The classes from the file's metadata: a JSON list, or, in files of the first versions, one class per line."""
    return tuple(json.loads(text)) if text.startswith(b"[") else tuple(text.decode().split("\n"))


def read(experiment: Experiment, epoch: int | None = None) -> Predictions:
    """Predictions of an epoch; of the best one by default.

    Raises:
        NotFoundError: the file is missing or does not have that epoch (only the best and the last are kept).
        StoreError: the file is damaged.
    """
    there = read_all(experiment)
    best = experiment.manifest().best
    wanted = epoch
    if wanted is None:
        wanted = best.epoch if best is not None and best.epoch in there else max(there)
    if wanted not in there:
        have = ", ".join(map(str, sorted(there)))
        raise NotFoundError(
            f"{experiment.folder / layout.PREDICTIONS} has predictions of the epochs {have}, but not of epoch {wanted}: only the "
            "best and the last epoch are kept."
        )
    return there[wanted]


def read_all(experiment: Experiment) -> dict[int, Predictions]:
    """Epoch → its predictions, of every epoch in the file; there is at least one.

    Raises:
        NotFoundError: the file is missing. StoreError: the file is damaged.
    """
    import pyarrow.parquet as pq

    path = experiment.folder / layout.PREDICTIONS
    if not path.is_file():
        raise NotFoundError(f"{path} is missing. It is written at the end of every epoch.")
    try:
        with files.open_regular(path) as file:
            table = pq.read_table(file)
        classes = _classes(table.schema.metadata[b"classes"])
        epochs: np.ndarray = table["epoch"].to_numpy()
        flat = table["probabilities"].combine_chunks().flatten().to_numpy().reshape(len(epochs), len(classes))
        labels, predicted = (table[name].to_numpy().astype(np.int64) for name in ("label", "prediction"))
        if not len(epochs):
            raise ValueError("it has no rows")
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's own errors are ValueErrors
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(f"{path} is damaged ({why}). The next epoch writes it again.") from None
    found = {}
    for epoch in np.unique(epochs).tolist():
        mask = epochs == epoch
        found[epoch] = Predictions(epoch, classes, labels[mask], predicted[mask], flat[mask])
    return found


@dataclass(frozen=True)
class Network:
    """The network of an experiment at the end of an epoch, whose predictions were compared."""

    experiment: Experiment
    epoch: int

    def predictions(self) -> Predictions:
        """Raises RaysweepError if they cannot be read any more."""
        return read(self.experiment, self.epoch)
