"""Turn, move, scale, shear and crop the images of a batch, each in its own way, by one call of ``grid_sample``.

torchvision's kernels take one angle for a whole batch; these take one for each image, and give the same pixels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from raysweep.data.augment_draws import each


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Floats as uint8 pixels."""
    return x.round_().clamp_(0, 255).to(torch.uint8)


def inverse(
    angle: np.ndarray,
    move: np.ndarray,
    scale: np.ndarray,
    shear: np.ndarray,
    centre: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Where each pixel of the new image comes from, as torchvision's ``affine`` has it.

    Args:
        angle: float64 (n,), degrees, clockwise as images are shown.
        move: float64 (n, 2), pixels to the right and down.
        scale: float64 (n,).
        shear: float64 (n, 2), degrees, along the width and along the height.
        centre: of turning, scaling and shearing, in pixels right of and below the middle of the image.

    Returns:
        float64 (n, 2, 3): from (x, y, 1) to the old (x, y), in pixels from the middle.
    """
    turn, across, down = angle * (math.pi / 180), shear[:, 0] * (math.pi / 180), shear[:, 1] * (math.pi / 180)
    first, second = each(math.cos, turn - down), each(math.sin, turn - down)
    slant, level = each(math.tan, across), each(math.cos, down)
    a, b = first / level, -first * slant / level - each(math.sin, turn)
    c, d = second / level, -second * slant / level + each(math.cos, turn)
    out = np.stack([d, -b, -c, a], axis=1).reshape(-1, 2, 2) / scale[:, None, None]
    x, y = centre[0] + move[:, 0], centre[1] + move[:, 1]
    offset = np.stack(
        [centre[0] - out[:, 0, 0] * x - out[:, 0, 1] * y, centre[1] - out[:, 1, 0] * x - out[:, 1, 1] * y], axis=1
    )
    return np.concatenate([out, offset[:, :, None]], axis=2)


def of_boxes(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """The same for a part of each image that is scaled to the size of the whole: ``boxes`` int64 (n, 4), top, left, height, width."""
    top, left, high, wide = boxes.T.astype(np.float64)
    zero = np.zeros(len(boxes))
    across = np.stack([wide / width, zero, left + wide / 2 - width / 2], axis=1)
    down = np.stack([zero, high / height, top + high / 2 - height / 2], axis=1)
    return np.stack([across, down], axis=1)


def warp(x: torch.Tensor, matrices: np.ndarray, fill: torch.Tensor | None) -> torch.Tensor:
    """Images moved by :func:`inverse` or :func:`of_boxes`, with bilinear interpolation.

    Args:
        x: uint8 (n, C, H, W).
        fill: uint8 (C,), the colour of what comes from outside the image; None: that of its edge.

    Returns:
        uint8 (n, C, H, W).
    """
    channels, height, width = x.shape[1:]
    m = torch.from_numpy(matrices).to(torch.float32).to(x.device)[:, :, :, None, None]
    across = (torch.arange(width, device=x.device, dtype=torch.float32) - (width - 1) / 2)[None, None, :]
    down = (torch.arange(height, device=x.device, dtype=torch.float32) - (height - 1) / 2)[None, :, None]
    # multiplied and added one after another: a fused kernel would round otherwise at the end of an array than within it
    old_x = m[:, 0, 0] * across + m[:, 0, 1] * down + m[:, 0, 2]
    old_y = m[:, 1, 0] * across + m[:, 1, 1] * down + m[:, 1, 2]
    grid = torch.stack([old_x * (2 / width), old_y * (2 / height)], dim=3)
    shift = 0 if fill is None else fill.to(x.device, torch.float32).view(1, channels, 1, 1)
    mode = "border" if fill is None else "zeros"
    out = functional.grid_sample(
        x.to(torch.float32).contiguous() - shift, grid, mode="bilinear", padding_mode=mode, align_corners=False
    )
    return rounded(out + shift)
