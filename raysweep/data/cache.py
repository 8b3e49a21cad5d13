"""Decode every image once, into memory-mapped uint8 arrays that all processes of a machine share.

A cache is a folder named by a hash of what was read and how. It is built under a lock in a temporary folder and
renamed, so that nobody ever sees half of one. Within a split, images are kept sorted by (label, hash of the pixels):
the same images from folders, CSV, Parquet or any other source give the same cache, the same order of samples and the
same bits. The numbers of the classes do not depend on the source either: their names are sorted, by value if all are
whole numbers.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from raysweep._paths import user_path
from raysweep.config.settings import DataSection
from raysweep.data.sources import Item, Listing, open_source
from raysweep.errors import DataError

VERSION = 3  # part of every key: raise it when decoding, the order of classes or the choice of a split changes
META = "meta.json"
SHOWN_BAD = 10
Progress = Callable[[int, int], None]
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
    """What there is to know of a data set without opening its images: small, and it travels between processes."""

    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # (height, width, channels) of every image
    val_images: int
    sha256: str
    skipped: tuple[dict[str, str], ...]
    folder: Path


@dataclass(frozen=True)
class Dataset:
    """Both splits. ``mean`` and ``std`` are per channel over the training pixels, in [0, 255]; ``sha256`` identifies
    classes, labels and pixels, whatever kind of file they came from."""

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
        return Facts(self.classes, self.shape, len(self.val.labels), self.sha256, self.skipped, self.folder)


def load(data: DataSection, cache_dir: str | Path, progress: Progress | None = None) -> Dataset:
    """The data set of a configuration, decoded now if no process of this machine has done so yet.

    Args:
        data: what to read and how.
        cache_dir: folder that holds the caches.
        progress: called with (images decoded, images in all).

    Raises:
        DataError: nothing to read, bad images, images of several sizes, fewer than two classes.
    """
    from filelock import FileLock

    source = open_source(data)
    key = hashlib.sha256(
        json.dumps(
            [
                VERSION,
                _asked(source.fingerprint, data),
                data.image_size,
                data.channels,
                data.val_fraction,
                data.split_seed,
                data.on_bad_image,
            ]
        ).encode()
    ).hexdigest()[:20]
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
            for left in (folder, *base.glob(f".tmp-{key}-*")):  # damaged, or of a builder that was killed
                shutil.rmtree(left, ignore_errors=True)
            listing = _asked(source.listing, data)
            temp = Path(tempfile.mkdtemp(prefix=f".tmp-{key}-", dir=base))
            try:
                _build(temp, data, listing, progress)
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


def _asked(question: Callable[[], T], data: DataSection) -> T:
    """What a source answers; it reads files for that, which may be gone or closed to this user."""
    try:
        return question()
    except OSError as error:
        raise DataError(f"{error.filename or data.path} cannot be read: {error.strerror or error}.") from None


def reopen(folder: str | Path) -> Dataset | None:
    """The cache in a folder, or None if there is none or a file of it is missing or short."""
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


def _opened(item: Item) -> Any:
    """The image as PIL sees it, not yet decoded."""
    from PIL import Image

    if isinstance(item.payload, np.ndarray):
        return Image.fromarray(item.payload)
    return Image.open(item.payload if isinstance(item.payload, Path) else io.BytesIO(item.payload))


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "not an image" if "cannot identify" in text else text


def _header(item: Item) -> tuple[tuple[int, int], bool] | None:
    """((width, height), is it gray) or None if the file cannot be opened; decoding will say why."""
    try:
        if isinstance(item.payload, np.ndarray):
            return (item.payload.shape[1], item.payload.shape[0]), item.payload.ndim == 2
        with _opened(item) as image:
            return image.size, image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")
    except Exception:
        return None


def _eight_bits(image: Any, form: str | None) -> Any:
    """16-bit gray reduced to its upper eight bits; PIL's own conversion would clip everything above 255 to white."""
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and form in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits; convert it to 8 bits")
    return image


def _decode(item: Item, size: int, channels: int) -> np.ndarray | str:
    """uint8 (size, size, channels), or what is wrong with the image."""
    from PIL import Image, ImageOps

    try:
        if isinstance(item.payload, np.ndarray) and item.payload.shape == (size, size) and channels == 1:
            return item.payload[:, :, None]
        with _opened(item) as opened:
            image = _eight_bits(ImageOps.exif_transpose(opened), opened.format).convert("L" if channels == 1 else "RGB")
        if image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        return np.asarray(image, dtype=np.uint8).reshape(size, size, channels)
    except Exception as error:  # PIL raises many kinds for broken files; each means: this is no image
        return _reason(error)


def decode_file(path: str | Path, size: int, channels: int) -> np.ndarray | str:
    """uint8 (size, size, channels) of one image file, brought to that form as the images of a training are; or what is wrong
    with it, in words."""
    return _decode(Item(str(path), 0, Path(path)), size, channels)


