"""Encoded images of one split, which lie in one file: read by plain calls, checked, and decoded ahead of the training.

Every image is checked by its own hash whenever it is read, so opening such a cache reads no image.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raysweep.data import integrity, keep, pillow, places
from raysweep.data.stored import Stored
from raysweep.errors import DataError

# of an image: where its bytes lie, their XXH3, and its width and height in pixels, upright
ROW = np.dtype([("start", "<i8"), ("size", "<i8"), ("hash", "<u8"), ("width", "<i4"), ("height", "<i4")])
AHEAD = 1 << 25  # bytes of pixels that are decoded before they are asked for
_AT_ONCE = 16  # images of one task of the pool


class _Pool:
    """The threads that decode, shared by all files of a process. Pillow decodes outside the interpreter's lock."""

    def __init__(self) -> None:
        self.threads = 0
        self.executor: ThreadPoolExecutor | None = None

    def get(self) -> ThreadPoolExecutor:
        if self.executor is None:
            from raysweep._machine import cpus_here

            self.threads = self.threads or min(16, cpus_here())
            self.executor = ThreadPoolExecutor(self.threads, "raysweep-decode")
        return self.executor


_pool = _Pool()


def _after_fork() -> None:
    _pool.executor = None  # its threads are the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def use_threads(count: int) -> None:
    """How many threads decode from now on: as many as the training has."""
    if count != _pool.threads:
        _pool.threads, _pool.executor = count, None


@dataclass(frozen=True)
class Asked:
    """A batch: the images at ``index``, int64 (b,), and of each the part ``boxes``, int64 (b, 4), top, left, height and width in
    pixels of the upright image; of height 0, or None: all of it, as it became a square."""

    index: np.ndarray
    boxes: np.ndarray | None = None

    def begins_with(self, other: Asked) -> bool:
        """Whether the first images of this batch are those of the other."""
        n = len(other.index)
        one, two = (np.zeros((len(a.index), 4)) if a.boxes is None else a.boxes for a in (self, other))
        return np.array_equal(self.index[:n], other.index) and np.array_equal(one[:n], two)

    def after(self, n: int) -> Asked:
        """The batch without its first images."""
        return Asked(self.index[n:], None if self.boxes is None else self.boxes[n:])


@dataclass(frozen=True)
class _Ordered:
    """A batch that is being decoded."""

    asked: Asked
    out: np.ndarray
    tasks: list[Future[None]]


