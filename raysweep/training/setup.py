"""Builds all that one rank trains with, from a job and the checkpoint that it starts from.

The order of the steps matters: several of them draw from the random generators.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from raysweep._text import join_names
from raysweep.config.settings import Settings
from raysweep.data import cache, encoded, sampling
from raysweep.data.cache import Dataset
from raysweep.data.order import in_order
from raysweep.data.roles import record
from raysweep.data.views import Views
from raysweep.errors import CheckpointError
from raysweep.events import Note, Progress, ignore
from raysweep.store import checkpoint, frozen, layout
from raysweep.training import (
    conditions,
    device,
    guest_network,
    initial,
    losses,
    models,
    multi_label,
    network,
    optim,
    origin,
    outputs,
    own,
    own_augment,
    own_code,
    own_data,
    own_loss,
    own_metrics,
    own_optim,
    own_policy,
    policy,
    published,
    state,
)
from raysweep.training import head as heads
from raysweep.training.augmentation.batches import Batch, Batches
from raysweep.training.features import FeatureFeed
from raysweep.training.freezing import Freezing
from raysweep.training.job import Job
from raysweep.training.network import Network
from raysweep.training.progress import TrainingProgress
from raysweep.training.world import World
from raysweep.weights import RatioChange, SamplingWeights
from raysweep.weights_schedule import Schedule, Step

Checkpoint = Mapping[str, Any]  # what a checkpoint file holds
_OF_NO_RANK = 1_000_000  # in the place of a rank in a seed


class Part(NamedTuple):
    """What one rank computes of a global batch."""

    positions: np.ndarray  # int64, within the order of the epoch
    divisor: int  # the summed loss divided by this, summed over the ranks, is the mean over the global batch
    counted: bool  # whether this rank counts these images; False where another rank computes the same ones


@dataclass(frozen=True)
class Setup:
    """All that one rank trains with. Only the network and the optimizer change while it trains."""

    job: Job
    world: World
    data: Dataset
    members: np.ndarray  # int64, ascending: the training images that may be drawn
    held: np.ndarray  # int64, ascending: those by which a policy decides
    policy: policy.Policy | None  # decides the weights of each epoch; it changes while it trains
    draws: int  # images per epoch
    total_batches: int  # global batches per epoch
    mean: list[float]  # per channel, by which pixels are standardised
    std: list[float]
    net: Network  # it changes while it trains
    frozen_before: (
        tuple[Path, Mapping[str, Any]] | None
    )  # the frozen part of the checkpoint that it starts from, where that stays
    optimizer: torch.optim.Optimizer
    conditions: conditions.Conditions
    inexact: list[str]  # why the bits may differ from those of an undisturbed training
    own_loss: own_loss.OwnLoss | None  # of the user; what it keeps changes while it trains
    own_metrics: Mapping[str, own.Own]  # of the user, by name
    batches: Batches

    @property
    def model(self) -> nn.Module:
        """The network whose state is saved."""
        return self.net.model

    @property
    def settings(self) -> Settings:
        return self.job.settings

    @property
    def classes(self) -> tuple[str, ...]:
        return self.data.classes

    @property
    def prior(self) -> np.ndarray | None:
        """The shares of the classes in the data, float64 (classes,); None where the validation images have the same."""
        prior = self.data.reading.prior
        return None if prior is None else np.array([prior.get(c, 0.0) for c in self.classes])

    def class_counts(self) -> dict[str, int]:
        """Class → images that may be drawn."""
        return _counts(self.data, self.members)

    def weights(self, epoch: int) -> SamplingWeights:
        """The sampling weights of an epoch, counted from 1 with the parent's epochs."""
        return self._schedule.at(epoch, self.class_counts()) if self.policy is None else self.policy.weights(epoch)

    def ratio_change(self, epoch: int) -> RatioChange | None:
        """How an epoch's weights differ from those of the epoch before; None at the first one, whose change is the fork's."""
        if epoch == self.job.config.fork + 1 or self.weights(epoch) == self.weights(epoch - 1):
            return None
        if self.policy is not None and epoch - 1 not in self.policy.known:
            return None  # from a checkpoint within the epoch, whose beginning is in the log
        return RatioChange.between(self.weights(epoch - 1), self.weights(epoch), self.class_counts())

    @functools.cached_property
    def _schedule(self) -> Schedule:
        points = self.settings.sampling.schedule
        if not points:
            return Schedule(self.job.weights)
        # Planning has put the number of every class into the settings.
        steps = (Step(p.start, SamplingWeights.complete(p.numbers(), self.classes), p.linear) for p in points)
        return Schedule(SamplingWeights.complete(self.settings.sampling.numbers(), self.classes), tuple(steps))

    def order(self, epoch: int) -> np.ndarray:
        """The training images of an epoch in their order, int64 (draws,). It is the same on every rank."""
        return sampling.epoch_order(
            self.data.train.labels,
            self.members,
            self.classes,
            self.weights(epoch),
            self.draws,
            seed=self.settings.seed,
            epoch=epoch,
            strategy=self.settings.sampling.strategy,
            repeats=self.settings.training.augment.repeats,
        )

    def shown(self, epoch: int, order: np.ndarray, moves: np.ndarray | None, batch: int, part: Part) -> Batch:
        """The images of a part of global batch ``batch``, counted from 0.

        Args:
            order: of the epoch. moves: of its images, see :meth:`Batches.moves`.
        """
        if isinstance(self.net.feed, FeatureFeed):  # of images that nothing changes at random, or of fixed views
            which = self.batches.which(epoch, order)
            of_each = None if which is None else which[part.positions]
            x, y = self.net.feed.batch(self.data.train, order[part.positions], None, of_each)
            return Batch(x, y, None)
        return self.batches.batch(epoch, order, moves, part.positions, self._bounds(batch))

    def some(self, n: int) -> torch.Tensor:
        """What the network gets of a few training images, for measuring."""
        index = self.members[:n]
        if isinstance(self.net.feed, FeatureFeed) and self.batches.views is not None:
            return self.net.feed.batch(self.data.train, index, None, np.zeros(len(index), dtype=np.int64))[0]
        return self.net.feed.batch(self.data.train, index, None)[0]

    def ahead(self, epoch: int, order: np.ndarray, batches: range) -> None:
        """Say which global batches :meth:`shown` will be asked for next."""
        if self.net.features is None:
            pieces = ((part.positions, self._bounds(batch)) for batch in batches for part in self.pieces(batch))
            self.batches.ahead(epoch, order, pieces)

    def _bounds(self, batch: int) -> tuple[int, int]:
        return sampling.batch_bounds(batch, self.draws, self.settings.training.batch_size)

    def loss(self, epoch: int) -> losses.Function:
        """The loss of an epoch."""
        counts = self.class_counts()
        t, shares = self.settings.training, self.weights(epoch).shares(counts)
        if self.own_loss is not None:
            return self.own_loss.of_epoch(shares, counts, epoch)
        if self.settings.data.multi_label:
            return losses.binary_of_epoch(self.settings.loss, t.label_smoothing, counts, epoch, self.world.device)
        return losses.of_epoch(self.settings.loss, t.label_smoothing, shares, counts, epoch, self.world.device)

    def auxiliary_share(self, heads: int) -> float:
        """What each of so many auxiliary heads adds to the loss. Planning has put it into the settings."""
        told = self.settings.model.auxiliary_share
        return outputs.share(heads) if told is None else told

    def pieces(self, batch: int) -> list[Part]:
        """What this rank computes of a global batch, in the parts of ``training.accumulate``: as many on every rank."""
        whole, wanted = self.part(batch), self.settings.training.accumulate
        if wanted == 1:
            return [whole]
        some = sampling.pieces(whole.positions, self._bounds(batch), wanted, self.world.size)
        return [Part(positions, whole.divisor, whole.counted) for positions in some]

    def part(self, batch: int) -> Part:
        """What this rank computes of global batch ``batch``, counted from 0."""
        world = self.world
        start, stop = sampling.batch_bounds(batch, self.draws, self.settings.training.batch_size)
        a, b = sampling.rank_slice(start, stop, world.rank, world.size)
        # Every rank computes all of a batch with fewer images than ranks: the mean of equal gradients is that gradient.
        whole = stop - start < world.size
        return Part(np.arange(a, b), (stop - start) * (world.size if whole else 1), world.rank == 0 or not whole)


