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

from raysweep.config.settings import DataSection
from raysweep.data import arrays, copies, decode, integrity, pillow
from raysweep.data.listing import Item, Listing
from raysweep.data.pillow import USUAL, Decoded, Geometry
from raysweep.data.reading import UNDECODED, Cropped, LeftOut, Reading, Seal, most_common
from raysweep.data.roles import groups, seal
from raysweep.data.roles.sides import Hashed, Known, sided, without_copies
from raysweep.errors import DataError

META = "meta.json"
SEALED = "sealed_files.npy"
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

    def reading(
        self, listing: Listing, items: list[Item], validation: Mapping[str, int], geometry: Geometry
    ) -> Reading:
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
            on_test=listing.on_test,
            sizes=most_common(self.sizes),
            own_split=listing.val is None,
            fit=geometry.fit,
            background=geometry.background,
        )


@dataclass(frozen=True)
class _Decoded:
    """All images of a source, in the source's order; the entries of an image that cannot be decoded are zero."""

    pixels: arrays.ImageFile  # (n, side, side, channels)
    digests: np.ndarray  # S32 (n,): a hash of each image's pixels
    files: np.ndarray  # S32 (n,): a hash of each image's bytes
    seen: _Seen


def build(
    folder: Path,
    data: DataSection,
    listing: Listing,
    progress: Progress | None,
    known: Known | None = None,
    audited: bool = True,
) -> None:
    """Write the arrays of a data set, and ``meta.json`` last, into an empty folder.

    Args:
        progress: called with (images decoded, images in all).
        known: hashes of images whose role is fixed.
        audited: whether the bytes of sealed images are hashed now; else :func:`seal_later` does it. They always are where their
            training copies are to be taken out.

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
            decoded = _decode_all(folder / RAW, items, shape, pool, progress, geometry_of(data))
            sealed = seal.digests(listing.test) if audited or data.duplicates == copies.DROP_TRAIN else None
            _write(folder, data, listing, decoded, sealed, known)


def _write(
    folder: Path,
    data: DataSection,
    listing: Listing,
    decoded: _Decoded,
    sealed: np.ndarray | None,
    known: Known | None,
) -> None:
    """Write both splits and the record of them."""
    items = listing.train + (listing.val or [])
    seen = decoded.seen
    if seen.bad and data.on_bad_image == "error":
        raise _undecodable(items, seen.bad, data)
    labels = np.array([item.label for item in items], dtype=np.int64)
    of_group = groups.numbered(items)
    hashed = Hashed(labels, decoded.digests, decoded.files, frozenset(seen.bad), of_group)
    sides = sided(hashed, listing, data, known)
    parts, dropped = without_copies(sides.parts, hashed, listing, data, sealed)
    train, val = parts["train"], parts["val"]
    found = copies.groups(decoded.digests[train], labels[train], decoded.digests[val], labels[val])
    counted = copies.count(found, labels[train], labels[val], listing.classes, dropped)
    identity = hashlib.sha256(json.dumps(listing.classes).encode())
    for part, index in parts.items():
        _write_split(folder, part, index, decoded, labels, items, of_group)
        identity.update(labels[index].tobytes())
        identity.update(decoded.digests[index].tobytes())
    (folder / RAW).unlink()
    of_seal = Seal(len(listing.test), "") if listing.test else None
    if sealed is not None and of_seal is not None:
        np.save(folder / SEALED, sealed)
        files = {part: decoded.files[index] for part, index in parts.items()}
        of_seal = seal.of_items(listing.test, sealed, listing.classes, files, labels[train])
    mean, std = moments(arrays.ImageFile(folder / "train_images.npy").mapped)
    in_val = np.bincount(labels[parts["val"]], minlength=len(listing.classes))
    meta = {
        "classes": list(listing.classes),
        "shapes": {part: [len(index), *decoded.pixels.shape[1:]] for part, index in parts.items()},
        "mean": mean,
        "std": std,
        "sha256": identity.hexdigest(),
        "skipped": [{"image": items[i].name, "reason": why} for i, why in seen.bad.items()],
        "reading": replace(
            seen.reading(
                listing,
                items,
                {c: int(n) for c, n in zip(listing.classes, in_val, strict=True)},
                geometry_of(data),
            ),
            copies=counted,
            seal=of_seal,
            prior=sides.prior,
        ).to_json(),
        "hashes": {file.name: integrity.hashes(file) for file in sorted(folder.iterdir())},
    }
    integrity.write_signed(folder / META, meta)


def seal_later(folder: Path, listing: Listing) -> None:
    """Hash the sealed images of a cache that was built without."""
    meta = integrity.read_signed(folder / META)
    sealed = seal.digests(listing.test)
    files = {part: np.load(folder / f"{part}_files.npy") for part in ("train", "val")}
    of_seal = seal.of_items(listing.test, sealed, listing.classes, files, np.load(folder / "train_labels.npy"))
    temp = folder / f".tmp-{META}"
    np.save(folder / SEALED, sealed)
    meta["reading"] = replace(Reading.from_json(meta["reading"]), seal=of_seal).to_json()
    meta["hashes"][SEALED] = integrity.hashes(folder / SEALED)
    integrity.write_signed(temp, meta)
    os.replace(temp, folder / META)


def build_sealed(
    folder: Path, listing: Listing, form: tuple[int, int], progress: Progress | None, geometry: Geometry = USUAL
) -> None:
    """Write the arrays of the test images, and ``meta.json`` last, into an empty folder. What cannot be decoded is recorded.

    Args:
        form: (side, channels) of every image.
    """
    items = list(listing.test)
    shape = (len(items), form[0], *form)
    with (
        pillow.quiet(),
        ThreadPoolExecutor(max_workers=min(16, (os.cpu_count() or 2) + 2)) as pool,
        arrays.space(folder, 2 * int(np.prod(shape))),
    ):
        decoded = _decode_all(folder / RAW, items, shape, pool, progress, geometry)
        labels = np.array([item.label for item in items], dtype=np.int64)
        good = np.array([i for i in range(len(items)) if i not in decoded.seen.bad], dtype=np.int64)
        order = good[np.lexsort((decoded.digests[good], labels[good]))]
        _write_split(folder, "test", order, decoded, labels, items, groups.numbered(items))
        (folder / RAW).unlink()
    meta = {
        "classes": list(listing.classes),
        "sha256": seal.sha256(decoded.files.tolist(), labels.tolist(), listing.classes),
        "undecodable": [
            {"name": items[i].name, "of_class": listing.classes[items[i].label], "reason": why}
            for i, why in decoded.seen.bad.items()
        ],
        "hashes": {file.name: integrity.hashes(file) for file in sorted(folder.iterdir())},
    }
    integrity.write_signed(folder / META, meta)


def _decode_all(
    file: Path,
    items: list[Item],
    shape: tuple[int, ...],
    pool: ThreadPoolExecutor,
    progress: Progress | None,
    geometry: Geometry,
) -> _Decoded:
    """Decode every image into one array, which lies in ``file``."""
    digests = np.zeros(len(items), dtype="S32")
    files = np.zeros(len(items), dtype="S32")
    seen = _Seen()
    nothing = bytes(int(np.prod(shape[1:])))
    with arrays.create(file, shape) as out:

        def read(item: Item) -> tuple[Decoded | str, bytes]:
            return decode.decode(item, shape[1], shape[3], geometry), seal.file_digest(item)

        for i, (result, files[i]) in enumerate(pool.map(read, items)):
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
    return _Decoded(arrays.ImageFile(file), digests, files, seen)


def geometry_of(data: DataSection) -> Geometry:
    """How the images of a data set become squares."""
    return Geometry(data.fit, data.background)


def _form(items: list[Item], data: DataSection, pool: ThreadPoolExecutor) -> tuple[int, int]:
    """(side, channels) of the data set; headers are read only where the user leaves one of the two open."""
    if data.image_size is not None and data.channels is not None:
        return data.image_size, data.channels
    headers = [h for h in pool.map(decode.header, items) if h is not None]
    return decode.common_form(headers, data.image_size, data.channels, data.fit)


def _undecodable(items: list[Item], bad: Mapping[int, str], data: DataSection) -> DataError:
    first = "; ".join(f"{items[i].name} ({why})" for i, why in list(bad.items())[:MAX_REPORTED])
    more = f" and {len(bad) - MAX_REPORTED} more" if len(bad) > MAX_REPORTED else ""
    return DataError(
        f"{len(bad)} of {len(items)} images under {data.path} cannot be decoded: {first}{more}. Repair or remove them, or "
        "set data.on_bad_image=skip to omit them; the experiment then records which ones were skipped."
    )


def _write_split(
    folder: Path,
    part: str,
    index: np.ndarray,
    decoded: _Decoded,
    labels: np.ndarray,
    items: list[Item],
    of_group: np.ndarray | None,
) -> None:
    """Write the images, the labels, the hashes and the names of one split."""
    with arrays.create(folder / f"{part}_images.npy", (len(index), *decoded.pixels.shape[1:])) as out:
        for start in range(0, len(index), _COPIED_AT_ONCE):
            out.write(decoded.pixels.take(index[start : start + _COPIED_AT_ONCE]).data)
    np.save(folder / f"{part}_labels.npy", labels[index])
    np.save(folder / f"{part}_digests.npy", decoded.digests[index])
    np.save(folder / f"{part}_files.npy", decoded.files[index])
    if of_group is not None:
        np.save(folder / f"{part}_groups.npy", of_group[index])
    (folder / f"{part}_names.json").write_text(json.dumps([items[i].name for i in index]), encoding="utf-8")


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
