"""Shared by all tests: one image cache per session, small data, quick runs in this process, one Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="session", autouse=True)
def image_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Images are decoded once per session, not once per test root."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["RAYSWEEP_CACHE"] = str(folder)
    os.environ["COLUMNS"] = "160"
    yield folder
    del os.environ["RAYSWEEP_CACHE"]


def draw_classes(folder: Path, counts: dict[str, int], size: int = 12, seed: int = 0, suffix: str = ".png") -> None:
    """Class folders of small gray images whose brightness tells the class."""
    rng = np.random.default_rng(seed)
    for c, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(rng.normal(40 + 60 * c, 30, (size, size)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:04}{suffix}")


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """``train/`` and ``val/`` of three classes, 3 : 1 imbalanced."""
    folder = tmp_path / "images"
    draw_classes(folder / "train", {"cat": 30, "dog": 10, "eel": 20})
    draw_classes(folder / "val", {"cat": 9, "dog": 6, "eel": 6}, seed=1)
    return folder


SMALL_NET = {"name": "cnn", "options": {"widths": [4, 4, 8, 8]}}


def small_settings(root: Path, **sections: Any) -> Any:
    """Settings of a run that takes a second: the built-in digits, a tiny network."""
    from raysweep import config

    base = {
        "data": {"source": "digits"},
        "model": SMALL_NET,
        "training": {"epochs": 2, "batch_size": 200, "augment": {"crop_padding": 1, "flip": False}},
        "scaling": {"num_workers": 0, "threads": 1},
        "sampling": {"samples_per_epoch": 500},
        "experiment": {"name": "small"},
        "root": str(root),
    }
    return config.validate(config.merge(base, sections))


@pytest.fixture
def quick_run(tmp_path: Path) -> Callable[..., Any]:
    """Run a small experiment in this process; returns it."""

    def go(**sections: Any) -> Any:
        from raysweep.launch import run as launching

        return launching.run(launching.plan(small_settings(tmp_path / "experiments", **sections))).experiment

    return go


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster for all tests that need one."""
    from raysweep.launch import cluster

    cluster.connect(None)
    yield
    cluster.disconnect()
