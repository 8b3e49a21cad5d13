"""A small vision transformer (about 116,000 parameters) for colour images in plain PyTorch, like that of the old system."""

from __future__ import annotations

import torch
from torch import nn


class ViT(nn.Module):
    """48-pixel images in patches of 8: 36 tokens and a class token of width 64, three layers of four heads. Gray images
    are repeated in three channels."""

    def __init__(self, num_classes: int, width: int = 64, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 37, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x.expand(-1, 3, -1, -1)).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.places
        return self.head(self.body(x)[:, 0])


def build(num_classes: int, channels: int) -> nn.Module:
    """For ``model.name=python:benchmarks.vit:build``."""
    return ViT(num_classes)
