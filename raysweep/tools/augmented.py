"""Draw training images as an epoch showed them: the same shifts, crops, colours and mixtures, drawn again from seed, epoch and position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raysweep._text import truncate
from raysweep.config import load as load_config
from raysweep.config.settings import Settings, TrainingSection
from raysweep.data import cache, decoded, sampling
from raysweep.data.cache import Dataset
from raysweep.data.order import in_order
from raysweep.data.views import Views
from raysweep.errors import CheckpointError, DataError, InputError
from raysweep.label_sets import not_built
from raysweep.plan import parent as parents
from raysweep.plan.upgrade import completed
from raysweep.report import sheet
from raysweep.report.sheet import Cell
from raysweep.store import checkpoint, commands, resolve
from raysweep.store import trust as trusting
from raysweep.store.experiment import Experiment
from raysweep.store.records_manifest import ManifestEntry
from raysweep.store.root import Root
from raysweep.store.trust import NOBODY
from raysweep.weights import SamplingWeights

MOST = 400  # images on a sheet


def picture(root: Root, reference: str, images: int) -> bytes:
    """A PNG of training images: each as it is, and as training saw it.

    Args:
        reference: an experiment, of which the first epoch is shown that has a checkpoint; or a checkpoint, whose epoch is shown.
        images: how many, of every class in turn.

    Raises:
        InputError: there is no such epoch, or its images are not here any more.
    """
    if not 1 <= images <= MOST:
        raise InputError(f"--augmented {images} is not valid: a sheet has 1 to {MOST} images.")
    experiment, entry = _found(root, reference)
    path = experiment.folder / entry.file
    saved = checkpoint.read_checkpoint(path)
    stored = completed((saved.get("config") or {}).get("settings") or {})
    if not stored or not saved.get("preprocessing"):
        raise CheckpointError(f"{truncate(path)} does not say how it was trained, so its images cannot be drawn again.")
    settings = load_config.validate({**stored, "root": root.address}, f"the settings of {experiment.id}")
    if settings.data.multi_label:
        raise not_built("--augmented")
    if settings.own_code().get("training.augment.own"):  # it is run
        trusting.settle(NOBODY, parents.origin_of(root, experiment, path, saved), stored)
    found = decoded.data_of(experiment)
    if found is None:
        again = commands.command(root, "evaluate", f"{experiment.id}@latest")
        raise DataError(
            f"The images of {experiment.id} are not decoded on this machine any more, or are others. `{again}` decodes them again."
        )
    data = in_order(found, list(saved["classes"]))
    cells = _cells(settings, data, saved, entry, images)
    return sheet.png(
        cells, f"{experiment.id}, epoch {entry.epoch}: training images as they are, and as they were shown"
    )


def _found(root: Root, reference: str) -> tuple[Experiment, ManifestEntry]:
    if resolve.split_reference(reference) is not None or reference.endswith(".pt"):
        experiment, entry, _ = resolve.find_checkpoint(root, reference)
        if entry is None:
            raise InputError(f"{reference} is not in a manifest, so nobody knows which images it was trained on.")
        return experiment, entry
    experiment = resolve.find_experiment(root, reference)
    entries = experiment.manifest().entries
    if not entries:
        raise InputError(
            f"{experiment.id} has no checkpoint yet, so no epoch is known whose images could be drawn. Try again after its first epoch."
        )
    return experiment, entries[0]


def _order(settings: Settings, data: Dataset, saved: Mapping[str, Any], entry: ManifestEntry) -> np.ndarray:
    """The training images of the epoch in their order, int64; checked against what was recorded of it."""
    _, members = cache.holdout_and_pool(data, settings.sampling, settings.data.split_seed)
    repeats = settings.training.augment.repeats
    order = sampling.epoch_order(
        data.train.labels,
        members,
        data.classes,
        SamplingWeights.complete(saved["sampling_weights"], data.classes),
        sampling.draws(settings.sampling.samples_per_epoch or len(members), repeats),
        seed=settings.seed,
        epoch=entry.epoch,
        strategy=settings.sampling.strategy,
        repeats=repeats,
    )
    recorded = entry.metrics.get("order_sha256")  # only of a whole epoch
    if recorded is not None and recorded != sampling.order_hash(order):
        raise DataError(
            f"The images that are here give another order than epoch {entry.epoch} had, so what it saw cannot be drawn again."
        )
    return order


def _cells(
    settings: Settings, data: Dataset, saved: Mapping[str, Any], entry: ManifestEntry, images: int
) -> list[Cell]:
    """So many images of the epoch, of every class in turn, in the order of the classes."""
    import torch

    from raysweep.training import own, own_augment
    from raysweep.training.augmentation.batches import Batches
    from raysweep.training.feed import Feed

    order = _order(settings, data, saved, entry)
    pixels = saved["preprocessing"]
    feed = Feed(data, list(pixels["mean"]), list(pixels["std"]), torch.device("cpu"), False)
    code = own.load(settings, True, [own_augment.OPTION]).get(own_augment.OPTION)
    views = Views.of(settings.data)
    made = Batches(settings.training.augment, feed, data.train, data.classes, settings.seed, code, views)
    moves = made.moves(entry.epoch, order)
    cells = []
    for position in _chosen(data.train.labels[order], images):
        part, bounds = _part(position, len(order), settings.training, int(saved["world_size"]))
        # the generator of the user's code is that of the whole part
        positions = part if code is not None else np.array([position])
        found = made.batch(entry.epoch, order, moves, positions, bounds)
        row = int(np.flatnonzero(positions == position)[0])
        after = (found.x[row] / feed.scale[0] + feed.mean[0]).round().clamp(0, 255).to(torch.uint8)
        text = data.classes[int(found.y[row])]
        if found.mixed is not None and (share := float(found.mixed.share[row])) < 1:
            text = f"{share:.0%} {text}, {1 - share:.0%} {data.classes[int(found.mixed.other[row])]}"
        before = data.train.take(order[[position]])[0]
        cells.append(Cell(before, after.permute(1, 2, 0).numpy(), text))
    return cells


def _part(position: int, draws: int, t: TrainingSection, world_size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """(the positions that one worker computes together with this one, the bounds of its global batch)."""
    batch_size = t.batch_size
    batch = min(position // batch_size, sampling.batches(draws, batch_size) - 1)
    bounds = sampling.batch_bounds(batch, draws, batch_size)
    slices = (sampling.rank_slice(*bounds, rank, world_size) for rank in range(world_size))
    a, b = next((a, b) for a, b in slices if a <= position < b)
    some = sampling.pieces(np.arange(a, b), bounds, t.accumulate, world_size)
    return next(piece for piece in some if position in piece), bounds


def _chosen(labels: np.ndarray, images: int) -> Sequence[int]:
    """Positions of the epoch: the first of each class, the second of each, and so on; those of a class together."""
    times = np.empty(len(labels), dtype=np.int64)  # how often its class was shown before
    for c in set(labels.tolist()):
        rows = np.flatnonzero(labels == c)
        times[rows] = np.arange(len(rows))
    first = np.lexsort((np.arange(len(labels)), labels, times))[:images]
    return [int(p) for p in first[np.lexsort((first, labels[first]))]]
