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
from raysweep.data.views import Views
from raysweep.training import own_augment
from raysweep.training.augmentation import mixing
from raysweep.training.augmentation.pipeline import Augmentation
from raysweep.training.feed import Change, Feed
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
        views: each image is changed in these fixed ways.
    """

    def __init__(
        self,
        section: AugmentSection,
        feed: Feed,
        images: Images,
        classes: Sequence[str],
        seed: int,
        own: Own | None = None,
        views: Views | None = None,
    ) -> None:
        self.section, self.feed, self.images, self.seed, self.own = section, feed, images, seed, own
        self.views = views
        self._which: tuple[int, np.ndarray, np.ndarray] | None = (
            None  # the last epoch, its order, and the views that it shows
        )
        self.augmentation = Augmentation(section, classes, feed.fill)
        of_class = [section.of_class(name) for name in classes]
        self._padding = np.array([one.crop_padding for one in of_class], dtype=np.int64)
        self._flip = np.array([bool(one.flip) for one in of_class])

    def which(self, epoch: int, order: np.ndarray) -> np.ndarray | None:
        """The fixed view that each position of an epoch shows, int64 (draws,); None where images are changed anew each time."""
        if self.views is None:
            return None
        if self._which is None or self._which[0] != epoch or self._which[1] is not order:
            self._which = epoch, order, self.views.shown(epoch, order)
        return self._which[2]

    def moves(self, epoch: int, order: np.ndarray) -> np.ndarray | None:
        """How each image of an epoch is shifted and mirrored, as :func:`augment.epoch_draws`; None where none is.

        Args:
            order: the training images of the epoch, int64 (draws,).
        """
        padding, flip = self._padding, self._flip
        if not padding.any() and not flip.any():
            return None
        if (views := self.which(epoch, order)) is not None:
            return self._moves_of(order, views)
        if (padding == padding[0]).all() and (flip == flip[0]).all():
            return augment.epoch_draws(len(order), int(padding[0]), bool(flip[0]), seed=self.seed, epoch=epoch)
        labels = self._classes(order)
        return augment.epoch_draws(len(order), padding[labels], flip[labels], seed=self.seed, epoch=epoch)

    def _moves_of(self, images: np.ndarray, views: np.ndarray) -> np.ndarray | None:
        """How images are shifted and mirrored in fixed views; None where none is."""
        if self.views is None or (not self._padding.any() and not self._flip.any()):
            return None
        labels = self._classes(images)
        raw = self.views.raw(images, views, len(self.images.labels))
        return augment.moves(raw, self._padding[labels], self._flip[labels])

    def fixed(self, images: np.ndarray, views: np.ndarray) -> torch.Tensor:
        """Fixed views of images, standardised and not mixed: float32 (n, C, H, W). Both int64 (n,)."""
        assert self.views is not None
        return self._made(images, self.views.place(images, views), self._moves_of(images, views), None)[0]

    def ahead_of(self, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Say of which images and views :meth:`fixed` will be asked next."""
        assert self.views is not None
        views = self.views
        self.feed.ahead(self.images, (self._asked(images, views.place(images, which)) for images, which in parts))

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
        self.feed.ahead(self.images, (self._asked(order[p], self._place(epoch, order, p)) for p in shown))

    def _shown(self, positions: np.ndarray, bounds: tuple[int, int]) -> np.ndarray:
        """The positions whose images make a part: its own, and those that are mixed into them."""
        if not self.section.mixes:
            return positions
        of = mixing.partners(positions, *bounds, self.section.repeats)
        return np.concatenate([positions, np.setdiff1d(of, positions)])

    def _place(self, epoch: int, order: np.ndarray, positions: np.ndarray) -> Place:
        """What the augmentation of the images at some positions is drawn by."""
        which = self.which(epoch, order)
        if self.views is None or which is None:
            return Place(self.seed, epoch, positions)
        return self.views.place(order[positions], which[positions])

    def _asked(self, index: np.ndarray, place: Place) -> Asked:
        """Images, with the parts that random crops take of those that can be cropped while they are decoded."""
        if not self.augmentation.crops or (sizes := self.images.sizes(index)) is None:
            return Asked(index)
        return Asked(index, self.augmentation.boxes(self._classes(index), place, *sizes))

    def _classes(self, index: np.ndarray) -> np.ndarray:
        """The class of each image, by which it is augmented; images with several labels are all augmented alike."""
        labels = self.images.labels[index]
        return labels if labels.ndim == 1 else np.zeros(len(labels), dtype=np.int64)

    def _plain(
        self, epoch: int, order: np.ndarray, moves: np.ndarray | None, positions: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The images at some positions, not mixed, and their labels."""
        moved = None if moves is None else moves[positions]
        own = None if self.own is None else own_augment.of_batch(self.own, self.seed, epoch, int(positions[0]))
        return self._made(order[positions], self._place(epoch, order, positions), moved, own)

    def _made(
        self, index: np.ndarray, place: Place, moved: np.ndarray | None, own: Change | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images changed as drawn for their places, and their labels."""
        if not self.augmentation.active:
            return self.feed.batch(self.images, index, moved, own)
        boxes, labels = self._asked(index, place).boxes, self._classes(index)
        cropped = None if boxes is None else boxes[:, 2] > 0
        change = functools.partial(self.augmentation, labels=labels, place=place, cropped=cropped)
        return self.feed.batch(self.images, index, moved, own, change, boxes)
