"""Where images come from. A source identifies cheaply what it would read (`fingerprint`) and finds its images (`found`).

The content of a path decides its kind: class folders, imagefolder's metadata files, Parquet files, the files of CIFAR and
MNIST that torchvision downloads, FER-2013's CSV, tar files, or a list of files and classes. Two more sources are built in. A new kind
of source is a class with the methods of :class:`~raysweep.data.listing.Source` and a line in :func:`open_source` or in
:class:`_Folder`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from raysweep._paths import must_be_there
from raysweep._text import join_names
from raysweep.config.own import target_of
from raysweep.config.settings import DataSection
from raysweep.data import folders, lists, parquet, sizes, tars, torchvision_files
from raysweep.data.arrange import LayoutError
from raysweep.data.folders import FolderSource, NoClassFoldersError
from raysweep.data.listing import Found, Item, Listing, Row, Source, canonical
from raysweep.data.manifest import ManifestSource
from raysweep.data.naming import Chosen
from raysweep.data.own import OwnSource
from raysweep.data.pixels_csv import CsvSource
from raysweep.data.roles.groups import column_of
from raysweep.data.tables import MAX_BYTES, column, open_table
from raysweep.errors import DataError

__all__ = ["Item", "Listing", "Source", "open_source"]

CLASSES = "class folders"
SHARDS = "Parquet files"
KINDS = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".jsonl": "jsonl", ".parquet": "parquet", ".tar": "tar"}


class FacesSource:
    """The built-in faces; see :mod:`raysweep.data.faces`."""

    def fingerprint(self) -> str:
        from raysweep.data import faces

        return f"faces {faces.VERSION} {faces.SEED} {faces.TRAIN_IMAGES} {faces.VAL_IMAGES}"

    def found(self) -> Found:
        from raysweep.data import faces

        parts = []
        for stream, (name, total) in enumerate((("train", faces.TRAIN_IMAGES), ("val", faces.VAL_IMAGES))):
            images, labels = faces.generate(total, stream)
            parts.append([Row(f"faces {name} {i}", faces.CLASSES[labels[i]], images[i, :, :, 0]) for i in range(total)])
        return Found(parts[0], parts[1])


class DigitsSource:
    """scikit-learn's real handwritten digits, 1,797 gray images of 8×8."""

    def fingerprint(self) -> str:
        return "digits 1"

    def found(self) -> Found:
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = np.clip(np.rint(digits.images * (255 / 16)), 0, 255).astype(np.uint8)
        return Found([Row(f"digits {i}", str(label), pixels[i]) for i, label in enumerate(digits.target)], None)


_FROM_A_TABLE = "Images with several labels are read from a table (.csv, .tsv, .jsonl or .parquet) with the labels of each image: name it with data.path."


def open_source(data: DataSection) -> Chosen:
    """The data set a configuration names.

    Raises:
        DataError: the path does not exist, cannot be read, or is not what ``data.source`` says.
    """
    if data.source == "faces":
        return Chosen(FacesSource(), data)
    if data.source == "digits":
        return Chosen(DigitsSource(), data)
    if (target := target_of(data.source)) is not None:
        return Chosen(OwnSource(target, data.path, column_of(data.group)), data)
    path = Path(os.path.expanduser(str(data.path)))
    kind = _kind(path, data.source)
    notes: list[str] = []
    kinds: dict[str, Callable[[], Source]] = {
        "auto": lambda: _Folder(path, data, notes).opened(),
        "folder": lambda: FolderSource(path, data.level, asked=data.val),
        "csv": lambda: _csv(path, data, notes),
        "jsonl": lambda: _manifest(path, data, notes),
        "parquet": lambda: parquet.open_parquet(path, data),
        "tar": lambda: tars.TarSource(path, data.val, column_of(data.group)),
    }
    try:
        chosen = kinds[kind]()
        if data.multi_label and not isinstance(chosen, (ManifestSource, parquet.ParquetSource)):
            raise DataError(f"data.multi_label: {path} has one class for each image. {_FROM_A_TABLE}")
        return Chosen(chosen, data, notes)
    except (LayoutError, NoClassFoldersError) as error:
        if data.multi_label:  # the way out of the other error, class folders, is closed
            raise DataError(f"data.multi_label: {path} has no table of labels. {_FROM_A_TABLE}") from None
        if isinstance(error, NoClassFoldersError):
            raise
        raise type(error)(f"{error}{sizes.advice(data.image_size, sizes.images_in(path))}") from None
    except OSError as error:
        raise DataError(
            f"{error.filename or path} cannot be read: {error.strerror or error}. Check the path and its permissions."
        ) from None


