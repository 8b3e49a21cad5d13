"""The files that torchvision downloads: CIFAR's Python batches, and the idx files of MNIST and its relatives.

idx files are read here, because torchvision's reader accepts no compressed ones, reserves as much memory as a file
declares, and does not say which file is damaged.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import pickle
import warnings
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from raysweep._paths import read_regular
from raysweep._text import join_names
from raysweep.data.listing import Found, Row, Source, digest, label_name, reason, stamp
from raysweep.data.tree import Folder
from raysweep.errors import DataError

MAX_BATCH_BYTES = 500_000_000  # CIFAR-100's training images have 155 MB
MAX_IDX_BYTES = 2_000_000_000  # MNIST's largest file has 47 MB
MAX_DEFLATE = 1032  # a gzip file unpacks to at most this many times its own size
SIDE = 32

_CIFAR_FOLDERS = ("cifar-10-batches-py", "cifar-100-python")
_IDX_FOLDERS = ("MNIST", "FashionMNIST", "KMNIST")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


def find(path: Path) -> dict[Path, Callable[[], Source]]:
    """Folder → how to open it, for each such data set in ``path`` itself or in a folder that torchvision makes in it."""
    found: dict[Path, Callable[[], Source]] = {}
    for folder in (path, *(path / name for name in _CIFAR_FOLDERS)):
        if _is_cifar(folder):
            found[folder] = partial(CifarSource, folder)
    for folder in (path, path / "raw", *(path / name / raw for name in _IDX_FOLDERS for raw in (".", "raw"))):
        if any(_idx_file(folder, part, what) for part in IdxSource.PARTS for what in IdxSource.FILES):
            found[folder] = partial(IdxSource, folder)
    return found


def find_below(tree: Folder) -> dict[Path, Callable[[], Source]]:
    """The same in the folders below, three levels deep, as in the repository of such a data set."""
    found: dict[Path, Callable[[], Source]] = {}
    folders = tree.folders
    for _ in range(3):
        for folder in folders:
            if folder.others:
                found |= find(folder.path)
        folders = [inner for folder in folders for inner in folder.folders]
    return found


def _is_cifar(folder: Path) -> bool:
    ten = any((folder / name).is_file() for name in ("data_batch_1", "test_batch", "batches.meta"))
    hundred = sum((folder / name).is_file() for name in ("train", "test", "meta")) >= 2
    return ten or hundred


class CifarSource:
    """CIFAR-10's ``data_batch_1`` to ``5``, ``test_batch`` and ``batches.meta``; or CIFAR-100's ``train``, ``test`` and
    ``meta``, with its hundred fine labels.

    The files are pickles, and a pickle can run code. So only the published files are unpickled: those with the checksums
    that torchvision knows. The checksum is computed on the same bytes that are then unpickled.
    """

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            DataError: some of the files are missing.
        """
        self.folder = folder
        if (folder / "meta").is_file() or folder.name == _CIFAR_FOLDERS[1]:
            self.train: tuple[str, ...] = ("train",)
            self.test, self.meta, self.prefix = "test", "meta", "fine_"
        else:
            self.train = tuple(f"data_batch_{i}" for i in range(1, 6))
            self.test, self.meta, self.prefix = "test_batch", "batches.meta", ""
        missing = [name for name in (*self.train, self.test, self.meta) if not (folder / name).is_file()]
        if missing:
            raise DataError(
                f"{folder} looks like CIFAR's Python files, but lacks {join_names(missing)}. Unpack the archive again."
            )

    def fingerprint(self) -> str:
        return digest([stamp(self.folder / name) for name in (*self.train, self.test, self.meta)])

    def found(self) -> Found:
        from torchvision.datasets import CIFAR10, CIFAR100  # not at the top: it imports torch

        kind = CIFAR100 if self.prefix else CIFAR10
        known = {**dict(kind.train_list + kind.test_list), self.meta: kind.meta["md5"]}
        names = self._unpickled(self.meta, known)[f"{self.prefix}label_names"]
        train, test = (list(self._rows(batches, names, known)) for batches in (self.train, (self.test,)))
        return Found(train, None, test=test)

    def _rows(self, batches: Iterable[str], names: list[str], known: dict[str, str]) -> Iterable[Row]:
        """The images of some batches. The file has, for each image, 1,024 red values, then green, then blue, row by row."""
        for name in batches:
            batch = self._unpickled(name, known)
            images = np.ascontiguousarray(batch["data"].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
            for i, label in enumerate(batch[f"{self.prefix}labels"]):
                yield Row(f"{name} row {i}", names[label], images[i])

    def _unpickled(self, name: str, known: dict[str, str]) -> dict[str, Any]:
        file = self.folder / name
        data = _whole(file, MAX_BATCH_BYTES)
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != known[name]:
            raise DataError(
                f"{file} is not the published file of {'CIFAR-100' if self.prefix else 'CIFAR-10'}: its checksum "
                "differs. It is a pickle, which could run code, so it was not loaded. Download the data set again; "
                "convert your own data to class folders or Parquet."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer versions of NumPy warn about pickles written by Python 2
            batch: dict[str, Any] = pickle.loads(data, encoding="latin1")
        return batch


def _whole(file: Path, most: int) -> bytes:
    # The limit is the file's own size, because reading reserves as much memory as the limit allows.
    return read_regular(file, min(most, file.stat().st_size))


def _idx_file(folder: Path, part: str, what: str) -> Path | None:
    """The file under one of its usual names, an uncompressed one first; None if there is none."""
    names = (f"{part}-{what}-ubyte", f"{part}-{what.replace('-', '.')}-ubyte")
    return next((p for end in ("", ".gz") for n in names if (p := folder / f"{n}{end}").is_file()), None)


class IdxSource:
    """``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same with ``t10k``, each also ``.gz``: MNIST's files.

    The classes are the numbers "0" to "9"; in a folder called FashionMNIST or KMNIST they are that data set's names.
    """

    PARTS = ("train", "t10k")
    FILES = ("images-idx3", "labels-idx1")

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            DataError: some of the files are missing.
        """
        self.folder = folder
        found = {(part, what): _idx_file(folder, part, what) for part in self.PARTS for what in self.FILES}
        missing = [f"{part}-{what}-ubyte" for (part, what), file in found.items() if file is None]
        if missing:
            raise DataError(
                f"{folder} looks like MNIST's files, but lacks {join_names(missing)} (compressed or not). Add the missing files."
            )
        self.files = {key: file for key, file in found.items() if file is not None}
        whole = folder.resolve()
        called = "".join(filter(str.isalnum, (whole.parent if whole.name == "raw" else whole).name.lower()))
        self.names = FASHION if "fashion" in called else KUZUSHIJI if called.startswith("kmnist") else None

    def fingerprint(self) -> str:
        return digest([self.names, *(stamp(file) for file in self.files.values())])

    def found(self) -> Found:
        train, test = (self._rows(part) for part in self.PARTS)
        return Found(train, None, test=test)

    def _rows(self, part: str) -> list[Row]:
        image_file, label_file = (self.files[part, what] for what in self.FILES)
        images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
        if len(images) != len(labels):
            raise DataError(
                f"{image_file} has {len(images):,} images, and {label_file} {len(labels):,} labels. Download both again from one source."
            )
        return [
            Row(f"{image_file.name} {i}", label_name(label, self.names, f"{label_file} {i}"), images[i])
            for i, label in enumerate(labels.tolist())
        ]


def read_idx(file: Path, dimensions: int) -> np.ndarray:
    """The content of an idx file: uint8, read-only, with this number of dimensions.

    The file begins with two zero bytes, 8 for uint8, the number of dimensions, and the size of each dimension as a
    big-endian number of four bytes. However much it declares, no more memory is used than the file itself can fill.

    Raises:
        DataError: it is another kind of file, or has more or fewer bytes than it declares.
        OSError: it cannot be read, or is larger than 2 GB.
    """
    data = _whole(file, MAX_IDX_BYTES)
    compressed = file.suffix == ".gz"
    most = min(MAX_IDX_BYTES, MAX_DEFLATE * len(data)) if compressed else len(data)
    opened = gzip.GzipFile(fileobj=io.BytesIO(data)) if compressed else io.BytesIO(data)
    try:
        header = opened.read(4 + 4 * dimensions)
        if header[:4] != bytes((0, 0, 8, dimensions)) or len(header) < 4 + 4 * dimensions:
            raise DataError(
                f"{file} is no idx file of bytes with {dimensions} dimension{'s' * (dimensions > 1)}: it begins with "
                f"{header[:4].hex(' ') or 'nothing'}. Download it again from its original source."
            )
        shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4))
        declared = math.prod(shape)
        values = opened.read(declared + 1) if declared <= most else b""  # one more, to see that the file ends there
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{file} cannot be unpacked: {reason(error)}. Download it again from its original source."
        ) from None
    if len(values) != declared:
        raise DataError(
            f"{file} declares {' × '.join(f'{n:,}' for n in shape)} bytes, but holds "
            f"{'more' if len(values) > declared else 'fewer'}. It is truncated or damaged; download it again from its original source."
        )
    return np.frombuffer(values, np.uint8).reshape(shape)
