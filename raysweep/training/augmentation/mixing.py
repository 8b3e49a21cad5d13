"""Mixup (Zhang et al. 2018, https://arxiv.org/abs/1710.09412) and CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899).

An image is mixed with the one before it in its batch (before its repeats), the first with the last. Each is so once the image itself and once the
partner of another. The image itself always has the larger part: with random partners, mixtures (a, b) of share s and (b, a) of 1 - s
come equally often, so no mixture becomes more or less frequent, and the class of the image stays the largest part of
its target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from raysweep.config.augmentation import Cutmix, Mixup
from raysweep.data import augment_draws as draws
from raysweep.data.augment_draws import Kind, Place
from raysweep.training.losses import Mixed


def partners(positions: np.ndarray, start: int, stop: int, repeats: int) -> np.ndarray:
    """The position of the image that each is mixed with, int64 (n,), in the global batch ``[start, stop)``."""
    return start + (positions - start - repeats) % (stop - start)


@dataclass(frozen=True)
class Drawn:
    """How images are mixed. ``share`` float64 (n,) of the image itself, 0.5 to 1; ``boxes`` int64 (n, 4) the part that comes from the
    partner, top, left, height, width; of height 0 where the whole images are blended."""

    share: np.ndarray
    boxes: np.ndarray


def drawn(mixup: Mixup | None, cutmix: Cutmix | None, place: Place, height: int, width: int) -> Drawn:
    """How each image is mixed. With both ways, half of the images take each."""
    both = draws.uniform(place, Kind.MIX, 5)
    cut = np.full(len(both), mixup is None) if mixup is None or cutmix is None else both[:, 0] < 0.5
    share, boxes = np.ones(len(both)), np.zeros((len(both), 4), dtype=np.int64)
    for section, rows in ((mixup, np.flatnonzero(~cut)), (cutmix, np.flatnonzero(cut))):
        if section is None:
            continue
        rows = rows[draws.chosen(both[rows, 1], section.p)]
        share[rows] = _shares(both[rows, 2], section.alpha)
        if section is cutmix:
            boxes[rows] = _boxes(share[rows], both[rows, 3:], height, width)
            share[rows] = 1 - boxes[rows, 2] * boxes[rows, 3] / (height * width)
    return Drawn(share, boxes)


def _shares(uniform: np.ndarray, alpha: float) -> np.ndarray:
    """The larger of b and 1 - b, of b from Beta(alpha, alpha)."""
    from scipy.special import betaincinv

    smaller = betaincinv(alpha, alpha, uniform)
    found: np.ndarray = np.maximum(smaller, 1 - smaller)
    return found


def _boxes(share: np.ndarray, middle: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes of the images' form with ``1 - share`` of the area around a middle anywhere in the image, cut at its edges."""
    half = 0.5 * np.sqrt(1 - share)
    y, x = (middle[:, 0] * height).astype(np.int64), (middle[:, 1] * width).astype(np.int64)
    high, wide = (half * height).astype(np.int64), (half * width).astype(np.int64)
    top, left = np.maximum(0, y - high), np.maximum(0, x - wide)
    bottom, right = np.minimum(height, y + high), np.minimum(width, x + wide)
    empty = (bottom <= top) | (right <= left)
    boxes = np.stack([top, left, bottom - top, right - left], axis=1)
    return np.where(empty[:, None], 0, boxes)


def inside(boxes: np.ndarray, height: int, width: int, device: torch.device) -> torch.Tensor:
    """bool (n, 1, H, W): the pixels of each image that lie in its box."""
    b = torch.from_numpy(boxes).to(device)[:, :, None]
    rows, columns = torch.arange(height, device=device)[None], torch.arange(width, device=device)[None]
    of_rows = (rows >= b[:, 0]) & (rows < b[:, 0] + b[:, 2])
    of_columns = (columns >= b[:, 1]) & (columns < b[:, 1] + b[:, 3])
    return (of_rows[:, :, None] & of_columns[:, None, :])[:, None]


def mix(x: torch.Tensor, other: torch.Tensor, labels: torch.Tensor, found: Drawn) -> tuple[torch.Tensor, Mixed]:
    """(the mixed images, their targets) of float32 (n, C, H, W), their partners and the partners' labels int64 (n,)."""
    share = torch.from_numpy(found.share).to(x.device, torch.float32)
    cut = found.boxes[:, 2] > 0
    blended = torch.where(torch.from_numpy(cut).to(x.device), torch.ones_like(share), share).view(-1, 1, 1, 1)
    # not lerp: see colour._blend. What is not mixed has a share of 1, and stays as it is to the bit
    out = torch.where(blended < 1, x * blended + other * (1 - blended), x)
    if cut.any():
        out = torch.where(inside(found.boxes, x.shape[2], x.shape[3], x.device), other, out)
    return out, Mixed(labels, share)
