"""One folder per class, with or without a split; and imagefolder's metadata files, which give the class of each image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raysweep._text import join_names
from raysweep.data.listing import (
    TEST_NAMES,
    TRAIN_NAMES,
    VAL_NAMES,
    Listing,
    Row,
    class_name,
    digest,
    listing_of,
    marks,
    ordered,
    split_of,
)
from raysweep.data.tables import Table, column, open_table
from raysweep.errors import DataError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pnm"}
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def subfolders(path: Path) -> list[Path]:
    """The folders directly in ``path``, sorted, without hidden ones."""
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def split_folders(path: Path) -> tuple[Path | None, Path | None]:
    """The folders for training and validation; ``test/`` is for validation where there is no ``val/``."""
    folders = {p.name.lower(): p for p in subfolders(path)}
    train = next((folders[n] for n in TRAIN_NAMES if n in folders), None)
    return train, next((folders[n] for n in VAL_NAMES + TEST_NAMES if n in folders), None)


def has_class_folders(path: Path) -> bool:
    """Whether there are images where class folders would have them. Looks only one or two levels down."""

    def images(folders: Iterable[Path]) -> bool:
        return any(p.suffix.lower() in IMAGE_SUFFIXES for folder in folders for p in folder.iterdir())

    folders = subfolders(path)
    return images(f for f in folders if split_of(f.name) is None) or any(
        images(subfolders(f)) for f in folders if split_of(f.name) is not None
    )


def metadata_files(path: Path) -> list[tuple[Table, str | None]]:
    """imagefolder's metadata files and the split of each: one beside all images, or one in each split's folder.

    Only a table with a column ``file_name`` counts. Any other ``metadata.csv`` among class folders has some other purpose
    and is ignored.

    Raises:
        DataError: one folder has two of them; there is one beside the split folders and another one inside; only one of
            two split folders has one; or one is unreadable and there are no class folders either.
    """
    train, val = split_folders(path)
    places: list[tuple[Path, str | None]] = [(path, None)]
    if train is not None:
        places += [(train, "train"), (val, split_of(val.name))] if val is not None else [(train, None)]
    found = [(table, split) for folder, split in places if (table := _metadata_in(folder, path)) is not None]
    files = [table.file for table, _ in found]
    if len(files) > 1 and files[0].parent == path:
        raise DataError(
            f"Both {files[0]} and {files[1]} name images. Keep either the one beside the split folders or those inside them."
        )
    if len(files) == 1 and files[0].parent != path and val is not None:
        other = val if files[0].parent == train else train
        raise DataError(
            f"{files[0]} gives the classes of its images, but {other} has no {files[0].name} with a column file_name. "
            "Add one, or set data.source=folder to take the classes from the names of the folders."
        )
    return found


def _metadata_in(folder: Path, path: Path) -> Table | None:
    """The metadata file in one folder of the data in ``path``; None if there is none."""
    tables = [open_table(folder / name) for name in METADATA if (folder / name).is_file()]
    found = [table for table in tables if _names_files(table, path)]
    if len(found) > 1:
        raise DataError(
            f"{folder} has {join_names(t.file.name for t in found)}, and each names images. Keep one of them."
        )
    return found[0] if found else None


def _names_files(table: Table, path: Path) -> bool:
    """Whether a table has a column ``file_name``; not if it is unreadable and ``path`` has class folders anyway."""
    try:
        return column(table.columns(), ("file_name",)) is not None
    except DataError:
        if has_class_folders(path):
            return False
        raise


class FolderSource:
    """``train/`` with ``val/`` or ``test/``, each with one folder per class; or one folder per class without a split."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.train, self.val = split_folders(path)
        if self.train is None and self.val is not None:
            raise DataError(
                f"{path} has {self.val.name}/ but no train/. Put the training images under {path / 'train'}."
            )
        self._files: dict[str, list[tuple[str, Path]]] | None = None

    def _scan(self) -> dict[str, list[tuple[str, Path]]]:
        """Split → (class, file) in sorted order."""
        if self._files is None:
            splits = {"train": self.train or self.path} | ({"val": self.val} if self.train and self.val else {})
            self._files = {split: self._images(folder) for split, folder in splits.items()}
        return self._files

    def _images(self, folder: Path) -> list[tuple[str, Path]]:
        """(class, file) of every image in the class folders of ``folder``.

        Raises:
            DataError: there is none, or a class folder is empty.
        """
        found: list[tuple[str, Path]] = []
        empty = []
        for class_folder in subfolders(folder):
            images = sorted(p for p in class_folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not images:
                empty.append(class_folder)
            found += [(class_name(class_folder.name, folder), p) for p in images]
        if not found:
            raise self._no_images(folder)
        if empty:
            first = ", ".join(str(p) for p in empty[:10]) + " …" * (len(empty) > 10)
            raise DataError(
                f"The class folder{'s' * (len(empty) > 1)} {first} hold{'s' * (len(empty) == 1)} "
                f"no image. Add images or remove the folder{'s' * (len(empty) > 1)}."
            )
        return found

    def _no_images(self, folder: Path) -> DataError:
        tabular = sorted(p.name for p in self.path.iterdir() if p.suffix.lower() in (".csv", ".jsonl"))
        if tabular:
            more = f"If {join_names(tabular[:3])} lists the images, give that file as data.path."
        else:
            more = (
                "A folder may also hold metadata.csv or metadata.jsonl with the columns file_name and label, Parquet "
                "files, or the files of CIFAR or MNIST that torchvision downloads; none of these is there."
            )
        return DataError(
            f"{folder} holds no images in class folders (looked for {', '.join(sorted(IMAGE_SUFFIXES))} in "
            f"one folder per class). The expected layout is {folder}/CLASS/IMAGE.jpg. {more}"
        )

    def fingerprint(self) -> str:
        rows: list[Any] = []
        for split, files in self._scan().items():
            for name, path in files:
                rows.append([split, name, str(path.relative_to(self.path)), *marks(path.stat())])
        return digest([str(self.path.resolve()), rows])

    def listing(self) -> Listing:
        files = self._scan()
        if "val" in files:
            of_train, of_val = (ordered(name for name, _ in files[split]) for split in ("train", "val"))
            if of_train != of_val:
                raise DataError(
                    f"{self.train} and {self.val} do not have the same class folders: {join_names(of_train)} versus "
                    f"{join_names(of_val)}. Give both the same classes."
                )
        rows = {
            split: [Row(str(p.relative_to(self.path)), name, p) for name, p in found] for split, found in files.items()
        }
        return listing_of(rows["train"], rows.get("val"))
