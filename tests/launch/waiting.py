"""A network that waits in every batch while a file is there: a training lasts until something has happened to it, whatever the
machine, and computes next to nothing.

It imports nothing of raysweep's: an experiment keeps the text of what its network's module imports from the same folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

BATCH_S = 2.0  # not for ever: a training looks after each batch whether it shall stop


def sections(file: Path, free: int) -> dict[str, Any]:
    """Settings of a training that waits while ``file`` is there, after ``free`` batches."""
    return {"model": {"name": f"python:{__name__}:waiting", "options": {"file": str(file), "free": free}}}


def waiting(num_classes: int, channels: int, file: str, free: int, widths: object = None) -> nn.Module:
    from torch import nn

    batches = 0

    def wait(module: nn.Module, images: Any) -> None:
        nonlocal batches
        batches += module.training
        end = time.monotonic() + BATCH_S
        while module.training and batches > free and Path(file).exists() and time.monotonic() < end:
            time.sleep(0.05)

    network = nn.Sequential(
        *(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, num_classes)),
    )
    network.register_forward_pre_hook(wait)
    return network
