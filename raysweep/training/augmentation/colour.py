"""Change the colours of the images of a batch, each by its own factor. Each function takes uint8 (n, C, H, W) and float32 (n,), and gives
uint8 (n, C, H, W), within one level of what torchvision's kernel gives for each image.

No reduction depends on the number of images: sums are those of whole numbers, which are exact.
"""

from __future__ import annotations

import torch

from raysweep.training.augmentation.geometry import rounded


def _blend(x: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    f = factor.view(-1, 1, 1, 1)
    # not lerp, nor add with alpha: a fused kernel would round otherwise at the end of an array than within it
    return rounded(x.to(torch.float32) * f + other * (1 - f))


def gray(x: torch.Tensor) -> torch.Tensor:
    """Luma, whole numbers as float32 (n, 1, H, W)."""
    if x.shape[1] == 1:
        return x.to(torch.float32)
    red, green, blue = x.to(torch.float32).unbind(1)
    return (red * 0.2989 + green * 0.587 + blue * 0.114).floor_().unsqueeze(1)


def brightness(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Times the factor."""
    return rounded(x.to(torch.float32) * factor.view(-1, 1, 1, 1))


def contrast(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """The distance from the image's mean gray times the factor."""
    level = gray(x)
    mean = level.to(torch.int64).sum((1, 2, 3)).to(torch.float64) / level[0].numel()
    return _blend(x, mean.to(torch.float32).view(-1, 1, 1, 1), factor)


def saturation(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """The distance from gray times the factor."""
    return x if x.shape[1] == 1 else _blend(x, gray(x), factor)


def sharpness(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """The distance from the smoothed image times the factor. The edge stays."""
    if min(x.shape[2:]) <= 2:
        return x
    whole = x.to(torch.int32)
    height, width = x.shape[2:]
    total = 4 * whole[:, :, 1:-1, 1:-1]
    for dy in range(3):
        for dx in range(3):
            total = total + whole[:, :, dy : height - 2 + dy, dx : width - 2 + dx]
    smooth = x.to(torch.float32)
    smooth[:, :, 1:-1, 1:-1] = (total.to(torch.float32) / 13).round_()
    return _blend(x, smooth, factor)


def hue(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Colours turned by a part of their circle, -0.5 to 0.5."""
    if x.shape[1] == 1:
        return x
    rgb = x.to(torch.float32).div_(255).unbind(1)
    red, green = rgb[0], rgb[1]
    most, least = x.amax(1).to(torch.float32) / 255, x.amin(1).to(torch.float32) / 255
    span = most - least
    flat = span == 0
    safe = torch.where(flat, torch.ones_like(span), span)
    r, g, b = ((most - part) / safe for part in rgb)
    sector = torch.where(most == red, b - g, torch.where(most == green, r - b + 2, g - r + 4))
    angle = torch.where(flat, torch.zeros_like(span), sector / 6 % 1)
    angle = (angle + turn.view(-1, 1, 1)) % 1
    full = torch.where(flat, torch.zeros_like(span), span / torch.where(most == 0, torch.ones_like(most), most))
    part = []
    for offset in (5, 3, 1):  # of red, green and blue
        k = (angle * 6 + offset) % 6
        part.append(most - most * full * torch.minimum(k, 4 - k).clamp(0, 1))
    return rounded(torch.stack(part, dim=1) * 255)


def posterize(x: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Only so many upper bits."""
    step = 2 ** (8 - bits.to(torch.int32)).view(-1, 1, 1, 1)
    return (x.to(torch.int32) // step * step).to(torch.uint8)


def solarize(x: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Pixels from the threshold on, 0 to 255, are inverted."""
    return torch.where(x.to(torch.float32) >= threshold.view(-1, 1, 1, 1), 255 - x, x)