def prepare(job: Job, start: Checkpoint | None, progress: Progress = ignore) -> tuple[Setup, TrainingProgress]:
    """Build what ``job`` trains with, restored from ``job.start`` where it names a checkpoint.

    Args:
        start: the content of ``job.start`` where the caller has it already; it is not changed.
        progress: told where images are decoded again.

    Raises:
        CheckpointError: the checkpoint does not fit the job.
    """
    with own.sent([job.code, *job.own]):
        return _prepared(job, start, progress)


def _prepared(job: Job, start: Checkpoint | None, progress: Progress) -> tuple[Setup, TrainingProgress]:
    settings, t = job.settings, job.settings.training
    torch.set_num_threads(job.threads)
    encoded.use_threads(job.threads)
    world = World(device.current() if job.use_gpu else device.CPU)
    cached = cache.reopen(job.cache_folder) or _decoded_again(job, progress)
    cached.check.start()
    data = in_order(cached, settings.data.classes)
    held, members = cache.holdout_and_pool(data, settings.sampling, settings.data.split_seed)
    draws = sampling.draws(settings.sampling.samples_per_epoch or len(members), t.augment.repeats)
    mean, std = origin.moments(settings, data, origin.read(settings) if job.start is None else origin.Origin())
    counts = _counts(data, members)
    codes, _, keeps_more = own_code.tried(settings, job.trusted, counts, data.shape)
    model = _new_model(job, data, world)
    freezing = Freezing.of(model, settings.model, len(data.classes))
    renewed = _with_another_head(job, data)
    state.seed_everything(settings.seed, world.rank, 1)
    saved = _read(job, data, start)
    columns = [*settings.metrics, *(multi_label.columns(data.classes) if settings.data.multi_label else ())]
    done = TrainingProgress.new(data.classes, columns)
    averaged: Mapping[str, torch.Tensor] = {}
    if saved is not None:
        averaged = _restore(model, saved, renewed, job, len(data.classes))
        known = saved.get("preprocessing") or {}
        mean, std = list(known.get("mean", mean)), list(known.get("std", std))
        done = TrainingProgress.restored(saved, data.classes, world, job.keep_position, columns)
    net = network.ready(job, world, data, model, freezing, (members, held), (mean, std), averaged, progress)
    optimizer = _optimizer(net.model, job, saved, len(data.classes), codes.get(own_optim.OPTIMIZER), freezing)
    if saved is not None and job.keep_rng:
        _restore_generators(saved, world)
    now = _conditions(job, net)
    loss, lost = own_loss.ready(codes.get(own_loss.OPTION), settings.loss, counts, world, saved)
    inexact = (
        [] if saved is None else [*conditions.differences(conditions.of_checkpoint(saved), now), *keeps_more, *lost]
    )
    setup = Setup(
        job=job,
        world=world,
        data=data,
        members=members,
        held=held,
        policy=_policy(job, counts, saved, codes.get(own_policy.OPTION)),
        draws=draws,
        total_batches=sampling.batches(draws, t.batch_size),
        mean=mean,
        std=std,
        net=net,
        frozen_before=_frozen_before(job, saved, freezing),
        optimizer=optimizer,
        conditions=now,
        inexact=inexact,
        own_loss=loss,
        own_metrics=own_metrics.of(codes),
        batches=_batches(settings, net, data, codes.get(own_augment.OPTION)),
    )
    return setup, done


