"""The batches of a training as the network gets them: gathered, augmented, standardised and mixed."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from raysweep.config.augmentation import AugmentSection
from raysweep.data import augment
from raysweep.data.augment_draws import Place
from raysweep.data.cache import Images
from raysweep.data.encoded import Asked
from raysweep.training import own_augment
from raysweep.training.augmentation import mixing
from raysweep.training.augmentation.pipeline import Augmentation
from raysweep.training.feed import Feed
from raysweep.training.losses import Mixed
from raysweep.training.own import Own


class Batch(NamedTuple):
    """What one rank trains on at once."""

    x: torch.Tensor  # float32 (n, C, H, W), standardised
    y: torch.Tensor  # int64 (n,), the class of each image itself
    mixed: Mixed | None  # what was mixed into them


class Batches:
    """Makes the batches of a training.

    Args:
        section: with ``flip`` decided.
        images: for training; their labels are numbers of ``classes``.
        seed: of the training.
        own: the user's augmentation.
    """

    def __init__(
        self,
        section: AugmentSection,
        feed: Feed,
        images: Images,
        classes: Sequence[str],
        seed: int,
        own: Own | None = None,
    ) -> None:
        self.section, self.feed, self.images, self.seed, self.own = section, feed, images, seed, own
        self.augmentation = Augmentation(section, classes, feed.fill)
        of_class = [section.of_class(name) for name in classes]
        self._padding = np.array([one.crop_padding for one in of_class], dtype=np.int64)
        self._flip = np.array([bool(one.flip) for one in of_class])

    def moves(self, epoch: int, order: np.ndarray) -> np.ndarray | None:
        """How each image of an epoch is shifted and mirrored, as :func:`augment.epoch_draws`; None where none is.

        Args:
            order: the training images of the epoch, int64 (draws,).
        """
        padding, flip = self._padding, self._flip
        if not padding.any() and not flip.any():
            return None
        if (padding == padding[0]).all() and (flip == flip[0]).all():
            return augment.epoch_draws(len(order), int(padding[0]), bool(flip[0]), seed=self.seed, epoch=epoch)
        labels = self.images.labels[order]
        return augment.epoch_draws(len(order), padding[labels], flip[labels], seed=self.seed, epoch=epoch)

    def batch(
        self,
        epoch: int,
        order: np.ndarray,
        moves: np.ndarray | None,
        positions: np.ndarray,
        bounds: tuple[int, int],
    ) -> Batch:
        """A part of a global batch.

        Args:
            order: the training images of the epoch, int64 (draws,). moves: of :meth:`moves`.
            positions: within the order, int64 (n,), those of this rank.
            bounds: the positions ``[start, stop)`` of the global batch.
        """
        every = self._shown(positions, bounds)
        x, y = self._plain(epoch, order, moves, every)
        if not self.section.mixes:
            return Batch(x, y, None)
        of = mixing.partners(positions, *bounds, self.section.repeats)
        row = {p: i for i, p in enumerate(every.tolist())}
        rows = torch.tensor([row[p] for p in of.tolist()], dtype=torch.int64, device=x.device)
        n, (height, width) = len(positions), x.shape[2:]
        place = Place(self.seed, epoch, positions)
        found = mixing.drawn(self.section.mixup, self.section.cutmix, place, height, width)
        out, mixed = mixing.mix(x[:n], x[rows], y[rows], found)
        return Batch(out, y[:n], mixed)

    def ahead(self, epoch: int, order: np.ndarray, parts: Iterable[tuple[np.ndarray, tuple[int, int]]]) -> None:
        """Say of which parts :meth:`batch` will be asked next, as (positions, bounds), so that their images are decoded meanwhile."""
        shown = (self._shown(*part) for part in parts)
        self.feed.ahead(self.images, (self._asked(epoch, order, positions) for positions in shown))

    def _shown(self, positions: np.ndarray, bounds: tuple[int, int]) -> np.ndarray:
        """The positions whose images make a part: its own, and those that are mixed into them."""
        if not self.section.mixes:
            return positions
        of = mixing.partners(positions, *bounds, self.section.repeats)
        return np.concatenate([positions, np.setdiff1d(of, positions)])

    def _asked(self, epoch: int, order: np.ndarray, positions: np.ndarray) -> Asked:
        """The images at some positions, with the parts that random crops take of those that can be cropped while they are decoded."""
        index = order[positions]
        if not self.augmentation.crops or (sizes := self.images.sizes(index)) is None:
            return Asked(index)
        return Asked(index, self.augmentation.boxes(self._classes(index), Place(self.seed, epoch, positions), *sizes))

    def _classes(self, index: np.ndarray) -> np.ndarray:
        """The class of each image, by which it is augmented; images with several labels are all augmented alike."""
        labels = self.images.labels[index]
        return labels if labels.ndim == 1 else np.zeros(len(labels), dtype=np.int64)

    def _plain(
        self, epoch: int, order: np.ndarray, moves: np.ndarray | None, positions: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The images at some positions, not mixed, and their labels."""
        asked = self._asked(epoch, order, positions)
        index, boxes = asked.index, asked.boxes
        moved = None if moves is None else moves[positions]
        own = None if self.own is None else own_augment.of_batch(self.own, self.seed, epoch, int(positions[0]))
        if not self.augmentation.active:
            return self.feed.batch(self.images, index, moved, own)
        labels, place = self._classes(index), Place(self.seed, epoch, positions)
        cropped = None if boxes is None else boxes[:, 2] > 0
        change = functools.partial(self.augmentation, labels=labels, place=place, cropped=cropped)
        return self.feed.batch(self.images, index, moved, own, change, boxes)
