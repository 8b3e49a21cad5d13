"""Build a cache: decode every image, sort the images, split them, and write the arrays that all processes share."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from raysweep._text import join_names
from raysweep.config.settings import DataSection
from raysweep.data import arrays, copies, decode, integrity, pillow
from raysweep.data.listing import Item, Listing
from raysweep.data.pillow import Decoded
from raysweep.data.reading import UNDECODED, Cropped, LeftOut, Reading, most_common
from raysweep.data.sampling import permutation
from raysweep.errors import DataError

META = "meta.json"
RAW = "raw.npy"  # while a cache is made
MAX_REPORTED = 10  # undecodable images that an error names
_REPORT_EVERY = 100  # images between two calls of ``progress``
_COPIED_AT_ONCE = 4096  # images, so that memory stays bounded
_SUMMED_AT_ONCE = 1024

Progress = Callable[[int, int], None]


@dataclass
class _Seen:
    """What decoding has met, image by image."""

    bad: dict[int, str] = field(default_factory=dict)  # position of an image that cannot be decoded → why
    cut: dict[int, float] = field(default_factory=dict)  # position of a cropped image → per cent of its area
    transparent: int = 0
    several: int = 0
    modes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)

    def add(self, i: int, found: Decoded) -> None:
        if found.cut_percent:
            self.cut[i] = found.cut_percent
        self.transparent += found.transparent
        self.several += found.several
        self.sizes[found.size] += 1
        if found.mode is not None:
            self.modes[found.mode] += 1

    def reading(self, listing: Listing, items: list[Item], validation: Mapping[str, int]) -> Reading:
        cropped = None
        if self.cut:
            most = max(self.cut, key=self.cut.__getitem__)
            mean = sum(self.cut.values()) / len(self.cut)
            cropped = Cropped(len(self.cut), mean, self.cut[most], items[most].name)
        bad = {UNDECODED: LeftOut.of(items[i].name for i in self.bad)} if self.bad else {}
        modes = dict(sorted(self.modes.items()))
        return Reading(
            {**listing.left_out, **bad},
            cropped,
            self.transparent,
            modes,
            validation,
            notes=listing.notes,
            several=self.several,
            sizes=most_common(self.sizes),
        )


@dataclass(frozen=True)
class _Decoded:
    """All images of a source, in the source's order; the entries of an image that cannot be decoded are zero."""

    pixels: arrays.ImageFile  # (n, side, side, channels)
    digests: np.ndarray  # S32 (n,): a hash of each image's pixels
    seen: _Seen


