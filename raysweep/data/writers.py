"""Write the images of a cache while they are decoded: as pixels, or encoded. Each image is written once, and never twice at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from raysweep.data import arrays, encoded, keep, places
from raysweep.data.listing import Item, Payload
from raysweep.data.pillow import Decoded
from raysweep.data.stored import Stored
from raysweep.data.storing import ENCODED, Way, encoded_bytes, pixels_bytes

_SUMMED_AT_ONCE = 1024  # images
Parts = Mapping[str, np.ndarray]  # split → the positions of its images in the source's order, int64


class Made(NamedTuple):
    """What a thread has made of an image."""

    content: Any  # what is written
    digest: bytes  # a hash of its pixels, decoded whole
    kept: Any = None


class Writer(Protocol):
    """Writes all images in the source's order, then divides them into splits."""

    def needed(self, items: list[Item]) -> int:
        """How many bytes the images take on the disk at most."""

    def open(self) -> AbstractContextManager[Any]:
        """Around the calls of :meth:`add`."""

    def source(self, payload: Payload) -> Payload:
        """What is decoded."""

    def made(self, payload: Payload, found: Decoded) -> Made:
        """In any thread: what becomes of an image."""

    def add(self, i: int, made: Made | None) -> None:
        """Write image ``i``; None where it cannot be decoded."""

    def divide(self, parts: Parts) -> None:
        """Make the files of the splits."""

    def identity(self, index: np.ndarray) -> bytes:
        """What tells the pixels of a training on these images from those of images decoded whole; empty where nothing does."""

    def moments(self, parts: Parts) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel of the training images, decoded whole."""

    def record(self, parts: Parts) -> Stored | None:
        """How the images are kept, for the record of the cache; None: as pixels."""


def writer(folder: Path, images: int, way: Way) -> Writer:
    """The writer for so many images."""
    return Encoded(folder, images, way) if way.kind == ENCODED else Pixels(folder, images, way)


def _digest(pixels: bytes) -> bytes:
    return hashlib.blake2b(pixels, digest_size=16).hexdigest().encode()


class Pixels:
    """One array of pixels for each split."""

    def __init__(self, folder: Path, images: int, way: Way) -> None:
        side, channels = way.form
        self.folder, self.shape = folder, (images, side, side, channels)
        self.nothing = bytes(side * side * channels)

    def needed(self, items: list[Item]) -> int:
        return arrays.peak(self.shape)

    def open(self) -> AbstractContextManager[Any]:
        self.file = arrays.create(self.folder / places.RAW, self.shape)
        return self.file

    def source(self, payload: Payload) -> Payload:
        return payload

    def made(self, payload: Payload, found: Decoded) -> Made:
        pixels = found.pixels.tobytes()
        return Made(pixels, _digest(pixels))

    def add(self, i: int, made: Made | None) -> None:
        self.file.write(self.nothing if made is None else made.content)

    def divide(self, parts: Parts) -> None:
        arrays.divide(self.folder / places.RAW, [(self.folder / places.images(p), index) for p, index in parts.items()])

    def identity(self, index: np.ndarray) -> bytes:
        return b""

    def moments(self, parts: Parts) -> tuple[list[float], list[float]]:
        return moments(arrays.ImageFile(self.folder / places.images("train")).mapped)

    def record(self, parts: Parts) -> Stored | None:
        return None


class Encoded:
    """One file with the bytes of all images, in the source's order, and an index for each split."""

    def __init__(self, folder: Path, images: int, way: Way) -> None:
        self.folder, self.way = folder, way
        self.rows = np.zeros(images, dtype=encoded.ROW)
        self.how = np.full(images, "", dtype="U6")
        self.sums = np.zeros((images, 2, way.form[1]), dtype=np.int64)  # of the values, of their squares
        self.others: dict[
            int, bytes
        ] = {}  # position → a hash of what the network sees, where the image decoded whole is another
        self.end = 0

    def needed(self, items: list[Item]) -> int:
        return encoded_bytes(items, self.way.form, self.way.large == keep.SHRINK)

    def open(self) -> AbstractContextManager[Any]:
        self.file = open(self.folder / places.ENCODED, "wb")  # noqa: SIM115
        return self.file

    def source(self, payload: Payload) -> Payload:
        return keep.content_of(payload)

    def made(self, payload: Payload, found: Decoded) -> Made:
        from xxhash import xxh3_64_intdigest

        kept = keep.keep(payload, found, self.way.large, self.way.geometry)
        values = found.pixels.reshape(-1, found.pixels.shape[2]).astype(np.int64)
        sums = np.stack([values.sum(0), (values * values).sum(0)])
        other = None if kept.pixels is None else _digest(kept.pixels.tobytes())
        return Made(
            kept.content,
            _digest(found.pixels.tobytes()),
            (xxh3_64_intdigest(kept.content), kept.size, kept.how, sums, other),
        )

    def add(self, i: int, made: Made | None) -> None:
        if made is None:
            return
        known, size, self.how[i], self.sums[i], other = made.kept
        self.file.write(made.content)
        self.rows[i] = (self.end, len(made.content), known, *size)
        self.end += len(made.content)
        if other is not None:
            self.others[i] = other

    def divide(self, parts: Parts) -> None:
        for part, index in parts.items():
            encoded.write_index(self.folder, part, self.rows[index])

    def identity(self, index: np.ndarray) -> bytes:
        changed = b"".join(self.others.get(i, b"-") for i in index.tolist())
        return changed if changed.strip(b"-") else b""

    def moments(self, parts: Parts) -> tuple[list[float], list[float]]:
        total, squares = self.sums[parts["train"]].sum(0)
        return _moments(total, squares, len(parts["train"]) * self.way.form[0] ** 2)

    def record(self, parts: Parts) -> Stored | None:
        index = np.concatenate(list(parts.values()))
        count = {how: int((self.how[index] == how).sum()) for how in (keep.KEPT, keep.SHRUNK, keep.EXACT)}
        others = sum(i in self.others for i in index.tolist())
        as_pixels = pixels_bytes(len(index), self.way.form)
        way = self.way
        return Stored(
            bytes=self.end,
            pixels_bytes=as_pixels,
            kept=count[keep.KEPT],
            shrunk=count[keep.SHRUNK],
            exact=count[keep.EXACT],
            other_pixels=others,
            large=way.large,
            fit=way.geometry.fit,
            background=way.geometry.background,
            why=way.why,
        )


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
    return _moments(total, squares, n)


def _moments(total: np.ndarray, squares: np.ndarray, n: int) -> tuple[list[float], list[float]]:
    mean = total / n
    std = np.sqrt(np.maximum(squares / n - mean * mean, 1.0))  # at least 1: constant images must not divide by zero
    return [float(m) for m in mean], [float(s) for s in std]