def _geometry(items: list[Item], data: DataSection, pool: ThreadPoolExecutor) -> tuple[int, int]:
    """(side, channels) that all images are brought to."""
    if data.image_size is not None and data.channels is not None:
        return data.image_size, data.channels
    headers = [h for h in pool.map(_header, items) if h is not None]
    sizes = sorted({size for size, _ in headers})
    channels = data.channels or (1 if all(gray for _, gray in headers) else 3)
    if data.image_size is not None:
        return data.image_size, channels
    if len(sizes) > 1 or (sizes and sizes[0][0] != sizes[0][1]):
        sides = sorted(min(size) for size, _ in headers)
        advice = min(224, max(8, sides[len(sides) // 2]))
        raise DataError(
            f"The images are not squares of one size: they go from {sizes[0][0]}×{sizes[0][1]} to {sizes[-1][0]}×{sizes[-1][1]} "
            f"pixels. Say what to bring them to: data.image_size={advice}."
        )
    return (sizes[0][0] if sizes else 48), channels


def _check(classes: tuple[str, ...], labels: np.ndarray, what: str) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    empty = [c for c, n in zip(classes, counts, strict=True) if n == 0]
    if empty:
        raise DataError(f"The {what} images have none of class {', '.join(empty)}. Add some, or remove the class.")


def _build(folder: Path, data: DataSection, listing: Listing, progress: Progress | None) -> None:
    items: list[Item] = listing.train + (listing.val or [])
    if not items:
        raise DataError(f"{data.path or data.source} holds no images.")
    if len(listing.classes) < 2:
        raise DataError(
            f"{data.path or data.source} has a single class ({listing.classes[0]!r}); a classifier needs at least two."
        )
    with ThreadPoolExecutor(max_workers=min(16, (os.cpu_count() or 2) + 2)) as pool:  # PIL decodes outside the GIL
        size, channels = _geometry(items, data, pool)
        raw = np.lib.format.open_memmap(
            folder / "raw.npy", mode="w+", dtype=np.uint8, shape=(len(items), size, size, channels)
        )
        digests = np.zeros(len(items), dtype="S32")
        bad: dict[int, str] = {}
        for i, result in enumerate(pool.map(lambda item: _decode(item, size, channels), items)):
            if isinstance(result, str):
                bad[i] = result
            else:
                raw[i] = result
                digests[i] = hashlib.blake2b(result.tobytes(), digest_size=16).hexdigest().encode()
            if progress is not None and (i % 100 == 99 or i + 1 == len(items)):
                progress(i + 1, len(items))
    if bad and data.on_bad_image == "error":
        shown = "; ".join(f"{items[i].name} ({why})" for i, why in list(bad.items())[:SHOWN_BAD])
        more = f" and {len(bad) - SHOWN_BAD} more" if len(bad) > SHOWN_BAD else ""
        raise DataError(
            f"{len(bad)} of {len(items)} images under {data.path} cannot be decoded: {shown}{more}. Repair or remove them, or "
            "set data.on_bad_image=skip to leave them out, which is recorded."
        )
    labels = np.array([item.label for item in items], dtype=np.int64)
    good = np.array([i for i in range(len(items)) if i not in bad], dtype=np.int64)
    order = good[np.lexsort((digests[good], labels[good]))]
    if listing.val is None:
        _check(listing.classes, labels[order], "readable")
        parts = _stratified_split(order, labels, data.val_fraction, data.split_seed, listing.classes)
    else:
        parts = {"train": order[order < len(listing.train)], "val": order[order >= len(listing.train)]}
        _check(listing.classes, labels[parts["train"]], "training")
        if len(parts["val"]) == 0:
            raise DataError(f"{data.path} has no validation images. Add some, or remove the split so that one is made.")
    identity = hashlib.sha256(json.dumps(listing.classes).encode())
    shapes = {}
    for split, index in parts.items():
        out = np.lib.format.open_memmap(
            folder / f"{split}_images.npy", mode="w+", dtype=np.uint8, shape=(len(index), size, size, channels)
        )
        for start in range(0, len(index), 4096):  # in pieces, so that memory stays bounded
            out[start : start + 4096] = raw[index[start : start + 4096]]
        out.flush()
        np.save(folder / f"{split}_labels.npy", labels[index])
        (folder / f"{split}_names.json").write_text(json.dumps([items[i].name for i in index]), encoding="utf-8")
        identity.update(labels[index].tobytes())
        identity.update(digests[index].tobytes())
        shapes[split] = list(out.shape)
        if split == "train":
            mean, std = _moments(out)
    del raw
    (folder / "raw.npy").unlink()
    meta = {
        "classes": list(listing.classes),
        "shapes": shapes,
        "mean": mean,
        "std": std,
        "sha256": identity.hexdigest(),
        "skipped": [{"image": items[i].name, "reason": why} for i, why in bad.items()],
    }
    (folder / META).write_text(json.dumps(meta), encoding="utf-8")


def _moments(pixels: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, summed in integers so that they are exact whatever the order."""
    n = 0
    total = np.zeros(pixels.shape[3], dtype=np.int64)
    squares = np.zeros(pixels.shape[3], dtype=np.int64)
    for start in range(0, len(pixels), 1024):
        block = pixels[start : start + 1024].astype(np.int64)
        total += block.sum((0, 1, 2))
        squares += (block * block).sum((0, 1, 2))
        n += block.shape[0] * block.shape[1] * block.shape[2]
    mean = total / n
    std = np.sqrt(np.maximum(squares / n - mean * mean, 1.0))  # at least 1: constant images must not divide by zero
    return [float(m) for m in mean], [float(s) for s in std]


def _stratified_split(
    order: np.ndarray, labels: np.ndarray, fraction: float, seed: int, classes: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Each class split alike; a class keeps at least one image on either side."""
    from raysweep.data.sampling import permutation

    val: list[np.ndarray] = []
    for label, name in enumerate(classes):
        of_class = order[labels[order] == label]
        if len(of_class) < 2:
            raise DataError(f"Class {name!r} has a single readable image, which cannot be split. Add images of it.")
        take = min(len(of_class) - 1, max(1, round(len(of_class) * fraction)))
        val.append(of_class[permutation(len(of_class), (seed, label))[:take]])
    in_val = np.isin(order, np.concatenate(val))
    return {"train": order[~in_val], "val": order[in_val]}
