"""Decode every image once, into memory-mapped uint8 arrays that all processes of a machine share.

The name of a cache's folder is a hash of what was read and how. A cache is built under a lock in a temporary folder,
which is then renamed, so that no process ever sees an incomplete one. Within a split, images are sorted by (label, hash
of the pixels): the same images from folders, CSV, Parquet or any other source give the same arrays, the same order of
samples and the same bits. The numbers of the classes do not depend on the source either: the names are sorted, by value
if all are whole numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from raysweep._paths import user_path
from raysweep.config.settings import DataSection
from raysweep.data import build
from raysweep.data.build import META, Progress
from raysweep.data.sources import open_source
from raysweep.errors import DataError

VERSION = 3  # part of every key: raise it when decoding, the order of classes or the choice of a split changes
T = TypeVar("T")


@dataclass(frozen=True)
class Images:
    """One split: ``pixels`` uint8 (n, H, W, C), memory-mapped and read-only; ``labels`` int64 (n,)."""

    pixels: np.ndarray
    labels: np.ndarray

    def counts(self, classes: Iterable[str]) -> dict[str, int]:
        """How many images each class has."""
        names = list(classes)
        found = np.bincount(self.labels, minlength=len(names))
        return {name: int(found[i]) for i, name in enumerate(names)}


@dataclass(frozen=True)
class Facts:
    """What is known of a data set without opening its images; small enough to be sent to other processes."""

    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # (height, width, channels) of every image
    val_images: int
    sha256: str
    skipped: tuple[dict[str, str], ...]
    folder: Path


@dataclass(frozen=True)
class Dataset:
    """Both splits of a data set.

    ``mean`` and ``std`` are per channel over the training pixels, in [0, 255]. ``sha256`` identifies classes, labels and
    pixels, whatever kind of file they came from.
    """

    classes: tuple[str, ...]
    train: Images
    val: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str
    skipped: tuple[dict[str, str], ...]
    folder: Path

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        h, w, c = self.train.pixels.shape[1:]
        return int(h), int(w), int(c)

    @property
    def facts(self) -> Facts:
        """The same without the images."""
        return Facts(self.classes, self.shape, len(self.val.labels), self.sha256, self.skipped, self.folder)


def load(data: DataSection, cache_dir: str | Path, progress: Progress | None = None) -> Dataset:
    """The data set of a configuration; decoded now unless a process of this machine has decoded it before.

    Args:
        data: what to read and how.
        cache_dir: folder that holds the caches.
        progress: called with (images decoded, images in all).

    Raises:
        DataError: the data cannot be read (see :func:`raysweep.data.build.build`), or the cache cannot be written.
    """
    from filelock import FileLock

    source = open_source(data)
    key = _key(_asked(source.fingerprint, data), data)
    base = user_path(cache_dir)
    folder = base / key
    cached = reopen(folder)
    if cached is not None:
        return cached
    try:
        base.mkdir(parents=True, exist_ok=True)
        with FileLock(str(base / f"{key}.lock")):
            cached = reopen(folder)  # another process may have built it while this one waited
            if cached is not None:
                return cached
            for left in (folder, *base.glob(f".tmp-{key}-*")):  # a damaged cache, or the leftovers of a killed builder
                shutil.rmtree(left, ignore_errors=True)
            listing = _asked(source.listing, data)
            temp = Path(tempfile.mkdtemp(prefix=f".tmp-{key}-", dir=base))
            try:
                build.build(temp, data, listing, progress)
                os.rename(temp, folder)
            finally:
                shutil.rmtree(temp, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"The image cache {folder} cannot be written: {error.strerror or error}. "
            "Free space, or name another folder with data.cache_dir."
        ) from None
    built = reopen(folder)
    if built is None:
        raise DataError(f"The image cache {folder} was damaged right after it was written. Delete it and try again.")
    return built


def _key(fingerprint: str, data: DataSection) -> str:
    """The name of the cache's folder: a hash of everything that its content depends on."""
    options = [data.image_size, data.channels, data.val_fraction, data.split_seed, data.on_bad_image]
    return hashlib.sha256(json.dumps([VERSION, fingerprint, *options]).encode()).hexdigest()[:20]


def _asked(question: Callable[[], T], data: DataSection) -> T:
    """The answer of a source. The source reads files for it, and any of them may be missing or not readable."""
    try:
        return question()
    except OSError as error:
        raise DataError(
            f"{error.filename or data.path} cannot be read: {error.strerror or error}. Check the path and its permissions."
        ) from None


def reopen(folder: str | Path) -> Dataset | None:
    """The cache in a folder; None if there is none, or if a file of it is missing or truncated."""
    folder = Path(folder)
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        parts = {}
        for split in ("train", "val"):
            pixels = np.load(folder / f"{split}_images.npy", mmap_mode="r")
            labels = np.load(folder / f"{split}_labels.npy")
            if list(pixels.shape) != meta["shapes"][split] or len(labels) != len(pixels):
                return None
            parts[split] = Images(pixels, labels)
        return Dataset(
            tuple(meta["classes"]),
            parts["train"],
            parts["val"],
            tuple(meta["mean"]),
            tuple(meta["std"]),
            meta["sha256"],
            tuple(meta["skipped"]),
            folder,
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