def _kind(path: Path, source: str) -> str:
    """What is read from a path: ``source`` itself, or what the file's suffix says where that is ``auto``.

    Raises:
        DataError: the path does not exist, or is not what ``source`` says.
    """
    must_be_there(path)
    kind = KINDS.get(path.suffix.lower(), "auto") if source == "auto" and not path.is_dir() else source
    if kind == "auto" and not path.is_dir():
        raise DataError(
            f"data.path: {path} is neither a folder nor a .csv, .tsv, .txt, .jsonl, .parquet or .tar file. Set data.source; or, if it is "
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


def _csv(path: Path, data: DataSection, notes: list[str]) -> Source:
    """FER-2013's CSV if there is a column ``pixels``; else a list of files."""
    table = open_table(path)
    have = table.columns() if path.stat().st_size <= MAX_BYTES else ["pixels"]
    if column(have, ("pixels",)) is not None and data.columns is None:
        return CsvSource(path, data.val)
    return _manifest(path, data, notes)


def _manifest(path: Path, data: DataSection, notes: list[str]) -> Source:
    beside = lists.others_beside(path, data)
    if beside:
        notes.append(f"Not read: {join_names(beside)} beside {path.name}. {lists.how_to_read_all(path.parent, data)}")
    return ManifestSource(path, [(open_table(path), None)], data=data)


class _Folder:
    """Finds the one data set that a folder holds."""

    def __init__(self, path: Path, data: DataSection, notes: list[str]) -> None:
        """
        Args:
            notes: what is to be said of how it was found is added here.
        """
        self.path = path
        self.data = data
        self.notes = notes
        self.tree, self._rest = folders.look(path)

    def opened(self) -> Source:
        """
        Raises:
            DataError: it holds none, or several.
        """
        found = self._kinds()
        if len(found) > 1:
            choice = " or ".join(kind for kind, name in (("folder", CLASSES), ("parquet", SHARDS)) if name in found)
            raise DataError(
                f"{self.path} holds several data sets: {join_names(found)}. Set data.path to the folder or file of one of them"
                f"{', or set data.source=' + choice if choice else ''}."
            )
        if found and CLASSES not in found:
            return next(iter(found.values()))()
        return (
            self._class_folders()
            if found
            else self._list()
            or self._tars()
            or self._inside()
            or FolderSource(self.path, None, self.walked, self.data.val)
        )

    @property
    def walked(self) -> folders.Walked:
        """What lies in the folder, to be added to what is left out of it."""
        return self.tree, self._rest.copy()

    def _kinds(self) -> dict[str, Callable[[], Source]]:
        path, tree = self.path, self.tree
        found: dict[str, Callable[[], Source]] = {}
        metadata = folders.metadata_files(path, tree)
        if metadata:
            remedy = ", or set data.source=folder to take the classes from the names of the folders"
            found[f"{metadata[0][0].file.name} with a column file_name"] = lambda: ManifestSource(
                path, metadata, remedy, self.data, self.walked
            )
        elif folders.has_class_folders(tree):
            found[CLASSES] = lambda: FolderSource(path, self.data.level, self.walked, self.data.val)
        shards = parquet.shards(path)
        # Parquet files beside images are taken for notes on them, unless they are named as the Hub names shards of images.
        if shards and (not found or any(parquet.SHARD.search(table.file.name) for table, _ in shards)):
            found[SHARDS] = lambda: parquet.open_parquet(path, self.data)
        for folder, make in (torchvision_files.find(path) or torchvision_files.find_below(tree)).items():
            found[str(folder.relative_to(path)) if folder != path else "files of CIFAR or MNIST"] = make
        return found

    def _class_folders(self) -> Source:
        """The class folders, unless a list says that they are none.

        Raises:
            DataError: the list and the folders say different things.
        """
        if self.data.level is not None:  # the user says that these are classes
            return FolderSource(self.path, self.data.level, self.walked, self.data.val)
        try:
            source = FolderSource(self.path, None, self.walked, self.data.val)
        except DataError as error:
            plain = not isinstance(error, LayoutError) and len(self.tree.inner) > 1
            listed = None if plain else self._list()
            if listed is None:
                raise
            return listed
        if len(source.labels()) < 2:
            return self._list() or source
        files = lists.find(self.path, self.data, alone=False)
        if not files:
            return source
        name = join_names(table.file.name for table, _ in files)
        if self._agrees(files, source):
            self.notes.append(f"Not read: {name} beside the class folders.")
            return source
        raise DataError(
            f"{self.path} has folders ({join_names(sorted(source.labels())[:5])}) and a list of images with other classes, {name}. "
            f"Say which has the classes: data.path={lists.likeliest(files)} or data.source=folder."
        )

    def _agrees(self, files: lists.Files, source: FolderSource) -> bool:
        """Whether a list beside class folders has their classes, or is no list of these images."""
        try:
            listed = ManifestSource(self.path, files, data=self.data).labels()
        except (DataError, OSError):
            return True
        return {canonical(name) for name in listed} <= {canonical(name) for name in source.labels()}

    def _list(self) -> Source | None:
        """The list, or the lists of the splits, in the folder or in the only one in it that has any."""
        where, data = self.path, self.data
        found = lists.find(where, data) or lists.in_splits(where, data) or lists.find_below(where, data)
        files, left = lists.of_splits(found, where)
        if not files:
            return None
        self.notes.append(f"Read from the list {join_names(str(t.file.relative_to(self.path)) for t, _ in files)}.")
        self.notes += left
        return ManifestSource(self.path, files, "", self.data, self.walked)

    def _tars(self) -> Source | None:
        """Tar files, where there is nothing else."""
        if self.tree.images or not tars.shards(self.path):
            return None
        return tars.TarSource(self.path, self.data.val, column_of(self.data.group))

    def _inside(self) -> Source | None:
        """What the only folder in the folder holds."""
        inner = folders.subfolders(self.path)
        if len(inner) != 1 or self.tree.images or inner[0].is_symlink():
            return None
        below = _Folder(inner[0], self.data, self.notes)
        if not below._kinds() and not lists.find(inner[0], self.data) and len(folders.subfolders(inner[0])) != 1:
            return None
        self.notes.append(f"Read in {inner[0].name}/, the only folder there.")
        return below.opened()
