"""Build a cache: decode every image, sort the images, split them, and write the arrays that all processes share."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raysweep._text import join_names
from raysweep.config.settings import DataSection
from raysweep.data import decode
from raysweep.data.listing import Item, Listing
from raysweep.data.sampling import permutation
from raysweep.errors import DataError

META = "meta.json"
MAX_REPORTED = 10  # undecodable images that an error names
_REPORT_EVERY = 100  # images between two calls of ``progress``
_COPIED_AT_ONCE = 4096  # images, so that memory stays bounded
_SUMMED_AT_ONCE = 1024

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Decoded:
    """All images of a source, in the source's order; the entries of an image that cannot be decoded are zero."""

    pixels: np.ndarray  # uint8 (n, side, side, channels), memory-mapped
    digests: np.ndarray  # S32 (n,): a hash of each image's pixels
    bad: dict[int, str]  # position of an image that cannot be decoded → why


def build(folder: Path, data: DataSection, listing: Listing, progress: Progress | None) -> None:
    """Write the arrays of a data set, and ``meta.json`` last, into an empty folder.

    Args:
        progress: called with (images decoded, images in all).

    Raises:
        DataError: no images, fewer than two classes, undecodable images, images of several sizes, or a class or a split
            without images.
        OSError: the folder cannot be written.
    """
    items = listing.train + (listing.val or [])
    if not items:
        raise DataError(f"{data.path or data.source} holds no images. Add some, or correct data.path.")
    if len(listing.classes) < 2:
        raise DataError(
            f"{data.path or data.source} has a single class ({listing.classes[0]!r}), but a classifier needs at least two. "
            "Add images of another class, or correct data.path."
        )
    raw = folder / "raw.npy"
    decoded = _decode_all(raw, items, data, progress)
    if decoded.bad and data.on_bad_image == "error":
        raise _undecodable(items, decoded.bad, data)
    labels = np.array([item.label for item in items], dtype=np.int64)
    parts = _parts(decoded, labels, listing, data)
    identity = hashlib.sha256(json.dumps(listing.classes).encode())
    for split, index in parts.items():
        _write_split(folder, split, index, decoded, labels, items)
        identity.update(labels[index].tobytes())
        identity.update(decoded.digests[index].tobytes())
    raw.unlink()
    mean, std = moments(np.load(folder / "train_images.npy", mmap_mode="r"))
    meta = {
        "classes": list(listing.classes),
        "shapes": {split: [len(index), *decoded.pixels.shape[1:]] for split, index in parts.items()},
        "mean": mean,
        "std": std,
        "sha256": identity.hexdigest(),
        "skipped": [{"image": items[i].name, "reason": why} for i, why in decoded.bad.items()],
    }
    (folder / META).write_text(json.dumps(meta), encoding="utf-8")


def _decode_all(file: Path, items: list[Item], data: DataSection, progress: Progress | None) -> _Decoded:
    """Decode every image into one array, which is mapped from ``file``."""
    with ThreadPoolExecutor(max_workers=min(16, (os.cpu_count() or 2) + 2)) as pool:  # PIL decodes outside the GIL
        size, channels = _form(items, data, pool)
        shape = (len(items), size, size, channels)
        pixels = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
        digests = np.zeros(len(items), dtype="S32")
        bad: dict[int, str] = {}
        for i, result in enumerate(pool.map(lambda item: decode.decode(item, size, channels), items)):
            if isinstance(result, str):
                bad[i] = result
            else:
                pixels[i] = result
                digests[i] = hashlib.blake2b(result.tobytes(), digest_size=16).hexdigest().encode()
            if progress is not None and ((i + 1) % _REPORT_EVERY == 0 or i + 1 == len(items)):
                progress(i + 1, len(items))
    return _Decoded(pixels, digests, bad)


def _form(items: list[Item], data: DataSection, pool: ThreadPoolExecutor) -> tuple[int, int]:
    """(side, channels) of the data set; headers are read only where the user leaves one of the two open."""
    if data.image_size is not None and data.channels is not None:
        return data.image_size, data.channels
    headers = [h for h in pool.map(decode.header, items) if h is not None]
    return decode.common_form(headers, data.image_size, data.channels)


