"""Fixed views: each training image is changed in a few ways that are drawn once, instead of anew whenever it is shown.

View v of image i depends on (``data.split_seed``, i, v) and on nothing else, i being the image's place in the cache. It is the seed of
the data, which a lineage keeps: the views belong to the images, and branches with other seeds see the same ones.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from raysweep.config.settings import DataSection
from raysweep.data.augment_draws import Place
from raysweep.data.sampling import VIEWS, raw_stream

PLAIN = -1  # in the place of a view: the image as it is


@dataclass(frozen=True)
class Views:
    """``count`` views of each image, drawn by ``seed``."""

    count: int
    seed: int

    @classmethod
    def of(cls, data: DataSection) -> Views | None:
        """Those that the settings ask for."""
        return None if data.views is None else cls(data.views, data.split_seed)

    def shown(self, epoch: int, order: np.ndarray) -> np.ndarray:
        """Which view each position of an epoch shows, int64 (draws,): view (e + j) mod count in epoch e, counted from 0, where the epoch
        has shown the image j times before. So the views of an image take turns within an epoch and from one to the next.

        Args:
            epoch: counted from 1. order: the training images of the epoch, int64 (draws,).
        """
        by = np.argsort(order, kind="stable")
        begins = np.flatnonzero(np.diff(order[by], prepend=-1))
        before = np.empty(len(order), dtype=np.int64)
        before[by] = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
        found: np.ndarray = (epoch - 1 + before) % self.count
        return found

    def place(self, images: np.ndarray, views: np.ndarray) -> Place:
        """What augmentation is drawn by, of views int64 (n,) of images int64 (n,)."""
        return Place(self.seed, 0, images, views)

    def raw(self, images: np.ndarray, views: np.ndarray, total: int) -> np.ndarray:
        """What :func:`raysweep.data.augment.moves` are made of, uint64 (n,); ``total`` is the number of images that there are."""
        out = np.empty(len(images), dtype=np.uint64)
        for view in np.unique(views).tolist():
            rows = views == view
            out[rows] = _stream(self.seed, view, total)[images[rows]]
        return out


@functools.lru_cache(maxsize=1)
def _stream(seed: int, view: int, total: int) -> np.ndarray:
    return raw_stream((seed, VIEWS, view), total)


@dataclass(frozen=True)
class Rows:
    """Which row of the features of the training images is whose: of each view all images that are drawn, then those that are held
    out as they are. Without views: all as they are.

    Attributes:
        members: int64, ascending: the images that are drawn. held: those by which a policy decides. views: of each image; None: none.
    """

    members: np.ndarray
    held: np.ndarray
    views: int | None

    @functools.cached_property
    def plain(self) -> np.ndarray:
        """The images of which there are features as they are, int64, ascending."""
        return self.held if self.views else np.sort(np.concatenate([self.held, self.members]))

    @functools.cached_property
    def _of_views(self) -> int:
        return (self.views or 0) * len(self.members)

    def __len__(self) -> int:
        return self._of_views + len(self.plain)

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """(the image, its view or PLAIN) of each row, int64."""
        count = self.views or 0
        views = np.concatenate([np.repeat(np.arange(count), len(self.members)), np.full(len(self.plain), PLAIN)])
        return np.concatenate([np.tile(self.members, count), self.plain]), views

    def at(self, index: np.ndarray, views: np.ndarray | None) -> np.ndarray:
        """The rows of images, int64 (b,): of these views of each, or of the images as they are."""
        if views is None:
            found: np.ndarray = self._of_views + np.searchsorted(self.plain, index)
        else:
            found = views * len(self.members) + np.searchsorted(self.members, index)
        return found