def _batches(settings: Settings, net: Network, data: Dataset, code: own.Own | None) -> Batches:
    views = Views.of(settings.data)
    return Batches(settings.training.augment, net.pixels, data.train, data.classes, settings.seed, code, views)


def _restore(
    model: nn.Module, saved: Checkpoint, renewed: nn.Module | None, job: Job, classes: int
) -> Mapping[str, torch.Tensor]:
    """Load the weights that training goes on from; returns those that are validated, which may be an average."""
    name = job.settings.model.name
    shown = weights = _with_its_head(saved["model_state_dict"], renewed, classes, name)
    if trained := saved.get("trained_state_dict"):
        weights = _with_its_head({**shown, **trained}, renewed, classes, name)
    state.restore_model(model, weights, str(job.start))
    return shown


def _conditions(job: Job, net: Network) -> conditions.Conditions:
    """The conditions of all ranks. Collective."""
    section, world = job.settings.model, net.world
    mine = conditions.here(world.device, net.bf16, job.threads, world.size, section.name, section.path)
    of_features = {"features": net.features.sha256[:12]} if net.features else {}
    return conditions.of_ranks(world.gather({**mine, **of_features, **own.conditions_of(job.settings)}))


def _frozen_before(job: Job, saved: Checkpoint | None, freezing: Freezing) -> tuple[Path, Mapping[str, Any]] | None:
    told = None if saved is None else saved.get(frozen.KEY)
    if told is None or job.start is None:
        return None
    held = freezing.frozen(job.first_epoch)
    if job.reset_head and not job.same_run and any(heads.is_of(name, freezing.head) for name in held):
        return None  # the parent's holds the last layer that was replaced
    return Path(job.start).with_name(layout.FROZEN), told


