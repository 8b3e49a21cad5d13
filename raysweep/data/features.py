"""Features: what the last layer of a network gets from each image, computed once, in files that all processes share.

They lie beside the decoded images, in a folder whose name is a hash of all that they depend on. Two files of one split each hold a
row of numbers for each image, in the order of the image cache. While they are made, a list of hashes says how far they have come: who
goes on after a kill keeps the rows that agree with it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raysweep.data import arrays, integrity
from raysweep.data.arrays import ImageFile
from raysweep.errors import DataError

FOLDER = "features"  # in the cache
META = "features.json"
ROWS = 1024  # images under one hash while they are computed
IN_MEMORY = 1 << 30  # bytes of a split up to which it is read as a whole
_WAIT_S = 0.5

Compute = Callable[
    [int, int], tuple[np.ndarray, float]
]  # (first, end) → rows (n, …), and how far the kept ones are from them


@dataclass(frozen=True)
class Part:
    """The features of one split: ``rows`` (n, …) of float32 or float16."""

    file: ImageFile  # of the bytes of each row
    shape: tuple[int, ...]  # of one row
    dtype: np.dtype[Any]
    rows: np.ndarray | None  # in memory, where they are few

    def take(self, index: np.ndarray) -> np.ndarray:
        """A copy of the rows at ``index``, int64 (b,). Raises DataError where the file was cut short."""
        if self.rows is not None:
            found: np.ndarray = self.rows[index]
            return found
        return self.file.take(index).reshape(len(index), -1).view(self.dtype).reshape(len(index), *self.shape)


@dataclass(frozen=True)
class Features:
    """The features of both splits.

    Attributes:
        sha256: of what the files hold. apart: how far a logit is from that of the features before they were rounded to float16.
    """

    folder: Path
    parts: Mapping[str, Part]
    sha256: str
    apart: float
    check: integrity.Check

    def settle(self) -> str | None:
        """Finish the check of the files. Returns what is wrong, for people; then the next training computes them again."""
        self.check.finish()
        if self.check.fault is None:
            return None
        (self.folder / META).unlink(missing_ok=True)
        return (
            f"The features in {self.folder} are damaged: {self.check.fault}. Nothing that was trained on them was saved. Go on with "
            "`raysweep continue`, which computes them again; if it happens again, check the disk."
        )


def reopen(folder: Path) -> Features | None:
    """The features in a folder, checked for two seconds; None where there are none, or they are damaged."""
    try:
        meta = integrity.read_signed(folder / META)
        check = integrity.Check(folder, meta["hashes"])
        check.run(2.0)
        if check.fault is not None:
            return None
        parts = {}
        for split, shape in meta["shapes"].items():
            dtype = np.dtype(meta["dtype"])
            file = ImageFile(folder / f"{split}.npy")
            rows = None
            if dtype.itemsize * int(np.prod(shape)) <= IN_MEMORY:
                rows = file.whole().reshape(shape[0], -1).view(dtype).reshape(shape)
            parts[split] = Part(file, tuple(shape[1:]), dtype, rows)
        return Features(folder, parts, meta["sha256"], float(meta["apart"]), check)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, integrity.UnsignedError):
        return None


@contextmanager
def alone(folder: Path, asked: Callable[[], None]) -> Iterator[None]:
    """In this context no other process of this machine computes these features.

    Args:
        asked: called while it waits; may raise to give up.
    """
    from filelock import FileLock, Timeout

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(folder.with_name(f"{folder.name}.lock")))
    while True:
        try:
            lock.acquire(timeout=_WAIT_S)
            break
        except Timeout:
            asked()
    try:
        yield
    finally:
        lock.release()


def build(
    folder: Path,
    images: Mapping[str, int],
    shape: Sequence[int],
    dtype: str,
    compute: Mapping[str, Compute],
    progress: Callable[[int, int], None],
) -> None:
    """Write the features, and what describes them last; the caller is :func:`alone`. Rows that were written before a kill stay.

    Args:
        images: split → the number of its images. shape: of the features of one image. dtype: float32 or float16.
        compute: split → what computes its rows.
        progress: called with (images done, images in all); may raise to give up, and what is done stays.

    Raises:
        DataError: the files cannot be written.
    """
    temp = folder.with_name(f".tmp-{folder.name}")
    total, before = sum(images.values()), 0
    try:
        if folder.exists():
            shutil.rmtree(folder)  # damaged
        temp.mkdir(exist_ok=True)
        apart = 0.0
        for split, n in images.items():
            one = _Writing(temp / f"{split}.npy", (n, *shape), np.dtype(dtype))
            for start in range(one.done, n, ROWS):
                progress(before + start, total)
                rows, far = compute[split](start, min(n, start + ROWS))
                one.append(rows, far)
            apart = max(apart, one.apart)
            before += n
            progress(before, total)
        hashes = {f"{split}.npy": integrity.hashes(temp / f"{split}.npy") for split in images}
        for split in images:
            (temp / f"{split}.rows").unlink()
        meta = {
            "shapes": {split: [n, *shape] for split, n in images.items()},
            "dtype": dtype,
            "apart": apart,
            "sha256": _of_all(hashes),
            "hashes": hashes,
        }
        integrity.write_signed(temp / META, meta)
        os.rename(temp, folder)
    except OSError as error:
        raise DataError(
            f"The features cannot be written to {folder}: {error.strerror or error}. What is computed so far stays. Free space, or name "
            "another folder with data.cache_dir; then go on with `raysweep continue`."
        ) from None


def _of_all(hashes: Mapping[str, Sequence[str]]) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


class _Writing:
    """A file of rows, of which the first ones may be there.

    Attributes:
        done: rows that are there. apart: the largest number that came with any of them.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.list = path, path.with_suffix(".rows")
        self.dtype, self.row = dtype, dtype.itemsize * int(np.prod(shape[1:]))
        self.done, self.apart = 0, 0.0
        if not path.exists() or not self.list.exists():
            self.list.unlink(missing_ok=True)
            arrays.create(path, (shape[0], 1, 1, self.row)).close()
            self.list.touch()
        self.start = _header(path)
        self._keep()

    def _keep(self) -> None:
        """Count the rows that agree with the list, and forget what follows them."""
        from xxhash import xxh3_128_hexdigest

        good = []
        with open(self.path, "rb") as file:
            file.seek(self.start)
            for line in self.list.read_text().splitlines():
                try:
                    count, digest, apart = line.split()
                    content = file.read(int(count) * self.row)
                    if len(content) != int(count) * self.row or xxh3_128_hexdigest(content) != digest:
                        break
                    self.done, self.apart = self.done + int(count), max(self.apart, float(apart))
                except ValueError:  # the last line, which a kill has torn
                    break
                good.append(line + "\n")
        self.list.write_text("".join(good))
        os.truncate(self.path, self.start + self.done * self.row)

    def append(self, rows: np.ndarray, apart: float) -> None:
        from xxhash import xxh3_128_hexdigest

        content = np.ascontiguousarray(rows, dtype=self.dtype).tobytes()
        with open(self.path, "ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with open(self.list, "a", encoding="ascii") as file:
            file.write(f"{len(rows)} {xxh3_128_hexdigest(content)} {apart!r}\n")
        self.done, self.apart = self.done + len(rows), max(self.apart, apart)


def _header(path: Path) -> int:
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()
