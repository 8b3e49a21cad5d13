"""Our own network, ``cnn``."""

from __future__ import annotations

import torch
from torch import nn


def _block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.body(x)
        return out


def cnn(
    num_classes: int, channels: int, widths: tuple[int, int, int, int] = (32, 32, 96, 224), dropout: float = 0.0
) -> nn.Module:
    """A small network for small images.

    It has a 5×5 stem with stride 2, because the first layers cost most on images of 48 pixels. Three stages of 3×3
    convolutions follow; the last two contain a residual block.

    Args:
        widths: channels of the stem and of the three stages.
        dropout: probability before the classifier. The dropout masks depend on the number of workers, so 0 keeps runs with
            different numbers of workers comparable.
    """
    a, b, c, d = widths
    return nn.Sequential(
        _block(channels, a, 5, 2),
        _block(a, b),
        nn.MaxPool2d(2, ceil_mode=True),
        _block(b, c),
        _Residual(_block(c, c)),
        nn.MaxPool2d(2, ceil_mode=True),
        _block(c, d),
        _Residual(_block(d, d)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout) if dropout else nn.Identity(),
        nn.Linear(d, num_classes),
    )
