"""Moved thresholds: offsets that make a trained network better by a metric, without training, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raysweep._text import counted
from raysweep.errors import InputError, StoreError, did_you_mean
from raysweep.report import moved, predictions
from raysweep.report.effects import ALL, arm
from raysweep.report.findings import fitted
from raysweep.report.predictions import Predictions
from raysweep.store.experiment import Experiment
from raysweep.store.records_manifest import ManifestEntry

NAMES = {"macro_f1": "macro-F1", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}


@dataclass(frozen=True)
class Adjustment:
    """Offsets that are added to a network's logits: ``offsets`` class → number, with mean 0. They were fitted for ``metric`` on the
    validation images, of which the experiment keeps the predictions. ``before`` and ``after``: the metric on these images,
    cross-fitted, so that no image is judged with offsets that were fitted on it."""

    metric: str
    offsets: Mapping[str, float]
    experiment: str
    epoch: int
    checkpoint_sha256: str
    images: int
    data_sha256: str | None
    predictions_sha256: str
    before: float
    after: float

    def facts(self) -> dict[str, Any]:
        """What another program needs to know, as JSON."""
        return {
            "metric": self.metric,
            "offsets": dict(self.offsets),
            "formula": "logits + offsets",
            "fitted_on": {
                "experiment": self.experiment,
                "epoch": self.epoch,
                "checkpoint_sha256": self.checkpoint_sha256,
                "validation_images": self.images,
                "data_sha256": self.data_sha256,
                "predictions_sha256": self.predictions_sha256,
            },
            "cross_fitted": {"before": self.before, "after": self.after},
        }

    def __str__(self) -> str:
        each = ", ".join(f"{c} {b:+.2f}" for c, b in self.offsets.items())
        return (
            f"Adjusted for {NAMES[self.metric]}: {each} added to the logits, fitted on {counted(self.images, 'validation image')} of "
            f"{self.experiment}@{self.epoch}. Cross-fitted, its {NAMES[self.metric]} on these goes from {100 * self.before:.1f} to "
            f"{100 * self.after:.1f} %."
        )


def check_metric(metric: str) -> None:
    """
    Raises:
        InputError: offsets cannot be fitted for it.
    """
    if metric not in fitted.METRICS:
        raise InputError(
            f"--adjust {metric}: there is no such metric.{did_you_mean(metric, fitted.METRICS)} Use {', '.join(fitted.METRICS)}."
        )


def kept(experiment: Experiment, entry: ManifestEntry | None, reference: str) -> Predictions:
    """The predictions that an experiment keeps of a checkpoint for the validation images.

    Args:
        entry: the checkpoint in the manifest, if it is there.
        reference: of the checkpoint, for messages.

    Raises:
        InputError: the experiment keeps no predictions of this checkpoint. NotFoundError: not of its epoch. StoreError: they are
        damaged, or others than the manifest says.
    """
    if entry is None or entry.batch is not None:
        raise InputError(
            f"Offsets are fitted on the predictions for the validation images, which an experiment keeps of its best and its last epoch, "
            f"but not of {reference}. Name one of these epochs, such as EXPERIMENT@best."
        )
    found = predictions.read(experiment, entry.epoch)
    known = experiment.manifest().predictions.get(entry.epoch)
    if known is not None and known != found.sha256:
        raise StoreError(
            f"The predictions of epoch {entry.epoch} in {experiment.folder} are not those that the manifest records, so no offsets are "
            f"fitted. `raysweep verify {experiment.id}` says more."
        )
    return found


def fit(experiment: Experiment, entry: ManifestEntry | None, reference: str, metric: str) -> Adjustment:
    """The offsets for a checkpoint, from the predictions that its experiment keeps of the validation images.

    Args:
        entry, reference: as of :func:`kept`.

    Raises:
        InputError, NotFoundError, StoreError: what :func:`kept` raises.
    """
    found = kept(experiment, entry, reference)
    assert entry is not None, "else nothing is kept"
    if found.several and metric != fitted.OF_LABELS:
        raise InputError(
            f"--adjust {metric}: where an image has several labels, thresholds are fitted for {NAMES[fitted.OF_LABELS]}, each label by itself. Use --adjust "
            f"{fitted.OF_LABELS}."
        )
    network = arm(experiment.id, [found.probabilities])
    rows = moved.effects(experiment.id, network, found.cases, found.classes, metric)
    (gain,) = [e for e in rows if (e.target, e.metric) == (ALL, metric)]
    offsets = fitted.fit(np.asarray(network.networks[0]()), found.cases, metric)
    return Adjustment(
        metric,
        dict(zip(found.classes, offsets.astype(np.float32).tolist(), strict=True)),
        experiment.id,
        entry.epoch,
        entry.sha256,
        len(found.labels),
        experiment.config().data_sha256,
        found.sha256,
        gain.reference,
        gain.value,
    )