def _counts(data: Dataset, members: np.ndarray) -> dict[str, int]:
    """Class → images that may be drawn."""
    return sampling.class_counts(data.train.labels[members], data.classes)


def _policy(
    job: Job, counts: Mapping[str, int], saved: Checkpoint | None, code: own.Own | None
) -> policy.Policy | None:
    section = job.settings.sampling.policy
    if section is None:
        return None
    base = SamplingWeights.complete(job.settings.sampling.numbers(), tuple(counts))
    found = policy.Policy(section, base, counts, job.weights, code)
    if saved is not None and job.same_run:  # what a child begins with is in its plan
        found.restore(saved)
    return found


def _decoded_again(job: Job, progress: Progress) -> Dataset:
    """The images where the cache that was planned with is gone, or damaged; each has the role that it had."""
    own_data.provide(job.settings, job.trusted)
    roles = record.read(Path(job.folder))
    known = None if roles is None else roles.known
    return cache.load_as(
        job.settings.data,
        job.cache_dir,
        job.config.data_sha256,
        known,
        tell=lambda text: progress(Note(text)),
    )


def _new_model(job: Job, data: Dataset, world: World) -> nn.Module:
    section, t = job.settings.model, job.settings.training
    if job.trusted:  # first, so that what the user's code draws while it is imported changes no weight
        guest_network.warm_up(section.name, section.path, section.options, len(data.classes), data.shape[2])
    state.seed_everything(job.settings.seed, 0)  # the same weights on every rank
    model = _built(job, data)
    if job.start is None:
        initial.initialise(model, section)
    model.to(world.device)
    model.to(memory_format=torch.channels_last if t.channels_last else torch.contiguous_format)
    return model


def _with_another_head(job: Job, data: Dataset) -> nn.Module | None:
    """A network whose last layer a child gets instead of its parent's: drawn by the seed and the place of the fork, as the
    network itself draws it. None where the child keeps its parent's."""
    if not job.reset_head or job.same_run:
        return None
    state.seed_everything(job.settings.seed, _OF_NO_RANK, job.first_epoch)
    return _built(job, data)


def _with_its_head(
    weights: dict[str, torch.Tensor], renewed: nn.Module | None, classes: int, name: str
) -> Mapping[str, torch.Tensor]:
    """``weights`` with the last layer of ``renewed``, where there is such a network."""
    return weights if renewed is None else heads.anew(renewed, models.as_named(renewed, weights), classes, name)


def _built(job: Job, data: Dataset) -> nn.Module:
    section = job.settings.model
    return models.build(
        section.name,
        section.options,
        len(data.classes),
        data.shape[2],
        pretrained=job.start is None and published.are_fetched(section),
        trusted=job.trusted,
        path=section.path,
        head=section.head,
        size=data.shape[:2],
    )


def _read(job: Job, data: Dataset, start: Checkpoint | None) -> Checkpoint | None:
    """The checkpoint that the job starts from; None where it starts from none."""
    if job.start is None:
        return None
    saved = start if start is not None else checkpoint.read_checkpoint(job.start)
    classes = saved.get("classes")
    if classes is not None and list(classes) != list(data.classes):
        raise CheckpointError(
            f"The classes of {job.start} are {join_names(classes)}; those of the data are {join_names(data.classes)}. Both must "
            "be the same and in the same order. Use data with the checkpoint's classes, and set data.classes to their order."
        )
    return saved


def _optimizer(
    model: nn.Module, job: Job, saved: Checkpoint | None, classes: int, code: own.Own | None, freezing: Freezing
) -> torch.optim.Optimizer:
    training = job.settings.training
    optimizer = optim.optimizer(model, training, code, freezing)
    if saved is not None and not job.fresh_optimizer:
        fresh = dict(optimizer.state)
        frozen = freezing, classes, job.first_epoch
        state.restore_optimizer(model, optimizer, saved, str(job.start), training, code, *frozen)
        if job.reset_head and not job.same_run:
            heads.forget(model, optimizer, fresh, classes, job.settings.model.name)
    return optimizer


def _restore_generators(saved: Checkpoint, world: World) -> None:
    ranks = saved.get("rng_state") or []
    if world.rank < len(ranks):  # a rank that the checkpoint does not know keeps its seed
        state.set_rng_state(ranks[world.rank])