def _undecodable(items: list[Item], bad: Mapping[int, str], data: DataSection) -> DataError:
    first = "; ".join(f"{items[i].name} ({why})" for i, why in list(bad.items())[:MAX_REPORTED])
    more = f" and {len(bad) - MAX_REPORTED} more" if len(bad) > MAX_REPORTED else ""
    return DataError(
        f"{len(bad)} of {len(items)} images under {data.path} cannot be decoded: {first}{more}. Repair or remove them, or "
        "set data.on_bad_image=skip to omit them; the experiment then records which ones were skipped."
    )


def _parts(decoded: _Decoded, labels: np.ndarray, listing: Listing, data: DataSection) -> dict[str, np.ndarray]:
    """Split → positions of its images, sorted by (label, hash of the pixels).

    Raises:
        DataError: a class or a split has no images.
    """
    good = np.array([i for i in range(len(labels)) if i not in decoded.bad], dtype=np.int64)
    order = good[np.lexsort((decoded.digests[good], labels[good]))]
    if listing.val is None:
        _check_classes(listing.classes, labels[order], "readable")
        return stratified_split(order, labels, data.val_fraction, data.split_seed, listing.classes)
    parts = {"train": order[order < len(listing.train)], "val": order[order >= len(listing.train)]}
    _check_classes(listing.classes, labels[parts["train"]], "training")
    if len(parts["val"]) == 0:
        raise DataError(
            f"{data.path} has no validation images. Add some, or remove the split; raysweep then makes one itself."
        )
    return parts


def _check_classes(classes: tuple[str, ...], labels: np.ndarray, what: str) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    empty = [c for c, n in zip(classes, counts, strict=True) if n == 0]
    if empty:
        raise DataError(
            f"There are no {what} images of class {join_names(empty)}. Add some, or remove the class from the data."
        )


def _write_split(
    folder: Path, split: str, index: np.ndarray, decoded: _Decoded, labels: np.ndarray, items: list[Item]
) -> None:
    """Write the images, the labels and the names of one split."""
    out = np.lib.format.open_memmap(
        folder / f"{split}_images.npy", mode="w+", dtype=np.uint8, shape=(len(index), *decoded.pixels.shape[1:])
    )
    for start in range(0, len(index), _COPIED_AT_ONCE):
        out[start : start + _COPIED_AT_ONCE] = decoded.pixels[index[start : start + _COPIED_AT_ONCE]]
    out.flush()
    np.save(folder / f"{split}_labels.npy", labels[index])
    (folder / f"{split}_names.json").write_text(json.dumps([items[i].name for i in index]), encoding="utf-8")


def moments(pixels: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of uint8 (n, H, W, C).

    The sums are integers, so the result is exact whatever the order of the images.
    """
    n = 0
    total = np.zeros(pixels.shape[3], dtype=np.int64)
    squares = np.zeros(pixels.shape[3], dtype=np.int64)
    for start in range(0, len(pixels), _SUMMED_AT_ONCE):
        block = pixels[start : start + _SUMMED_AT_ONCE].astype(np.int64)
        total += block.sum((0, 1, 2))
        squares += (block * block).sum((0, 1, 2))
        n += block.shape[0] * block.shape[1] * block.shape[2]
    mean = total / n
    std = np.sqrt(np.maximum(squares / n - mean * mean, 1.0))  # at least 1: constant images must not divide by zero
    return [float(m) for m in mean], [float(s) for s in std]


def stratified_split(
    order: np.ndarray, labels: np.ndarray, fraction: float, seed: int, classes: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Set the same fraction of each class aside for validation; each class keeps at least one image on either side.

    Args:
        order: positions of the images to split.
        labels: of all images, also of those that are not in ``order``.

    Raises:
        DataError: a class has a single image.
    """
    val: list[np.ndarray] = []
    for label, name in enumerate(classes):
        of_class = order[labels[order] == label]
        if len(of_class) < 2:
            raise DataError(
                f"Class {name!r} has a single readable image, which cannot be split. Add more images of this class."
            )
        take = min(len(of_class) - 1, max(1, round(len(of_class) * fraction)))
        val.append(of_class[permutation(len(of_class), (seed, label))[:take]])
    in_val = np.isin(order, np.concatenate(val))
    return {"train": order[~in_val], "val": order[in_val]}