class EncodedFile:
    """The images of one split, decoded when they are taken."""

    def __init__(self, folder: Path, part: str, shape: tuple[int, ...], stored: Stored) -> None:
        """
        Args:
            shape: (n, H, W, C).
            stored: how the images are kept.

        Raises:
            OSError: a file cannot be opened. ValueError: they do not fit each other.
        """
        self.path = folder / places.ENCODED
        self.shape = shape
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115  # closed with this object
        self._rows = np.load(folder / places.index(part))
        if self._rows.dtype != ROW or len(self._rows) != shape[0]:
            raise ValueError(f"{part} has another number of images than recorded")
        if os.fstat(self._file.fileno()).st_size != stored.bytes:
            raise ValueError(f"{self.path.name} has another length than when it was written")
        self._geometry, self._draft = stored.geometry, stored.large in (keep.DRAFT, keep.CROP)
        self.crops = stored.large == keep.CROP  # whether parts of large images may be taken
        self._next: Iterator[Asked] = iter(())
        self._waiting: deque[_Ordered] = deque()

    def __len__(self) -> int:
        return self.shape[0]

    def ahead(self, batches: Iterable[Asked]) -> None:
        """Say which images will be taken next, batch by batch, so that they are decoded while others are trained on. A batch may be
        taken in several parts, one after the other.

        What :meth:`take` returns does not depend on it.
        """
        for ordered in self._waiting:
            for task in ordered.tasks:
                task.cancel()
        self._waiting.clear()
        self._next = iter(batches)
        self._fill_up()

    def sizes(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Height and width in pixels of the images at ``index``, int64 (b,) each; 0 for those of which no part may be taken."""
        rows = self._rows[index]
        height, width = rows["height"].astype(np.int64), rows["width"].astype(np.int64)
        large = keep.is_large(width, height, self.shape[1]) & self.crops
        return np.where(large, height, 0), np.where(large, width, 0)

    def take(self, index: np.ndarray, boxes: np.ndarray | None = None) -> np.ndarray:
        """The images at ``index``, or parts of them, as in :class:`Asked`: uint8 (b, H, W, C).

        Raises:
            DataError: bytes have changed since they were written, or cannot be read any more.
        """
        asked, n = Asked(index, boxes), len(index)
        if self._waiting and self._waiting[0].asked.begins_with(asked):
            ordered = self._waiting.popleft()
            if n < len(ordered.out):  # the rest of a batch that is taken in several parts
                self._waiting.appendleft(_Ordered(ordered.asked.after(n), ordered.out[n:], ordered.tasks))
            self._fill_up()
        else:
            ordered = self._start(asked)
        for task in ordered.tasks:
            task.result()
        return ordered.out[:n]

    def content(self, i: int) -> bytes:
        """The bytes of image ``i``, checked. Raises as :meth:`take` does."""
        from xxhash import xxh3_64_intdigest

        start, size, known, *_ = self._rows[i].tolist()
        try:
            content = os.pread(self._file.fileno(), size, start)
        except OSError as error:
            raise self._lost(f"cannot be read any more: {error.strerror or error}") from None
        if len(content) != size:
            raise self._lost("was cut short while it was in use")
        if xxh3_64_intdigest(content) != known:
            raise self._lost(f"has changed between bytes {start:,} and {start + size:,} since it was written")
        return content

    def _fill_up(self) -> None:
        pending = sum(ordered.out.nbytes for ordered in self._waiting)
        while pending < AHEAD:
            asked = next(self._next, None)
            if asked is None:
                return
            self._waiting.append(self._start(asked))
            pending += self._waiting[-1].out.nbytes

    def _start(self, asked: Asked) -> _Ordered:
        out = np.empty((len(asked.index), *self.shape[1:]), dtype=np.uint8)
        pool, positions = _pool.get(), asked.index.tolist()
        boxes: list[Any] = [None] * len(positions)
        if asked.boxes is not None:
            boxes = [tuple(box) if box[2] else None for box in asked.boxes.tolist()]
        each = max(1, min(_AT_ONCE, len(positions) // _pool.threads))
        tasks = [
            pool.submit(self._decode, positions[a : a + each], boxes[a : a + each], out[a : a + each])
            for a in range(0, len(positions), each)
        ]
        return _Ordered(asked, out, tasks)

    def _decode(self, positions: list[int], boxes: list[pillow.Box | None], out: np.ndarray) -> None:
        side, channels = self.shape[2:]
        for i, box, image in zip(positions, boxes, out, strict=True):
            content = self.content(i)
            try:
                image[:] = pillow.decode_here(content, side, channels, self._geometry, self._draft, box).pixels
            except Exception as error:  # Pillow raises many kinds; the bytes are those that could be decoded before
                raise DataError(
                    f"An image in {self.path} cannot be decoded any more ({pillow.reason(error)}), although its bytes have not changed. "
                    "Another version of Pillow may be the reason; install the one from before, or delete this folder and go on with "
                    "`raysweep continue`, which reads the images again."
                ) from None

    def _lost(self, what: str) -> DataError:
        return DataError(integrity.given_up(self.path.parent, f"{self.path.name} {what}"))


def write_index(folder: Path, part: str, rows: Any) -> None:
    """Write where the images of a split lie."""
    np.save(folder / places.index(part), np.array(rows, dtype=ROW))
