"""Data loading and saving of the old system: a folder of JPEGs, PIL, a DataLoader with two workers and a
WeightedRandomSampler, and three full files per epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

BATCH, WORKERS = 64, 2


class Folder(Dataset):
    """Class folders of JPEGs, decoded at every access. torchvision's transforms shift and mirror them as in
    ``base.yaml``. Images are gray, or have three channels for the old system's networks."""

    def __init__(self, folder: Path, mean: float, std: float, train: bool, colour: bool) -> None:
        from torchvision import transforms

        names = sorted(p.name for p in folder.iterdir())
        self.items = [(p, i) for i, name in enumerate(names) for p in sorted((folder / name).iterdir())]
        varied = [transforms.RandomCrop(48, padding=4), transforms.RandomHorizontalFlip()] if train else []
        self.mode, n = ("RGB", 3) if colour else ("L", 1)
        last = [transforms.ToTensor(), transforms.Normalize([mean / 255] * n, [std / 255] * n)]
        self.transform = transforms.Compose([*varied, *last])

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        path, label = self.items[i]
        with Image.open(path) as image:
            return self.transform(image.convert(self.mode)), label


def write_jpegs(data: Any, folder: Path) -> None:
    """Write the images of a data set as class folders of JPEGs, ``train`` and ``val``."""
    for split, images in (("train", data.train), ("val", data.val)):
        for name in data.classes:
            (folder / split / name).mkdir(parents=True)
        for i, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
            Image.fromarray(pixels[:, :, 0]).save(folder / split / data.classes[label] / f"{i:05}.jpg", quality=95)


def epochs(
    folder: Path, model: nn.Module, count: int, moments: tuple[float, float], out: Path, colour: bool
) -> Iterator[int]:
    """Train, validate and save the three files of the old system; yield the number of each finished epoch."""
    train, val = (Folder(folder / part, *moments, part == "train", colour) for part in ("train", "val"))
    sampler = WeightedRandomSampler(torch.ones(len(train), dtype=torch.float64), len(train))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001, weight_decay=0.02)
    loader = DataLoader(train, BATCH, sampler=sampler, num_workers=WORKERS)
    check = DataLoader(val, 256, num_workers=WORKERS)
    for epoch in range(1, count + 1):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y, label_smoothing=0.1).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for x, _ in check:
                model(x).argmax(1)
        save(model, optimizer, epoch, out)
        yield epoch


def save(model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, out: Path) -> None:
    """Write the old system's three files: checkpoint, model, and the checkpoint again as the best one."""
    state = {
        "epoch": epoch,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "history": {},
    }
    torch.save(state, out / f"checkpoint_epoch_{epoch}.pt")
    torch.save(model.state_dict(), out / f"epoch_{epoch}_model.pt")
    torch.save(state, out / "best_checkpoint.pt")


def feed(folder: Path, moments: tuple[float, float]) -> float:
    """Images per second of the loader alone."""
    train = Folder(folder / "train", *moments, True, False)
    sampler = WeightedRandomSampler(torch.ones(len(train), dtype=torch.float64), len(train))
    loader = DataLoader(train, BATCH, sampler=sampler, num_workers=WORKERS)
    for _ in loader:  # the first pass reads the files from the disk
        pass
    started = time.perf_counter()
    n = sum(len(y) for _, y in loader)
    return n / (time.perf_counter() - started)
