"""Features computed once: where the last layer is all that is trained, and images are not changed at random, or only in fixed views, what it
gets from each of them stays the same. It is computed once into the cache (:mod:`raysweep.data.features`), and training and
validation run on that.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from raysweep._paths import user_path
from raysweep._text import counted, truncate
from raysweep.config.augmentation import AugmentSection
from raysweep.config.settings import Settings
from raysweep.data import features as stored
from raysweep.data.cache import Dataset, Images
from raysweep.data.encoded import Asked
from raysweep.data.features import Features
from raysweep.data.views import PLAIN, Rows, Views
from raysweep.errors import ConfigError, Interrupted
from raysweep.events import ComputingFeatures, Note, Progress
from raysweep.store import space
from raysweep.training import conditions
from raysweep.training import device as devices
from raysweep.training.augmentation.batches import Batches
from raysweep.training.feed import Feed
from raysweep.training.freezing import Freezing

VERSION = 1  # part of every key: raise it when features are computed in another way
_AT_ONCE = 64  # images of a pass
_REPORT_EVERY_S = 0.5
_STILL = AugmentSection(crop_padding=0, flip=False)  # type: ignore[call-arg]


def asked(settings: Settings, freezing: Freezing, epoch: int) -> bool:
    """Whether features are to be computed once where that is possible, for a training that begins with this epoch; not once the network
    has thawed."""
    thawed = epoch > 1 and not freezing.frozen(epoch)
    return bool(settings.model.freeze) and settings.model.features != "off" and not thawed


def unfit(settings: Settings, freezing: Freezing, epoch: int) -> str | None:
    """Why an epoch cannot be trained on features, by its settings, as a part of a sentence; None where it can."""
    if not freezing.head_only(epoch):
        return "more than the last layer is trained"
    if settings.data.views is not None:
        mixed = settings.training.augment.mixes
        return (
            "images are mixed (training.augment.mixup and cutmix; without them, data.views is enough)"
            if mixed
            else None
        )
    for key, value in settings.training.augment:
        if _STILL.model_copy(update={key: value}).changes:
            still = json.dumps(getattr(_STILL, key))
            return f"images are changed at random (training.augment.{key}; {still} does not)"
    return None


def decide(settings: Settings, freezing: Freezing, model: nn.Module, x: torch.Tensor, epoch: int) -> str | None:
    """Why an epoch is not trained on features that are :func:`asked` for; None where it is.

    Args:
        model: with its weights. x: a few standardised images.

    Raises:
        ConfigError: features are demanded, and cannot be.
    """
    why = unfit(settings, freezing, epoch) or _unfit_network(model, freezing.head, x)
    if why is not None and settings.model.features != "auto":
        raise ConfigError(
            f"model.features={settings.model.features}: features cannot be computed once, because {why}. With model.features=auto every "
            "epoch passes the images through the network."
        )
    return why


def _unfit_network(model: nn.Module, head: str, x: torch.Tensor) -> str | None:
    was = {module: module.training for module in model.modules()}
    try:
        logits, rows = computed(model, head, x)
        with torch.no_grad():
            again = None if rows is None else model.get_submodule(head)(rows)
    finally:
        for module, training in was.items():
            module.training = training
    if rows is None or again is None or again.shape != logits.shape or not torch.equal(again, logits):
        return f"the network's output is not that of its last layer, {head}"
    return None


@torch.no_grad()
def computed(model: nn.Module, head: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(the logits, what the last layer got) of images in evaluation; None where it was not called exactly once with one tensor."""
    seen: list[Any] = []
    hook = model.get_submodule(head).register_forward_pre_hook(lambda _, given: seen.append(given))
    try:
        model.eval()
        logits = model(x)
    finally:
        hook.remove()
    fits = len(seen) == 1 and len(seen[0]) == 1 and isinstance(seen[0][0], torch.Tensor) and len(seen[0][0]) == len(x)
    return logits, seen[0][0] if fits else None


