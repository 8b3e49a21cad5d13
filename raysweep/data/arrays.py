"""Images in ``.npy`` files: written and read by plain calls instead of through a memory map.

The kernel ends a process that touches a mapped page which the disk cannot hold, or which was cut off (SIGBUS). A plain call
fails with an error that can be told.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from raysweep.data import integrity
from raysweep.errors import DataError

_AT_ONCE = 1 << 28  # bytes of one read
_BUFFER = 1 << 20  # bytes of one write, where images are small
MOVED_AT_ONCE = 1 << 24  # bytes that are in two files for a moment, while one file is divided into several


def create(path: Path, shape: tuple[int, ...]) -> BinaryIO:
    """A new ``.npy`` file for a uint8 array of this shape; the caller writes its bytes and closes it."""
    file = open(path, "wb", buffering=_BUFFER)  # noqa: SIM115
    file.write(_header(shape))
    return file


def _header(shape: tuple[int, ...]) -> bytes:
    """What a ``.npy`` file of uint8 begins with."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def peak(shape: tuple[int, ...]) -> int:
    """Bytes that the images of this shape take at most while a file of them is made and divided."""
    total = int(np.prod(shape))
    return total + min(total, MOVED_AT_ONCE)


def divide(path: Path, parts: Sequence[tuple[Path, np.ndarray]]) -> None:
    """Make several files of the images in one. That file is gone then; there never is a second copy of them all.

    The images are brought into order where they are: the first part to the beginning, where it stays, and behind it the
    others backwards, so that each is written from the end of the file, which is cut off as that goes on.

    Args:
        path: as :func:`create` makes it.
        parts: (a new file, the positions of its images in their order, int64); no position twice. Others are dropped.

    Raises:
        OSError: a file cannot be written. DataError: the file was cut short.
    """
    whole = ImageFile(path)
    image = int(np.prod(whole.shape[1:]))
    at_once = max(1, MOVED_AT_ONCE // max(1, image))
    (first, kept), *others = parts
    blocks = [
        (number, index[a : a + at_once])
        for number, (_, index) in enumerate(others)
        for a in range(0, len(index), at_once)
    ]
    order = np.concatenate([kept, *(index for _, index in reversed(blocks))]).astype(np.int64)
    left = np.ones(whole.shape[0], dtype=bool)
    left[order] = False
    start = whole.start
    with open(path, "r+b", buffering=0) as file:
        _permute(file.fileno(), start, image, np.concatenate([order, np.flatnonzero(left)]))
        end = len(order)
        file.truncate(start + end * image)
        for number, (other, index) in enumerate(others):
            with create(other, (len(index), *whole.shape[1:])) as out:
                for _, block in (b for b in blocks if b[0] == number):
                    end -= len(block)
                    out.write(whole.take(np.arange(end, end + len(block))).data)
                    file.truncate(start + end * image)
        header = _header((len(kept), *whole.shape[1:]))
        # spaces before the end of the header are part of the format
        os.pwrite(file.fileno(), header[:-1].ljust(start - 1) + b"\n", 0)
        if len(header) != start:
            os.pwrite(file.fileno(), (start - 10).to_bytes(2, "little"), 8)
    os.rename(path, first)


def _permute(fd: int, start: int, size: int, order: np.ndarray) -> None:
    """Put block ``order[i]`` of a file in the place of block i. ``order`` is a permutation; one block is held in memory."""
    source = order.tolist()
    for first in range(len(source)):
        if source[first] == first:
            continue
        held, place = os.pread(fd, size, start + first * size), first
        while (after := source[place]) != first:
            _put(fd, os.pread(fd, size, start + after * size), start + place * size, size)
            source[place] = place
            place = after
        _put(fd, held, start + place * size, size)
        source[place] = place


def _put(fd: int, block: bytes, offset: int, size: int) -> None:
    if len(block) != size or os.pwrite(fd, block, offset) != size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def space(folder: Path, needed: int) -> Iterator[None]:
    """Around what writes so many bytes into the folder of a cache that is being made.

    Raises:
        DataError: the disk does not have them, before anything is written or later.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise _full(folder, needed, free)
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise _full(folder, needed, shutil.disk_usage(folder).free, error) from None


def _full(folder: Path, needed: int, free: int, error: OSError | None = None) -> DataError:
    return DataError(
        f"The image cache in {folder.parent} cannot be written: it takes {needed:,} bytes while it is made, and {free:,} are "
        f"free there{'' if error is None else f' ({error.strerror})'}. Nothing of it was kept. Free space, or name another "
        "folder with data.cache_dir."
    )


class ImageFile:
    """uint8 images (n, H, W, C) in a ``.npy`` file, which stays open: also where it is removed or replaced meanwhile.

    Attributes:
        mapped: all images, memory-mapped and read-only. Who reads through it dies where the file is cut short.
        start: where in the file the first image begins, in bytes.
    """

    def __init__(self, path: Path, digests: np.ndarray | None = None) -> None:
        """
        Args:
            digests: S32 (n,), a hash of each image's bytes, by which :meth:`take` checks each once; None: it checks none.

        Raises:
            OSError: it cannot be opened. ValueError: it is not such a file, or is shorter than it says.
        """
        self.path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed with this object
        if np.lib.format.read_magic(self._file) != (1, 0):
            raise ValueError(f"{path.name} has another version of the format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(self._file)
        if fortran or dtype != np.uint8 or len(shape) != 4:
            raise ValueError(f"{path.name} holds no images")
        self.shape: tuple[int, ...] = shape
        self.start = self._file.tell()  # of the first image, in bytes
        self._image = int(np.prod(shape[1:]))  # bytes
        self._digests = digests
        self._checked = np.zeros(shape[0], dtype=bool)
        self.mapped = np.memmap(self._file, dtype=np.uint8, mode="r", offset=self.start, shape=shape)

    def take(self, index: np.ndarray) -> np.ndarray:
        """A copy of the images at ``index``, int64 (b,): uint8 (b, H, W, C).

        Raises:
            DataError: the file was cut short, has changed, or cannot be read any more.
        """
        out = np.empty((len(index), *self.shape[1:]), dtype=np.uint8)
        if out.size:
            self._read(index, out)
        if self._digests is not None:
            self._check(index, out, self._digests)
        return out

    def _check(self, index: np.ndarray, images: np.ndarray, digests: np.ndarray) -> None:
        for position in np.flatnonzero(~self._checked[index]).tolist():
            i = int(index[position])
            if hashlib.blake2b(images[position].data, digest_size=16).hexdigest().encode() != digests[i]:
                a = self.start + i * self._image
                fault = f"{self.path.name} has changed between bytes {a:,} and {a + self._image:,} since it was written"
                raise DataError(integrity.given_up(self.path.parent, fault))
            self._checked[i] = True

    def _read(self, index: np.ndarray, out: np.ndarray) -> None:
        view = out.data.cast("B")
        size, start = self._image, self.start
        if len(index) == 1 or bool((np.diff(index) == 1).all()):  # neighbours, as in a validation: one read
            self._fill(view, start + int(index[0]) * size)
            return
        fd, preadv, end = self._file.fileno(), os.preadv, 0
        for position in index.tolist():
            here, end = end, end + size
            image, offset = view[here:end], start + position * size
            try:
                whole = preadv(fd, (image,), offset) == size
            except OSError:
                whole = False
            if not whole:  # rare: what _fill says about it is left to it
                self._fill(image, offset)

    def whole(self) -> np.ndarray:
        """A copy of all images. Raises as :meth:`take` does."""
        return self.take(np.arange(self.shape[0]))

    def _fill(self, view: memoryview, offset: int) -> None:
        fd, done, size = self._file.fileno(), 0, len(view)
        while done < size:
            try:
                n = os.preadv(fd, [view[done : done + _AT_ONCE]], offset + done)
            except OSError as error:
                raise self._lost(f"cannot be read any more: {error.strerror or error}") from None
            if n == 0:
                raise self._lost("was cut short while it was in use")
            done += n

    def _lost(self, what: str) -> DataError:
        return DataError(
            f"{self.path} {what}. Nothing was trained on the missing images; what was committed before is intact. Go on "
            "with `raysweep continue`, which decodes the images again; if it happens again, check the disk."
        )
