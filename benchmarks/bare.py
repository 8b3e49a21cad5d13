"""The baseline of all comparisons: a bare training loop in plain PyTorch, with uint8 images in memory, no files and no framework."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from raysweep.config.settings import DataSection
from raysweep.data import cache
from raysweep.training import models

BATCH = 64


class Bare:
    """Data in memory, trained with the network, batch size, optimizer and augmentation of ``base.yaml``."""

    def __init__(self, cache_dir: Path, threads: int, start: dict[str, Any] | None = None) -> None:
        torch.set_num_threads(threads)
        data = cache.load(DataSection(source="faces"), cache_dir)
        self.classes = len(data.classes)
        self.x, self.y = (torch.from_numpy(a.copy()) for a in (data.train.pixels, data.train.labels))
        self.vx, self.vy = (torch.from_numpy(a.copy()) for a in (data.val.pixels, data.val.labels))
        self.mean, self.std = float(data.mean[0]), float(data.std[0])
        self.start = start

    def prepared(self, pixels: torch.Tensor) -> torch.Tensor:
        """Standardised float images (n, 1, H, W)."""
        return pixels.permute(0, 3, 1, 2).float().sub_(self.mean).div_(self.std)

    def varied(self, x: torch.Tensor) -> torch.Tensor:
        """A batch shifted and mirrored as a whole, which is cheaper than augmenting each image."""
        x = torch.roll(x, torch.randint(-4, 5, (2,)).tolist(), (2, 3))
        return x.flip(3) if torch.rand(()) < 0.5 else x

    def train(self, weights: dict[int, float], epochs: int, seed: int = 0) -> float:
        """Train a new network, or one from ``start``, with torch's weighted sampling; return the accuracy."""
        torch.manual_seed(seed)
        model = models.cnn(self.classes, 1).to(memory_format=torch.channels_last)
        if self.start is not None:
            model.load_state_dict(self.start)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.001, weight_decay=0.02)
        w = torch.tensor([weights.get(int(c), 1.0) for c in self.y], dtype=torch.float64)
        for _ in range(epochs):
            order = torch.multinomial(w, len(self.y), replacement=True)
            self._epoch(model, optimizer, order)
        return self.validate(model)

    def timed(self, model: nn.Module, epochs: int, ended: Callable[[], None]) -> None:
        """Train and validate ``epochs`` times; call ``ended`` after each epoch."""
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.001, weight_decay=0.02)
        for _ in range(epochs):
            self._epoch(model, optimizer, torch.randperm(len(self.y)))
            self.validate(model)
            ended()

    def _epoch(self, model: nn.Module, optimizer: torch.optim.Optimizer, order: torch.Tensor) -> None:
        model.train()
        for batch in order.split(BATCH):
            x = self.varied(self.prepared(self.x[batch]))
            optimizer.zero_grad()
            functional.cross_entropy(model(x), self.y[batch], label_smoothing=0.1).backward()
            optimizer.step()

    @torch.no_grad()
    def validate(self, model: nn.Module) -> float:
        model.eval()
        found = [model(self.prepared(x)).argmax(1) for x in self.vx.split(256)]
        return float((torch.cat(found) == self.vy).float().mean())