class FeatureFeed:
    """Features (b, …) of float32 and labels (b,), instead of :class:`Feed`'s images."""

    def __init__(self, found: Features, data: Dataset, rows: Rows, device: torch.device) -> None:
        """
        Args:
            rows: of the training images.
        """
        self.device = device
        self._train, self._rows = data.train, rows
        self._parts = {id(data.train): found.parts["train"], id(data.val): found.parts["val"]}
        self._labels = {id(part): torch.from_numpy(part.labels) for part in (data.train, data.val)}
        self._ready = {
            key: torch.from_numpy(part.rows).to(device, torch.float32)
            for key, part in self._parts.items()
            if part.rows is not None
        }

    def ahead(self, images: Images, batches: Iterable[Any]) -> None:
        """As :meth:`Feed.ahead`; features are there already."""

    def batch(
        self, images: Images, index: np.ndarray, draws: np.ndarray | None = None, views: np.ndarray | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The features and labels at ``index``: of these views of each training image, or of the images as they are. Nothing changes them,
        so ``draws`` is None."""
        where = torch.from_numpy(np.asarray(index, dtype=np.int64))
        labels = self._labels[id(images)].index_select(0, where).to(self.device)
        if images is self._train:
            index = self._rows.at(index, views)
            where = torch.from_numpy(index)
        ready = self._ready.get(id(images))
        if ready is not None:
            return ready.index_select(0, where.to(self.device)), labels
        rows = torch.from_numpy(self._parts[id(images)].take(index))
        return rows.to(self.device, torch.float32), labels


@dataclass(frozen=True)
class Source:
    """What features are computed from."""

    settings: Settings
    data: Dataset
    rows: Rows  # of the training images that may be looked at
    model: nn.Module  # with its weights, on its device
    head: str
    feed: Feed
    pixels: tuple[Sequence[float], Sequence[float]]  # mean and standard deviation
    bf16: bool

    @property
    def dtype(self) -> str:
        return "float16" if self.settings.model.features == "float16" else "float32"

    @functools.cached_property
    def views(self) -> Batches:
        """Makes the views of images."""
        settings, data = self.settings, self.data
        views = Views.of(settings.data)
        return Batches(settings.training.augment, self.feed, data.train, data.classes, settings.seed, None, views)


def provide(source: Source, cache_dir: str, progress: Progress) -> Features:
    """The features of both splits: from the cache, else computed now, by one process of this machine.

    Raises:
        Interrupted: a stop was requested; what was computed stays. DataError: they cannot be written.
    """
    folder = user_path(cache_dir) / stored.FOLDER / key(source)
    found = stored.reopen(folder)
    if found is not None:
        return found

    def stopped() -> None:
        reason = getattr(progress, "should_stop", lambda: None)()
        if reason is not None:
            raise Interrupted(f"Stopped by {reason} while features were computed; those that are done stay.", reason)

    with stored.alone(folder, stopped):
        found = stored.reopen(folder)  # another process may have computed them meanwhile
        if found is None:
            _compute(source, folder, progress, stopped)
            found = stored.reopen(folder)
    if found is None:
        raise ConfigError(
            f"The features {folder} were damaged right after they were written. Check the disk; then try again."
        )
    return found


def key(source: Source) -> str:
    """The name of the folder: a hash of the images, the network, its weights but for the last layer, and how both are used."""
    section, digest = source.settings.model, hashlib.sha256()
    told = [VERSION, source.data.sha256, source.data.shape, section.name, section.options, section.head, source.head]
    told += [
        [list(map(float, v)) for v in source.pixels],
        source.dtype,
        conditions.of_model(section.name, section.path),
    ]
    told += [source.feed.channels_last, source.feed.device.type, source.bf16]
    if (views := Views.of(source.settings.data)) is not None:
        augment = source.settings.training.augment
        told += [[views.count, views.seed], [str(augment.of_class(name)) for name in source.data.classes]]
        told += [list(source.data.classes), len(source.rows.members)]
    digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    if views is not None:
        digest.update(source.rows.members.tobytes())
    digest.update(source.rows.plain.tobytes())
    add_weights(digest, source.model, source.head)
    return digest.hexdigest()[:20]


def add_weights(digest: Any, model: nn.Module, head: str) -> None:
    """Add the weights to a hash of :mod:`hashlib`, but for those of the last layer."""
    for name, tensor in model.state_dict().items():
        if not name.startswith(f"{head}."):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _compute(source: Source, folder: Path, progress: Progress, stopped: Callable[[], None]) -> None:
    data = source.data
    n = len(data.val.labels)
    images = {"train": (data.train, *source.rows.images()), "val": (data.val, np.arange(n), np.full(n, PLAIN))}
    rows, _ = _rows(source, *images["val"], 0, 1)
    whose = f"{len(source.rows.plain) + n:,} images"
    if source.rows.views:
        views = counted(source.rows.views, "view")
        whose = f"{views} of each of {len(source.rows.members):,} training images, and of {whose} as they are,"
    progress(Note(f"The features of {whose} are computed once, into {truncate(folder)}."))
    began, said, first = time.monotonic(), [0.0], [-1]

    def tell(done: int, total: int) -> None:
        stopped()
        if first[0] < 0:
            first[0] = done
        now = time.monotonic()
        if now - said[0] > _REPORT_EVERY_S or done == total:
            said[0] = now
            here = done - first[0]
            left = (now - began) * (total - done) / here if here and now - began > 1 else None
            progress(ComputingFeatures(done, total, left))

    compute = {split: functools.partial(_rows, source, *part) for split, part in images.items()}
    counts = {split: len(places) for split, (_, places, _) in images.items()}
    stored.build(folder, counts, rows.shape[1:], source.dtype, compute, tell)


def _rows(
    source: Source, images: Images, places: np.ndarray, views: np.ndarray, start: int, end: int
) -> tuple[np.ndarray, float]:
    """The features of the images at ``places[start:end]`` in these views, in float32, and how far a logit is from theirs once they are
    rounded."""
    found, apart, head = [], 0.0, source.model.get_submodule(source.head)
    for x in _shown(source, images, places[start:end], views[start:end]):
        with devices.autocast(source.feed.device, source.bf16):
            logits, rows = computed(source.model, source.head, x)
            assert rows is not None, "decide() has seen it"
            if source.dtype == "float16":
                with torch.no_grad():
                    rounded = head(rows.to(torch.float16).to(rows.dtype))
                apart = max(apart, float((rounded - logits).abs().max()))
        found.append(rows.float().cpu())
    return torch.cat(found).numpy(), apart


def _shown(source: Source, images: Images, places: np.ndarray, views: np.ndarray) -> Iterator[torch.Tensor]:
    """Images in their views, standardised, a few at a time."""
    changed = int((views != PLAIN).sum())  # those that are shown as they are follow
    parts = [slice(a, min(a + _AT_ONCE, changed)) for a in range(0, changed, _AT_ONCE)]
    if parts:
        source.views.ahead_of((places[part], views[part]) for part in parts)
    for part in parts:
        yield source.views.fixed(places[part], views[part])
    plain = [places[a : a + _AT_ONCE] for a in range(changed, len(places), _AT_ONCE)]
    source.feed.ahead(images, map(Asked, plain))
    for index in plain:
        yield source.feed.batch(images, index, None)[0]


def size_of(settings: Settings, rows: int, numbers: int) -> str:
    """How much disk the features of so many rows take, for people. ``numbers``: of a row."""
    return space.size(rows * numbers * (2 if settings.model.features == "float16" else 4))


def describe(found: Features, views: int | None) -> str:
    """What is to be said of the features that a training uses."""
    part = found.parts["train"]
    size = "×".join(map(str, part.shape))
    of = f" of {counted(views, 'view')} of each image" if views else ""
    text = f"the last layer is trained on features{of} that are computed once ({size} numbers an image, {part.dtype})"
    return (
        text if part.dtype == np.float32 else f"{text}; rounding them changed no logit by more than {found.apart:.2g}"
    )
