"""Read ``val_predictions.parquet``: the network's predictions for every validation image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from raysweep.data.roles import record
from raysweep.errors import NotFoundError, StoreError
from raysweep.report.findings import binary, measures
from raysweep.report.findings.arms import Cases
from raysweep.store import columns, layout, lineage
from raysweep.store.experiment import Experiment

LABELS = "labels"  # the column of several labels for an image: 0 or 1 for each class
_SAID = "used for validation: there are no validation images of their own"


@dataclass(frozen=True)
class Predictions:
    """Predictions of one epoch: ``labels`` and ``predicted`` int64 (n,), or bool (n, classes) where an image has several labels;
    ``probabilities`` float32 (n, classes)."""

    epoch: int
    classes: tuple[str, ...]
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray | None = None  # int64 (n,): which images belong together; None without data.group
    prior: np.ndarray | None = None  # float64 (classes,): shares in the data, where these images have others
    on_test: bool = False  # the images are test images

    @property
    def cases(self) -> Cases:
        """The images."""
        return Cases(self.labels, len(self.classes), self.groups, self.prior)

    @property
    def accuracy(self) -> float:
        """Weighted to the shares of the classes in the data."""
        return float(self.cases.mean(self.right).value[0])

    @property
    def several(self) -> bool:
        """Whether an image has several labels."""
        return self.labels.ndim == 2

    @property
    def mean_precision(self) -> float:
        """mAP: the mean over the labels that have images of their average precision."""
        each = measures.ranked(self.probabilities, self.cases.actual, with_influence=False).average_precision
        return float(measures.mean(each).value[0])

    @property
    def right(self) -> np.ndarray:
        """bool (n,): which images are predicted right, of several labels all of them."""
        same = np.asarray(self.labels == self.predicted)
        return np.asarray(same.all(1)) if self.several else same

    @property
    def matrix(self) -> np.ndarray:
        """int64 (classes, classes): row = true class, column = predicted class; of several labels see :func:`binary.together`."""
        if self.several:
            return binary.together(self.labels, self.predicted)
        k = len(self.classes)
        return np.bincount(self.labels * k + self.predicted, minlength=k * k).reshape(k, k)

    @classmethod
    def of(cls, epoch: int, classes: Sequence[str], labels: np.ndarray, probabilities: np.ndarray) -> Predictions:
        """Those of a network at its own decisions."""
        predicted = binary.predicted(probabilities) if labels.ndim == 2 else probabilities.argmax(1)
        return cls(epoch, tuple(classes), labels, predicted, probabilities)

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
    path = experiment.folder / layout.PREDICTIONS
    if not path.is_file():
        raise NotFoundError(f"{path} is missing. It is written at the end of every epoch.")
    try:
        table = columns.read(path)
        classes = _classes(table.schema.metadata[b"classes"])
        epochs = columns.numbers(table, "epoch")
        flat = columns.numbers(table, "probabilities").reshape(len(epochs), len(classes))
        if LABELS in table.schema.names:
            labels = columns.numbers(table, LABELS).reshape(flat.shape).astype(bool)
            predicted = binary.predicted(flat)
        else:
            labels, predicted = (columns.numbers(table, name).astype(np.int64) for name in ("label", "prediction"))
        if not len(epochs):
            raise ValueError("it has no rows")
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's own errors are ValueErrors
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(f"{path} is damaged ({why}). The next epoch writes it again.") from None
    found = {}
    for epoch in np.unique(epochs).tolist():
        mask = epochs == epoch
        found[epoch] = Predictions(epoch, classes, labels[mask], predicted[mask], flat[mask])
    return _with_roles(experiment, found)


def _reading(experiment: Experiment) -> Sequence[object]:
    """What the log says of how the images were read, sentences."""
    start = next((e for e in lineage.read(experiment.folder) if e.type == lineage.START), None)
    told = None if start is None else start.fields.get("reading")
    return told if isinstance(told, list) else ()


def _with_roles(experiment: Experiment, found: dict[int, Predictions]) -> dict[int, Predictions]:
    """The same with what the experiment recorded of its validation images."""
    roles = record.read(experiment.folder)
    if roles is None:  # an earlier version said only in words which images these are
        told = _SAID in " ".join(map(str, _reading(experiment)))
        return {epoch: replace(of_epoch, on_test=told) for epoch, of_epoch in found.items()}
    known = {}
    for epoch, of_epoch in found.items():
        groups = roles.groups if roles.groups is not None and len(roles.groups) == len(of_epoch.labels) else None
        prior = None if roles.prior is None else np.array([roles.prior.get(c, 0.0) for c in of_epoch.classes])
        known[epoch] = replace(of_epoch, groups=groups, prior=prior, on_test=roles.on_test)
    return known


@dataclass(frozen=True)
class Network:
    """The network of an experiment at the end of an epoch, whose predictions were compared."""

    experiment: Experiment
    epoch: int

    def predictions(self) -> Predictions:
        """Raises RaysweepError if they cannot be read any more."""
        return read(self.experiment, self.epoch)
