"""An epoch's results: predictions for every validation image, and the row of the history made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from raysweep.config.settings import Settings
from raysweep.data import sampling
from raysweep.data.cache import Images
from raysweep.errors import NonFiniteLossError
from raysweep.training import metrics, optim
from raysweep.training.feed import Feed
from raysweep.training.world import World
from raysweep.weights import SamplingWeights

BATCH = 256
# What of a row the manifest repeats for each committed epoch, so that listing needs no CSV and no checkpoint.
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


def validate(
    model: nn.Module, feed: Feed, images: Images, classes: int, world: World, autocast: AbstractContextManager[Any]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Predictions for all images, each computed by exactly one rank. Collective: every rank must call.

    Returns:
        labels int64 (n,), probabilities float32 (n, classes), mean cross-entropy (no label smoothing).

    Raises:
        NonFiniteLossError: the network's outputs are NaN or infinite (on every rank).
    """
    n = len(images.labels)
    start, stop = n * world.rank // world.size, n * (world.rank + 1) // world.size
    model.eval()
    found = []
    with torch.no_grad(), autocast:
        for a in range(start, stop, BATCH):
            x, _ = feed.batch(images, np.arange(a, min(a + BATCH, stop)), None)
            found.append(functional.log_softmax(model(x).float(), dim=1).cpu())
    mine = torch.cat(found).numpy() if found else np.empty((0, classes), dtype=np.float32)
    logs = np.concatenate(world.gather(mine))
    labels = np.asarray(images.labels)
    loss = float(-logs[np.arange(n), labels].astype(np.float64).mean())
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            "The network's outputs on the validation images are NaN or infinite. The checkpoints before this epoch are "
            "intact. Try a smaller training.learning_rate or training.grad_clip=1.0."
        )
    return labels, np.exp(logs), loss


@dataclass(frozen=True)
class Shown:
    """What one rank trained in an epoch: sums over its images, and the positions of the epoch's order it computed."""

    loss: float
    correct: float
    images: int
    positions: np.ndarray


def history_row(
    settings: Settings,
    classes: Sequence[str],
    weights: SamplingWeights,
    counts: Mapping[str, int],
    *,
    epoch: int,
    total_batches: int,
    order: np.ndarray,
    train_labels: np.ndarray,
    ranks: Sequence[Shown],
    validation: tuple[np.ndarray, np.ndarray, float],
    train_seconds: float,
    val_seconds: float,
) -> dict[str, Any]:
    """One row of the history, everything measured rather than assumed: ``realised_<c>`` counts what the ranks say
    they have shown, not what the order asked for."""
    k = len(classes)
    labels, probabilities, val_loss = validation
    images = sum(r.images for r in ranks)
    sequence = order[np.sort(np.concatenate([r.positions for r in ranks]))]
    realised = np.bincount(train_labels[sequence], minlength=k)
    distinct = np.bincount(train_labels[np.unique(sequence)], minlength=k)
    requested: Mapping[str, float]
    if settings.sampling.strategy == "quota":
        requested = weights.quotas(counts, len(order))
    else:
        requested = {c: round(len(order) * share, 2) for c, share in weights.shares(counts).items()}
    result = metrics.summarise(metrics.confusion(labels, probabilities.argmax(1), k), classes)
    present = [c for i, c in enumerate(classes) if (labels == i).any()]
    worst = min(present, key=lambda c: result["recall"][c])
    row: dict[str, Any] = {
        "train_loss": sum(r.loss for r in ranks) / images,
        "train_acc": sum(r.correct for r in ranks) / images,
        "val_loss": val_loss,
        "val_acc": result["val_acc"],
        "epoch": epoch,
        "lr": optim.learning_rate(settings.training, epoch - 1 / total_batches),
        "seconds": round(train_seconds + val_seconds, 3),
        "images_per_second": round(images / max(1e-9, train_seconds), 1),
        "val_macro_f1": result["val_macro_f1"],
        "balanced_accuracy": result["balanced_accuracy"],
        "worst_class": worst,
        "worst_recall": result["recall"][worst],
        "order_sha256": sampling.order_hash(sequence),
    }
    for i, c in enumerate(classes):
        row |= {
            f"recall_{c}": result["recall"][c],
            f"f1_{c}": result["f1"][c],
            f"precision_{c}": result["precision"][c],
            f"requested_{c}": requested[c],
            f"realised_{c}": int(realised[i]),
            f"distinct_{c}": int(distinct[i]),
        }
    return row
