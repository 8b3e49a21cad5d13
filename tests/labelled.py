"""Small images with several labels, or none: each label is a bright part of the image."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LABELS = ("disc", "ring", "star")
RATES = (0.4, 0.25, 0.12)


def draw(folder: Path, images: int = 120, seed: int = 0, size: int = 12, split: bool = False) -> Path:
    """Draws them, and a list ``list.csv`` with the columns path and labels, and if asked for split; returns the list."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = []
    for i in range(images):
        has = rng.random(3) < RATES
        pixels = rng.normal(90, 25, (size, size))
        for c in np.flatnonzero(has):
            pixels[4 * c : 4 * c + 4] += 60
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{i:04}.png")
        role = ("train", "train", "val", "test")[i % 4]
        rows.append([f"{i:04}.png", "|".join(np.array(LABELS)[has]), *([role] if split else [])])
    with open(folder / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "labels", *(["split"] if split else [])], *rows])
    return folder / "list.csv"


def sections(table: Path, **more: Any) -> dict[str, Any]:
    """The sections of a quick run on a list."""
    data = {"source": "auto", "path": str(table), "multi_label": True, **more.pop("data", {})}
    training = {"batch_size": 20, "augment": {"crop_padding": 1, "flip": False}, **more.pop("training", {})}
    return {
        "data": data,
        "training": training,
        "sampling": {"samples_per_epoch": None, **more.pop("sampling", {})},
        **more,
    }
