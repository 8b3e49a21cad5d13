"""The results of an epoch: predictions for every validation image, and a row of the history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from raysweep.data import sampling
from raysweep.data.cache import Images
from raysweep.data.encoded import Asked
from raysweep.errors import NonFiniteLossError
from raysweep.label_sets import IMAGES
from raysweep.report.findings import binary, measures
from raysweep.training import metrics, multi_label, optim, own_metrics
from raysweep.training.features import FeatureFeed
from raysweep.training.feed import Feed
from raysweep.training.setup import Setup
from raysweep.training.world import World

BATCH = 256
# Columns of the history that the manifest repeats for each epoch, so that `list` reads neither history nor checkpoint.
SUMMARY = (
    "train_loss",
    "train_acc",
    "val_loss",
    "val_acc",
    "val_macro_f1",
    "balanced_accuracy",
    "worst_class",
    "worst_recall",
    "order_sha256",
)


class Validation(NamedTuple):
    """Predictions for all validation images, in their order."""

    labels: np.ndarray  # int64 (n,), or bool (n, classes) of several labels
    probabilities: np.ndarray  # float32 (n, classes)
    loss: float  # mean cross-entropy, without label smoothing, weighted to the shares of the classes in the data


def validate(
    model: nn.Module,
    feed: Feed | FeatureFeed,
    images: Images,
    classes: int,
    world: World,
    autocast: AbstractContextManager[Any],
    members: np.ndarray | None = None,
    prior: np.ndarray | None = None,
) -> Validation:
    """Predict images, each on exactly one rank. Every rank must call this, and gets all predictions.

    Args:
        members: int64, the positions of those to predict; default: all.
        prior: float64 (classes,), the shares of the classes that the loss is weighted to; default: those of the images.

    Raises:
        NonFiniteLossError: outputs of the network are NaN or infinite. Every rank raises it.
    """
    index = np.arange(len(images.labels)) if members is None else members
    n = len(index)
    start, stop = n * world.rank // world.size, n * (world.rank + 1) // world.size
    several = images.labels.ndim == 2
    model.eval()
    found = []
    batches = [index[a : min(a + BATCH, stop)] for a in range(start, stop, BATCH)]
    feed.ahead(images, map(Asked, batches))
    with torch.no_grad(), autocast:
        for batch in batches:
            x, _ = feed.batch(images, batch, None)
            logits = model(x).float()
            # 0 times an infinite logit is NaN, and the loss says so; a sigmoid would hide it
            logs = functional.logsigmoid(logits) + 0 * logits if several else functional.log_softmax(logits, dim=1)
            found.append(logs.cpu())
    mine = torch.cat(found).numpy() if found else np.empty((0, classes), dtype=np.float32)
    logs = np.concatenate(world.gather(mine))
    labels = np.asarray(images.labels)[index]
    if several:
        losses = binary.losses(logs, labels)
    else:
        losses = -logs[np.arange(n), labels].astype(np.float64)
    loss = float(losses.mean() if prior is None else measures.mean_of(losses, labels, prior).value[0])
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            "The network's outputs on the validation images are NaN or infinite. The checkpoints before this epoch are "
            "intact. Try a smaller training.learning_rate or training.grad_clip=1.0."
        )
    return Validation(labels, np.exp(logs), loss)


@dataclass(frozen=True)
class RankEpoch:
    """What one rank trained in an epoch: sums over its images, and their positions in the order of the epoch."""

    loss: float
    correct: float
    images: int
    positions: np.ndarray


def history_row(
    setup: Setup,
    epoch: int,
    order: np.ndarray,
    ranks: Sequence[RankEpoch],
    validation: Validation,
    train_seconds: float,
    val_seconds: float,
) -> dict[str, Any]:
    """A row of the history: column → value.

    The columns ``realised_<c>`` and ``distinct_<c>`` are counted from what the ranks trained, not from what was requested.

    Args:
        order: the training images of the epoch, int64 (draws,).
        ranks: of all ranks.
    """
    classes, k = setup.classes, len(setup.classes)
    images = sum(r.images for r in ranks)
    sequence = order[np.sort(np.concatenate([r.positions for r in ranks]))]
    several = validation.labels.ndim == 2
    if several:
        result = multi_label.summarise(validation.labels, validation.probabilities, classes)
    else:
        matrix = metrics.confusion(validation.labels, validation.probabilities.argmax(1), k)
        result = metrics.summarise(matrix, classes, setup.prior)
    worst, worst_recall = metrics.worst_class(result["recall"])
    row: dict[str, Any] = {
        "train_loss": sum(r.loss for r in ranks) / images,
        "train_acc": sum(r.correct for r in ranks) / images,
        "val_loss": validation.loss,
        "val_acc": result["val_acc"],
        "epoch": epoch,
        "lr": optim.learning_rate(setup.settings.training, epoch - 1 / setup.total_batches),
        "seconds": round(train_seconds + val_seconds, 3),
        "images_per_second": round(images / max(1e-9, train_seconds), 1),
        "val_macro_f1": result["val_macro_f1"],
        "balanced_accuracy": result["balanced_accuracy"],
        "worst_class": worst,
        "worst_recall": worst_recall,
        "order_sha256": sampling.order_hash(sequence),
    }
    labels = setup.data.train.labels
    realised = sampling.totals(labels[sequence], k)
    distinct = sampling.totals(labels[np.unique(sequence)], k)
    requested = _requested(setup, epoch, len(order))
    for i, c in enumerate(classes):
        row |= {
            f"recall_{c}": result["recall"][c],
            f"f1_{c}": result["f1"][c],
            f"precision_{c}": result["precision"][c],
            f"requested_{c}": requested[c],
            f"realised_{c}": int(realised[i]),
            f"distinct_{c}": int(distinct[i]),
        }
    if several:
        row |= {IMAGES: images, **multi_label.ranked(validation.labels, validation.probabilities, classes)}
    best = setup.settings.training.best_metric
    return row | own_metrics.values(setup.own_metrics, validation.labels, validation.probabilities, classes, best)


def _requested(setup: Setup, epoch: int, draws: int) -> Mapping[str, float]:
    """Class → images that the weights ask for; an expected number where the draws are independent."""
    weights, counts = setup.weights(epoch), setup.class_counts()
    if setup.settings.sampling.strategy == "quota":
        return sampling.requested(weights, counts, draws, setup.settings.training.augment.repeats)
    return {c: round(draws * share, 2) for c, share in weights.shares(counts).items()}
