"""An augmentation of the user: ``training.augment=python:MODULE:NAME``, a function of a batch of images.

It is called with images, float32 (n, channels, height, width) in [0, 1], and with ``generator``, if it takes one: a
``torch.Generator`` on the device of the images, seeded by the seed, the epoch and the position of the first image in the epoch.
It returns images of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from raysweep.training import own
from raysweep.training.own import Own

OPTION = "training.augment.own"
_STREAM = 77  # apart from the other streams of a seed
Function = Callable[[torch.Tensor], torch.Tensor]


def of_batch(code: Own, seed: int, epoch: int, position: int) -> Function:
    """The augmentation of the images from ``position`` of an epoch on."""

    def augment(images: torch.Tensor) -> torch.Tensor:
        more = {}
        if own.takes(code.found, "generator"):
            mixed = int(np.random.SeedSequence([seed, _STREAM, epoch, position]).generate_state(1, np.uint64)[0])
            more = {"generator": torch.Generator(images.device).manual_seed(mixed % 2**63)}
        out: Any = code.found(images, **more)
        if not isinstance(out, torch.Tensor) or out.shape != images.shape or not out.is_floating_point():
            told = f"{out.dtype} {tuple(out.shape)}" if isinstance(out, torch.Tensor) else type(out).__name__
            raise code.wrong(
                f"returned {told} for images float32 {tuple(images.shape)}. Return images of that shape, in [0, 1]."
            )
        return out.float()

    return augment


def tried(code: Own, shape: tuple[int, int, int]) -> list[str]:
    """Augment a few made-up images twice with the same random numbers; returns why the bits would differ.

    Args:
        shape: of an image, (height, width, channels).

    Raises:
        ConfigError: it fails, or returns something else.
    """
    height, width, channels = shape
    found = []
    for _ in range(2):
        with code.tried():
            if not callable(code.found):
                raise code.wrong("is no function of images.")
            images = torch.rand(4, channels, height, width, generator=torch.Generator().manual_seed(1))
            found.append(of_batch(code, 0, 1, 0)(images))
    if torch.equal(found[0], found[1]):
        return []
    return [f"python:{code.target} (training.augment) draws random numbers from a generator of its own"]
