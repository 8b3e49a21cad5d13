"""The network of one rank as it is trained and called: what of it is trained, on images or on features, its average, its place in DDP."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from raysweep.config.settings import Settings
from raysweep.data.cache import Dataset
from raysweep.data.features import Features
from raysweep.data.views import Rows
from raysweep.events import Progress
from raysweep.training import device, features, guest, state
from raysweep.training.average import Average
from raysweep.training.features import FeatureFeed
from raysweep.training.feed import Feed
from raysweep.training.freezing import Freezing
from raysweep.training.job import Job
from raysweep.training.world import World


@dataclass(eq=False)
class Network:
    """A network with its weights, and how it is called. It changes while it trains."""

    settings: Settings
    world: World
    data: Dataset
    model: nn.Module  # its state is saved
    freezing: Freezing
    pixels: Feed
    bf16: bool
    features: Features | None  # that are trained on instead of images
    feed: Feed | FeatureFeed  # what is trained on
    called: nn.Module  # what predicts of what ``feed`` gives: the network, or its last layer
    parallel: (
        nn.Module
    )  # the same as training calls it: inside DDP, compiled; another one once more of the network is trained
    average: Average | None  # of the weights; None where it is not asked for

    def thaw(self, epoch: int) -> str:
        """Train what was frozen in the epoch before. Collective. Returns what is to be said."""
        self.freezing.apply(self.model, epoch)
        if self.average is not None:
            self.average.follow(self.model, self.freezing.moving(self.model, epoch))
        self.feed, self.features, self.called = self.pixels, None, self.model
        if self.parallel is not self.model:
            self.parallel = self.model  # DDP frees its hooks on the parameters before another one takes them
            _, self.parallel = _parallelise(self.model, self.settings, self.world, _shape(self.data))
        count = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return f"Epoch {epoch} begins to train what was frozen; {count:,} parameters are trained from here on."

    def shown(self) -> contextlib.AbstractContextManager[None]:
        """The context in which the network is what is validated: with the average of its weights, if that is asked for. Collective."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place(self.model, self.world)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which the network is called."""
        return device.autocast(self.world.device, self.bf16)


def ready(
    job: Job,
    world: World,
    data: Dataset,
    model: nn.Module,
    freezing: Freezing,
    looked_at: tuple[np.ndarray, np.ndarray],
    moments: tuple[list[float], list[float]],
    averaged: Mapping[str, torch.Tensor],
    progress: Progress,
) -> Network:
    """The network for the first epoch of a job. Collective.

    Args:
        model: with its weights. looked_at: int64, ascending: the training images that are drawn, and those by which a policy decides.
        moments: mean and standard deviation per channel, by which pixels are standardised.
        averaged: what a checkpoint has kept as the average of the weights.

    Raises:
        Interrupted: a stop was requested while features were computed.
    """
    settings, t, epoch = job.settings, job.settings.training, job.first_epoch
    pixels = Feed(data, *moments, world.device, t.channels_last)
    bf16 = t.precision == "bf16" or (t.precision == "auto" and device.kind(world.device) == "cuda")
    freezing.apply(model, epoch)
    rows = Rows(*looked_at, settings.data.views)
    source = features.Source(settings, data, rows, model, freezing.head, pixels, moments, bf16)
    found = _features(job, source, freezing, progress)
    feed: Feed | FeatureFeed = pixels
    if found is None:
        model, parallel = _parallelise(model, settings, world, _shape(data))
    else:
        feed = FeatureFeed(found, data, rows, world.device)
        shape = found.parts["train"].shape
        _, parallel = _parallelise(model.get_submodule(freezing.head), settings, world, shape)
    average = None
    if t.ema is not None:
        average = Average(model, t.ema, freezing.moving(model, epoch))
        average.restore(averaged)
    called = model if found is None else model.get_submodule(freezing.head)
    return Network(settings, world, data, model, freezing, pixels, bf16, found, feed, called, parallel, average)


def _features(job: Job, source: features.Source, freezing: Freezing, progress: Progress) -> Features | None:
    """The features that the first epoch is trained on; None where it is trained on images."""
    settings, epoch = job.settings, job.first_epoch
    if not features.asked(settings, freezing, epoch) or (
        settings.model.features == "auto" and features.unfit(settings, freezing, epoch)
    ):
        return None
    generators = state.rng_state()
    with guest.quiet(settings.model.name):
        x, _ = source.feed.batch(source.data.val, np.arange(min(2, len(source.data.val.labels))), None)
        found = None
        if features.decide(settings, freezing, source.model, x, epoch) is None:
            found = features.provide(source, job.cache_dir, progress)
            found.check.start()
    state.set_rng_state(generators)
    return found


def _shape(data: Dataset) -> tuple[int, ...]:
    """The shape of what a network gets of one image: (channels, height, width)."""
    height, width, channels = data.shape
    return channels, height, width


def _parallelise(
    model: nn.Module, settings: Settings, world: World, shape: tuple[int, ...]
) -> tuple[nn.Module, nn.Module]:
    """(the network whose state is saved, the module to call in training); ``shape`` is that of what it gets of one image."""
    generators = state.rng_state()
    model, parallel = world.wrap(model, settings.scaling.sync_batchnorm, settings.model.name, shape)
    world.settle(model, parallel, shape)
    state.set_rng_state(generators)
    if settings.training.compile:
        parallel = torch.compile(parallel)  # type: ignore[assignment]
    return model, parallel
