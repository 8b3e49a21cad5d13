"""Augment a batch: each image as its class wants it, by what is drawn for its position."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from raysweep.config.augmentation import Affine, AugmentSection, ColorJitter, RandomErasing, RandomResizedCrop, Recipe
from raysweep.data import augment_draws as draws
from raysweep.data.augment_draws import Kind, Place
from raysweep.training.augmentation import colour, geometry, mixing, policies

# The order in which the parts of a colour jitter are applied, drawn for each image: all 24 of brightness, contrast, saturation, hue.
_ORDERS = np.array(
    [(a, b, c, 6 - a - b - c) for a in range(4) for b in range(4) for c in range(4) if len({a, b, c}) == 3]
)
_JITTERS: tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], ...] = (
    *(colour.brightness, colour.contrast, colour.saturation),
    colour.hue,
)


class Augmentation:
    """What is done to single images, apart from shifts and mirrors, which :mod:`raysweep.data.augment` does while it gathers them.

    Args:
        classes: in the order of the labels.
        fill: uint8 (C,), the mean colour of the training images.
    """

    def __init__(self, section: AugmentSection, classes: Sequence[str], fill: np.ndarray) -> None:
        self.fill = torch.from_numpy(fill)
        of_class = [section.of_class(name) for name in classes]
        self.recipes: list[Recipe] = []
        for one in of_class:
            if one not in self.recipes:
                self.recipes.append(one)
        self.recipe_of = np.array([self.recipes.index(one) for one in of_class])
        self.crops = any(one.random_resized_crop is not None for one in self.recipes)
        self.active = any(one.beyond_moves for one in self.recipes)

    def boxes(self, labels: np.ndarray, place: Place, height: np.ndarray, width: np.ndarray) -> np.ndarray:
        """The parts that random crops keep of images of these sizes, int64 (n, 4): top, left, height, width; zeros where an image's height
        is 0, and where it is not cropped."""
        out, which = np.zeros((len(labels), 4), dtype=np.int64), self.recipe_of[labels]
        for number, recipe in enumerate(self.recipes):
            rows, section = np.flatnonzero((which == number) & (height > 0)), recipe.random_resized_crop
            if section is not None and len(rows):
                h, w = height[rows], width[rows]
                found = draws.crop_boxes(place.at(rows), h, w, section.scale, section.ratio, section.p)
                whole = (found[:, 2] == h) & (found[:, 3] == w)
                out[rows] = np.where(whole[:, None], 0, found)
        return out

    def __call__(
        self, x: torch.Tensor, labels: np.ndarray, place: Place, cropped: np.ndarray | None = None
    ) -> torch.Tensor:
        """uint8 (n, C, H, W) changed, as a new tensor.

        Args:
            labels: int64 (n,). place: where in the training they are shown, n positions.
            cropped: bool (n,), which are random crops already; None: none.
        """
        done = np.zeros(len(labels), dtype=bool) if cropped is None else cropped
        which = self.recipe_of[labels]
        if len(set(which.tolist())) == 1:
            return self._changed(x, self.recipes[which[0]], place, done)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        for number in sorted(set(which.tolist())):
            rows = np.flatnonzero(which == number)
            out[rows] = self._changed(x[rows], self.recipes[number], place.at(rows), done[rows])
        return out

    def _changed(self, x: torch.Tensor, recipe: Recipe, place: Place, cropped: np.ndarray) -> torch.Tensor:
        if recipe.random_resized_crop is not None:
            x = _cropped(x, recipe.random_resized_crop, place, cropped)
        if recipe.affine is not None:
            x = _moved(x, recipe.affine, place, self.fill)
        if recipe.rand_augment is not None:
            x = policies.rand_augment(x, recipe.rand_augment, place, self.fill)
        if recipe.trivial_augment is not None:
            x = policies.trivial_augment(x, recipe.trivial_augment.p, place, self.fill)
        if recipe.color_jitter is not None:
            x = _jittered(x, recipe.color_jitter, place)
        if recipe.random_erasing is not None:
            x = _erased(x, recipe.random_erasing, place, self.fill)
        return x


def _some(
    x: torch.Tensor,
    changed: np.ndarray,
    function: Callable[[torch.Tensor, np.ndarray], torch.Tensor],
    drawn: np.ndarray,
) -> torch.Tensor:
    """The images with those ``changed``, bool (n,), done by ``function``; the others keep their bits, and cost nothing."""
    rows = np.flatnonzero(changed)
    if len(rows) == len(changed):
        return function(x, drawn)
    x = x.clone()
    if len(rows):
        x[rows] = function(x[rows], drawn[rows])
    return x


def _cropped(x: torch.Tensor, section: RandomResizedCrop, place: Place, done: np.ndarray) -> torch.Tensor:
    height, width = x.shape[2:]
    boxes = draws.crop_boxes(place, height, width, section.scale, section.ratio, section.p)
    smaller = (boxes[:, 2:] != (height, width)).any(1) & ~done
    return _some(x, smaller, lambda some, m: geometry.warp(some, m, None), geometry.of_boxes(boxes, height, width))


def _moved(x: torch.Tensor, section: Affine, place: Place, fill: torch.Tensor) -> torch.Tensor:
    height, width = x.shape[2:]
    drawn = draws.uniform(place, Kind.AFFINE, 6)
    angle = draws.between(drawn[:, 1], -section.degrees, section.degrees)
    across = np.rint(draws.between(drawn[:, 2], -section.translate * width, section.translate * width))
    down = np.rint(draws.between(drawn[:, 3], -section.translate * height, section.translate * height))
    scale = draws.between(drawn[:, 4], section.scale[0], section.scale[1])
    shear = draws.between(drawn[:, 5], -section.shear, section.shear)
    matrices = geometry.inverse(
        angle, np.stack([across, down], axis=1), scale, np.stack([shear, np.zeros_like(shear)], axis=1)
    )
    return _some(x, draws.chosen(drawn[:, 0], section.p), lambda some, m: geometry.warp(some, m, fill), matrices)


def _jittered(x: torch.Tensor, section: ColorJitter, place: Place) -> torch.Tensor:
    drawn = draws.uniform(place, Kind.JITTER, 6)
    most = (section.brightness, section.contrast, section.saturation, section.hue)
    factors = np.stack(
        [draws.between(drawn[:, 1 + k], -m, m) + (0 if k == 3 else 1) for k, m in enumerate(most)], axis=1
    )
    order = _ORDERS[(drawn[:, 5] * len(_ORDERS)).astype(np.int64)]
    changed = draws.chosen(drawn[:, 0], section.p)
    x = x.clone()
    for step in range(4):
        for k in range(4):
            rows = np.flatnonzero(changed & (order[:, step] == k))
            if most[k] and len(rows):
                x[rows] = _JITTERS[k](x[rows], torch.from_numpy(factors[rows, k]).to(x.device, torch.float32))
    return x


def _erased(x: torch.Tensor, section: RandomErasing, place: Place, fill: torch.Tensor) -> torch.Tensor:
    channels, height, width = x.shape[1:]
    boxes = draws.erased_boxes(place, height, width, section.scale, section.ratio, section.p)
    rows = np.flatnonzero(boxes[:, 2] > 0)
    if not len(rows):
        return x
    if section.value == "random":
        words = -(-channels * height * width // 8)
        noise = (
            draws.raw(place.at(rows), Kind.NOISE, words).astype("<u8").view(np.uint8)[:, : channels * height * width]
        )
        new = torch.from_numpy(np.ascontiguousarray(noise).reshape(-1, channels, height, width)).to(x.device)
    else:
        level = {"black": torch.zeros_like(fill), "white": torch.full_like(fill, 255), "mean": fill}[section.value]
        new = level.to(x.device).view(1, channels, 1, 1)
    x = x.clone()
    x[rows] = torch.where(mixing.inside(boxes[rows], height, width, x.device), new, x[rows])
    return x
