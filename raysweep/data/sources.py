"""Where images come from. A source identifies cheaply what it would read (`fingerprint`) and lists its images (`listing`).

The content of a path decides its kind: class folders, imagefolder's metadata files, Parquet files, the files of CIFAR and
MNIST that torchvision downloads, FER-2013's CSV, or a list of files and classes. Two more sources are built in. A new kind
of source is a class with these two methods and a line in :func:`open_source` or :func:`_folder`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from raysweep._text import join_names
from raysweep.config.settings import DataSection
from raysweep.data import folders, parquet, torchvision_files
from raysweep.data.folders import FolderSource
from raysweep.data.listing import Item, Listing, Source
from raysweep.data.manifest import ManifestSource
from raysweep.data.pixels_csv import CsvSource
from raysweep.data.tables import MAX_BYTES, PATH_COLUMNS, column, open_table
from raysweep.errors import DataError

__all__ = ["Item", "Listing", "Source", "open_source"]

SHARDS = "Parquet files"
KINDS = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}


class FacesSource:
    """The built-in faces; see :mod:`raysweep.data.faces`."""

    def fingerprint(self) -> str:
        from raysweep.data import faces

        return f"faces {faces.VERSION} {faces.SEED} {faces.TRAIN_IMAGES} {faces.VAL_IMAGES}"

    def listing(self) -> Listing:
        from raysweep.data import faces

        parts = []
        for stream, (name, total) in enumerate((("train", faces.TRAIN_IMAGES), ("val", faces.VAL_IMAGES))):
            images, labels = faces.generate(total, stream)
            parts.append([Item(f"faces {name} {i}", int(labels[i]), images[i, :, :, 0]) for i in range(total)])
        return Listing(faces.CLASSES, parts[0], parts[1])


class DigitsSource:
    """scikit-learn's real handwritten digits, 1,797 gray images of 8×8."""

    def fingerprint(self) -> str:
        return "digits 1"

    def listing(self) -> Listing:
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = np.clip(np.rint(digits.images * (255 / 16)), 0, 255).astype(np.uint8)
        items = [Item(f"digits {i}", int(label), pixels[i]) for i, label in enumerate(digits.target)]
        return Listing(tuple(str(d) for d in range(10)), items, None)


def open_source(data: DataSection) -> Source:
    """The source a configuration names.

    Raises:
        DataError: the path does not exist, cannot be read, or is not what ``data.source`` says.
    """
    if data.source == "faces":
        return FacesSource()
    if data.source == "digits":
        return DigitsSource()
    path = Path(os.path.expanduser(str(data.path)))
    kind = _kind(path, data.source)
    kinds: dict[str, Callable[[Path], Source]] = {
        "auto": _folder,
        "folder": FolderSource,
        "csv": _csv,
        "jsonl": _manifest,
        "parquet": parquet.open_parquet,
    }
    try:
        return kinds[kind](path)
    except OSError as error:
        raise DataError(
            f"{error.filename or path} cannot be read: {error.strerror or error}. Check the path and its permissions."
        ) from None


def _kind(path: Path, source: str) -> str:
    """What is read from a path: ``source`` itself, or what the file's suffix says where that is ``auto``.

    Raises:
        DataError: the path does not exist, or is not what ``source`` says.
    """
    if not os.path.exists(path):  # unlike Path.exists, also False for a text that cannot be a path
        raise DataError(f"data.path: there is no {path} (looked in {Path.cwd()}). Give an existing folder or file.")
    kind = KINDS.get(path.suffix.lower(), "auto") if source == "auto" and not path.is_dir() else source
    if kind == "auto" and not path.is_dir():
        raise DataError(
            f"data.path: {path} is neither a folder nor a .csv, .jsonl or .parquet file. Set data.source; or, if it is "
            "an archive, unpack it and give its folder."
        )
    if kind == "folder" and not path.is_dir():
        raise DataError(
            f"data.path: {path} is a file, but data.source is folder. Give the folder with the class folders."
        )
    if kind == "csv" and path.is_dir():
        raise DataError(f"data.path: {path} is a folder, but data.source is csv. Give the .csv file.")
    if not path.is_dir() and not path.is_file():  # reading a pipe would never end
        raise DataError(f"data.path: {path} is no regular file. Give a folder or a file.")
    return kind


def _csv(path: Path) -> Source:
    """FER-2013's CSV if there is a column ``pixels`` or none with paths; else a list of files."""
    table = open_table(path)
    have = table.columns() if path.stat().st_size <= MAX_BYTES else []
    files = column(have, ("pixels",)) is None and column(have, PATH_COLUMNS) is not None
    return _manifest(path) if files else CsvSource(path)


def _manifest(path: Path) -> Source:
    return ManifestSource(path, [(open_table(path), None)])


def _folder(path: Path) -> Source:
    """The one data set that a folder holds.

    Raises:
        DataError: it holds several.
    """
    found: dict[str, Callable[[], Source]] = {}
    metadata = folders.metadata_files(path)
    if metadata:
        remedy = ", or set data.source=folder to take the classes from the names of the folders"
        found[f"{metadata[0][0].file.name} with a column file_name"] = lambda: ManifestSource(path, metadata, remedy)
    elif folders.has_class_folders(path):
        found["class folders"] = lambda: FolderSource(path)
    shards = parquet.shards(path)
    # Parquet files beside images are taken for notes on them, unless they are named as the Hub names shards of images.
    if shards and (not found or any(parquet.SHARD.search(table.file.name) for table, _ in shards)):
        found[SHARDS] = lambda: parquet.open_parquet(path)
    for folder, make in torchvision_files.find(path).items():
        found[str(folder.relative_to(path)) if folder != path else "files of CIFAR or MNIST"] = make
    if len(found) > 1:
        choice = " or ".join(kind for kind, name in (("folder", "class folders"), ("parquet", SHARDS)) if name in found)
        raise DataError(
            f"{path} holds several data sets: {join_names(found)}. Set data.path to the folder or file of one of them"
            f"{', or set data.source=' + choice if choice else ''}."
        )
    return next(iter(found.values()))() if found else FolderSource(path)
