"""A network that waits in every batch while a file is there: a training lasts until something has happened to it, whatever the
machine, and computes next to nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

BATCH_S = 2.0  # not for ever: a training looks after each batch whether it shall stop


def sections(file: Path, free: int) -> dict[str, Any]:
    """Settings of a training that waits while ``file`` is there, after ``free`` batches."""
    options = {"file": str(file), "free": free, "widths": [4, 4, 8, 8]}
    return {"model": {"name": f"python:{__name__}:waiting", "options": options}}


def waiting(num_classes: int, channels: int, file: str, free: int, widths: list[int]) -> nn.Module:
    from raysweep.training import models

    batches = 0

    def wait(module: nn.Module, images: Any) -> None:
        nonlocal batches
        batches += module.training
        end = time.monotonic() + BATCH_S
        while module.training and batches > free and Path(file).exists() and time.monotonic() < end:
            time.sleep(0.05)

    network = models.cnn(num_classes, channels, tuple(widths))
    network.register_forward_pre_hook(wait)
    return network
