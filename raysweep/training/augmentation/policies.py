"""RandAugment (Cubuk et al. 2019, https://arxiv.org/abs/1909.13719) and TrivialAugment wide (Müller and Hutter 2021,
https://arxiv.org/abs/2103.10158), with torchvision's 14 operations and strengths. What comes from outside an image has the mean colour of the
training images, and is interpolated; torchvision takes black and the nearest pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from raysweep.config.augmentation import BINS, TRIVIAL_PIXELS, RandAugment
from raysweep.data import augment_draws as draws
from raysweep.data.augment_draws import Kind, Place
from raysweep.training.augmentation import colour, geometry

# In torchvision's order; the first eleven have a sign.
OPERATIONS = (
    *(
        "Identity",
        "ShearX",
        "ShearY",
        "TranslateX",
        "TranslateY",
        "Rotate",
        "Brightness",
        "Color",
        "Contrast",
        "Sharpness",
    ),
    *("Posterize", "Solarize", "AutoContrast", "Equalize"),
)
_SIGNED = 10  # operations from the first on, whose strength has a sign (of Identity it does not matter)
_MOVING = frozenset(("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"))
_BLENDS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "Brightness": colour.brightness,
    "Color": colour.saturation,
    "Contrast": colour.contrast,
    "Sharpness": colour.sharpness,
}


def strengths(wide: bool, height: int, width: int) -> dict[str, np.ndarray]:
    """Operation → its strength at each magnitude, float64 (BINS,). ``wide``: those of TrivialAugment."""
    steps = np.arange(BINS) / (BINS - 1)
    shear, turn, blend, bits = (0.99, 135.0, 0.99, 6) if wide else (0.3, 30.0, 0.9, 4)
    across, down = (TRIVIAL_PIXELS, TRIVIAL_PIXELS) if wide else (150 / 331 * width, 150 / 331 * height)
    return {
        "Identity": 0 * steps,
        **dict.fromkeys(("ShearX", "ShearY"), steps * shear),
        "TranslateX": np.trunc(steps * across),
        "TranslateY": np.trunc(steps * down),
        "Rotate": steps * turn,
        **dict.fromkeys(_BLENDS, steps * blend),
        "Posterize": 8 - np.rint(steps * bits),
        "Solarize": 255 * (1 - steps),
        **dict.fromkeys(("AutoContrast", "Equalize"), 0 * steps),
    }


def rand_augment(x: torch.Tensor, section: RandAugment, place: Place, fill: torch.Tensor) -> torch.Tensor:
    """``num_ops`` operations of one magnitude, drawn for each image; uint8 (n, C, H, W) in and out."""
    n, table = len(place.positions), strengths(False, *x.shape[2:])
    drawn = draws.uniform(place, Kind.RAND, 1 + 2 * section.num_ops)
    changed = draws.chosen(drawn[:, 0], section.p)
    for k in range(section.num_ops):
        which = (drawn[:, 1 + 2 * k] * len(OPERATIONS)).astype(np.int64)
        which[~changed] = 0
        x = apply(x, which, np.full(n, section.magnitude), drawn[:, 2 + 2 * k] < 0.5, table, fill)
    return x


def trivial_augment(x: torch.Tensor, p: float, place: Place, fill: torch.Tensor) -> torch.Tensor:
    """One operation of any magnitude, drawn for each image; uint8 (n, C, H, W) in and out."""
    drawn = draws.uniform(place, Kind.TRIVIAL, 4)
    which = (drawn[:, 1] * len(OPERATIONS)).astype(np.int64)
    which[~draws.chosen(drawn[:, 0], p)] = 0
    magnitude = (drawn[:, 2] * BINS).astype(np.int64)
    return apply(x, which, magnitude, drawn[:, 3] < 0.5, strengths(True, *x.shape[2:]), fill)


def apply(
    x: torch.Tensor,
    which: np.ndarray,
    magnitude: np.ndarray,
    negative: np.ndarray,
    table: dict[str, np.ndarray],
    fill: torch.Tensor,
) -> torch.Tensor:
    """One operation on each image, of all images that have the same one at once.

    Args:
        which: int64 (n,), of :data:`OPERATIONS`. magnitude: int64 (n,). negative: bool (n,), the sign where there is one.
    """
    names = np.array(OPERATIONS)[which]
    value = np.array(
        [table[name][m] for name, m in zip(names.tolist(), magnitude.tolist(), strict=True)], dtype=np.float64
    )
    value = np.where(negative & (which < _SIGNED), -value, value)
    x = x.clone()
    moving = np.flatnonzero(np.isin(names, list(_MOVING)))
    if len(moving):
        matrices = _matrices(names[moving], value[moving], *x.shape[2:])
        x[moving] = geometry.warp(x[moving], matrices, fill)
    for name in sorted(set(names.tolist()) - _MOVING - {"Identity"}):
        rows = np.flatnonzero(names == name)
        x[rows] = _coloured(name, x[rows], torch.from_numpy(value[rows]).to(x.device, torch.float32))
    return x


def _matrices(names: np.ndarray, value: np.ndarray, height: int, width: int) -> np.ndarray:
    """float64 (n, 2, 3), as :func:`geometry.inverse`. Shearing keeps the upper left corner, turning the middle."""

    def only(name: str) -> np.ndarray:
        return np.where(names == name, value, 0.0)

    def slant(name: str) -> np.ndarray:
        return draws.each(math.atan, only(name)) * (180 / math.pi)

    move = np.stack([only("TranslateX"), only("TranslateY")], axis=1)
    shear, one = np.stack([slant("ShearX"), slant("ShearY")], axis=1), np.ones(len(names))
    turned = geometry.inverse(-only("Rotate"), move, one, 0 * shear)
    sheared = geometry.inverse(0 * one, 0 * move, one, shear, (-width / 2, -height / 2))
    return np.where(np.isin(names, ["ShearX", "ShearY"])[:, None, None], sheared, turned)


def _coloured(name: str, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    if name in _BLENDS:
        return _BLENDS[name](x, 1 + value)
    if name == "Posterize":
        return colour.posterize(x, value)
    if name == "Solarize":
        return colour.solarize(x, value)
    from torchvision.transforms.v2 import functional  # importing it takes a second

    found: torch.Tensor = functional.autocontrast(x) if name == "AutoContrast" else functional.equalize(x)
    return found