def build(folder: Path, data: DataSection, listing: Listing, progress: Progress | None) -> None:
    """Write the arrays of a data set, and ``meta.json`` last, into an empty folder.

    Args:
        progress: called with (images decoded, images in all).

    Raises:
        DataError: no images, fewer than two classes, undecodable images, images of several sizes, a class or a split
            without images, or too little space.
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
    # PIL decodes outside the GIL
    with pillow.quiet(), ThreadPoolExecutor(max_workers=min(16, (os.cpu_count() or 2) + 2)) as pool:
        form = _form(items, data, pool)
        shape = (len(items), form[0], *form)
        with arrays.space(folder, 2 * int(np.prod(shape))):  # all images in the source's order, and in the splits
            _write(folder, data, listing, _decode_all(folder / RAW, items, shape, pool, progress))


def _write(folder: Path, data: DataSection, listing: Listing, decoded: _Decoded) -> None:
    """Write both splits and the record of them."""
    items = listing.train + (listing.val or [])
    seen = decoded.seen
    if seen.bad and data.on_bad_image == "error":
        raise _undecodable(items, seen.bad, data)
    labels = np.array([item.label for item in items], dtype=np.int64)
    parts, dropped = _without_copies(_parts(decoded, labels, listing, data), decoded, labels, listing, data)
    train, val = parts["train"], parts["val"]
    found = copies.groups(decoded.digests[train], labels[train], decoded.digests[val], labels[val])
    counted = copies.count(found, labels[train], labels[val], listing.classes, dropped)
    identity = hashlib.sha256(json.dumps(listing.classes).encode())
    for split, index in parts.items():
        _write_split(folder, split, index, decoded, labels, items)
        identity.update(labels[index].tobytes())
        identity.update(decoded.digests[index].tobytes())
    (folder / RAW).unlink()
    mean, std = moments(arrays.ImageFile(folder / "train_images.npy").mapped)
    in_val = np.bincount(labels[parts["val"]], minlength=len(listing.classes))
    meta = {
        "classes": list(listing.classes),
        "shapes": {split: [len(index), *decoded.pixels.shape[1:]] for split, index in parts.items()},
        "mean": mean,
        "std": std,
        "sha256": identity.hexdigest(),
        "skipped": [{"image": items[i].name, "reason": why} for i, why in seen.bad.items()],
        "reading": replace(
            seen.reading(listing, items, {c: int(n) for c, n in zip(listing.classes, in_val, strict=True)}),
            copies=counted,
        ).to_json(),
        "hashes": {file.name: integrity.hashes(file) for file in sorted(folder.iterdir())},
    }
    integrity.write_signed(folder / META, meta)


def _decode_all(
    file: Path, items: list[Item], shape: tuple[int, ...], pool: ThreadPoolExecutor, progress: Progress | None
) -> _Decoded:
    """Decode every image into one array, which lies in ``file``."""
    digests = np.zeros(len(items), dtype="S32")
    seen = _Seen()
    nothing = bytes(int(np.prod(shape[1:])))
    with arrays.create(file, shape) as out:
        for i, result in enumerate(pool.map(lambda item: decode.decode(item, shape[1], shape[3]), items)):
            if isinstance(result, str):
                seen.bad[i] = result
                out.write(nothing)
            else:
                pixels = result.pixels.tobytes()
                out.write(pixels)
                digests[i] = hashlib.blake2b(pixels, digest_size=16).hexdigest().encode()
                seen.add(i, result)
            if progress is not None and ((i + 1) % _REPORT_EVERY == 0 or i + 1 == len(items)):
                progress(i + 1, len(items))
    return _Decoded(arrays.ImageFile(file), digests, seen)


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
    good = np.array([i for i in range(len(labels)) if i not in decoded.seen.bad], dtype=np.int64)
    order = good[np.lexsort((decoded.digests[good], labels[good]))]
    if listing.val is None:
        _check_classes(listing.classes, labels[order], "readable")
        return stratified_split(order, labels, data.val_fraction, data.split_seed, listing.classes, decoded.digests)
    parts = {"train": order[order < len(listing.train)], "val": order[order >= len(listing.train)]}
    _check_classes(listing.classes, labels[parts["train"]], "training")
    if len(parts["val"]) == 0:
        raise DataError(
            f"{data.path} has no validation images. Add some, or remove the split; raysweep then makes one itself."
        )
    return parts


def _without_copies(
    parts: dict[str, np.ndarray], decoded: _Decoded, labels: np.ndarray, listing: Listing, data: DataSection
) -> tuple[dict[str, np.ndarray], int]:
    """(the split without the copies that ``data.duplicates`` takes out, their number)."""
    train, val = parts["train"], parts["val"]
    shared = np.intersect1d(decoded.digests[train], decoded.digests[val])
    if not len(shared):
        return parts, 0
    in_train, in_val = (np.isin(decoded.digests[index], shared) for index in (train, val))
    if data.duplicates == copies.DROP_TRAIN:
        left = {"train": train[~in_train], "val": val}
    elif data.duplicates == copies.DROP_VAL:
        left = {"train": train, "val": val[~in_val]}
    else:
        return parts, 0
    _check_classes(listing.classes, labels[left["train"]], "training")
    return left, len(train) + len(val) - len(left["train"]) - len(left["val"])


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
    with arrays.create(folder / f"{split}_images.npy", (len(index), *decoded.pixels.shape[1:])) as out:
        for start in range(0, len(index), _COPIED_AT_ONCE):
            out.write(decoded.pixels.take(index[start : start + _COPIED_AT_ONCE]).data)
    np.save(folder / f"{split}_labels.npy", labels[index])
    np.save(folder / f"{split}_digests.npy", decoded.digests[index])
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
    order: np.ndarray,
    labels: np.ndarray,
    fraction: float,
    seed: int,
    classes: tuple[str, ...],
    digests: np.ndarray,
) -> dict[str, np.ndarray]:
    """Set the same fraction of each class aside for validation; each class keeps at least one image on either side.

    Images that have copies all go into training, so that equal pixels are never on both sides. A class that has nothing else
    gets no validation images.

    Args:
        order: positions of the images to split.
        labels: of all images, also of those that are not in ``order``.
        digests: a hash of each image's pixels, of all images, too.

    Raises:
        DataError: a class has a single image.
    """
    _, group, times = np.unique(digests[order], return_inverse=True, return_counts=True)
    repeated = np.zeros(len(labels), dtype=bool)
    repeated[order] = times[group] > 1
    val: list[np.ndarray] = []
    for label, name in enumerate(classes):
        of_class = order[labels[order] == label]
        if len(of_class) < 2:
            raise DataError(
                f"Class {name!r} has a single readable image, which cannot be split. Add more images of this class."
            )
        take = min(len(of_class) - 1, max(1, round(len(of_class) * fraction)))
        drawn = of_class[permutation(len(of_class), (seed, label))]
        val.append(drawn[~repeated[drawn]][:take])
    in_val = np.isin(order, np.concatenate(val))
    return {"train": order[~in_val], "val": order[in_val]}
