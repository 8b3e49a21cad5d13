"""One folder per class, with or without a split; and imagefolder's metadata files, which name the class of each image."""

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
    ordered,
    split_of,
)
from raysweep.data.tables import Table, column, open_table
from raysweep.errors import DataError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pnm"}
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def subfolders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def split_folders(path: Path) -> tuple[Path | None, Path | None]:
    """The folders for training and validation; ``test/`` is for validation where there is no ``val/``."""
    folders = {p.name.lower(): p for p in subfolders(path)}
    train = next((folders[n] for n in TRAIN_NAMES if n in folders), None)
    return train, next((folders[n] for n in VAL_NAMES + TEST_NAMES if n in folders), None)


def has_class_folders(path: Path) -> bool:
    """Whether images lie where images of class folders would; a look, not a search through everything."""

    def images(folders: Iterable[Path]) -> bool:
        return any(p.suffix.lower() in IMAGE_SUFFIXES for folder in folders for p in folder.iterdir())

    folders = subfolders(path)
    return images(f for f in folders if split_of(f.name) is None) or any(
        images(subfolders(f)) for f in folders if split_of(f.name) is not None
    )


def metadata_files(path: Path) -> list[tuple[Table, str | None]]:
    """imagefolder's metadata files and the split of each: one beside all images, or one in each split's folder.

    Only a table with a column ``file_name`` is one: any other ``metadata.csv`` may lie among class folders for reasons of
    its own.

    Raises:
        DataError: two of them in one folder, one beside the split folders and one within, or in one split's folder alone;
            or an unreadable one where there are no class folders either.
    """
    train, val = split_folders(path)
    places: list[tuple[Path, str | None]] = [(path, None)]
    if train is not None:
        places += [(train, "train"), (val, split_of(val.name))] if val is not None else [(train, None)]
    found: list[tuple[Table, str | None]] = []
    for folder, split in places:
        tables = [open_table(folder / name) for name in METADATA if (folder / name).is_file()]
        here = [table for table in tables if _names_files(table, path)]
        if len(here) > 1:
            raise DataError(
                f"{folder} has {join_names(t.file.name for t in here)}, each naming images. Keep one of them."
            )
        found += [(table, split) for table in here]
    if found and found[0][0].file.parent == path:
        if len(found) > 1:
            raise DataError(
                f"Both {found[0][0].file} and {found[1][0].file} name images. Keep the one beside the split folders, or those within."
            )
    elif len(found) == 1 and val is not None:
        file = found[0][0].file
        other = val if file.parent == train else train
        raise DataError(
            f"{file} names the classes of its images, but {other} has no {file.name} with a column file_name. "
            "Add one, or set data.source=folder to take the names of folders for classes."
        )
    return found


def _names_files(table: Table, path: Path) -> bool:
    try:
        return column(table.columns(), ("file_name",)) is not None
    except DataError:
        if has_class_folders(path):
            return False
        raise


class FolderSource:
    """``train/`` with ``val/`` or ``test/``, each of one folder per class; or one folder per class and no split."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.train, self.val = split_folders(path)
        if self.train is None and self.val is not None:
            raise DataError(
                f"{path} has {self.val.name}/ but no train/. Put the training images under {path / 'train'}."
            )
        self._files: dict[str, list[tuple[str, Path]]] | None = None

    def _scan(self) -> dict[str, list[tuple[str, Path]]]:
        """Split name → (class, file) in sorted order."""
        if self._files is None:
            splits = {"train": self.train or self.path} | ({"val": self.val} if self.train and self.val else {})
            files = {}
            for split, folder in splits.items():
                found: list[tuple[str, Path]] = []
                empty = []
                for class_folder in subfolders(folder):
                    images = sorted(
                        p for p in class_folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
                    )
                    if not images:
                        empty.append(class_folder)
                    found += [(class_name(class_folder.name, folder), p) for p in images]
                if empty and found:
                    some = ", ".join(str(p) for p in empty[:10]) + " …" * (len(empty) > 10)
                    raise DataError(
                        f"The class folder{'s' * (len(empty) > 1)} {some} hold{'s' * (len(empty) == 1)} "
                        "no image. Add images or remove the folder."
                    )
                if not found:
                    raise self._nothing(folder)
                files[split] = found
            self._files = files
        return self._files

    def _nothing(self, folder: Path) -> DataError:
        tabular = sorted(p.name for p in self.path.iterdir() if p.suffix.lower() in (".csv", ".jsonl"))
        if tabular:
            more = f"If {join_names(tabular[:3])} lists the images, give that file as data.path."
        else:
            more = (
                "A folder may also hold metadata.csv or metadata.jsonl with file_name and label, Parquet files, or what "
                "torchvision downloads of CIFAR or MNIST; none of these is there."
            )
        return DataError(
            f"{folder} holds no images in class folders (looked for {', '.join(sorted(IMAGE_SUFFIXES))} in "
            f"one folder per class). The expected layout is {folder}/CLASS/IMAGE.jpg. {more}"
        )

    def fingerprint(self) -> str:
        rows: list[Any] = []
        for split, files in self._scan().items():
            for name, path in files:
                stat = path.stat()
                rows.append([split, name, str(path.relative_to(self.path)), stat.st_size, stat.st_mtime_ns])
        return digest([str(self.path.resolve()), rows])

    def listing(self) -> Listing:
        files = self._scan()
        if "val" in files:
            of_train, of_val = (ordered(name for name, _ in files[split]) for split in ("train", "val"))
            if of_train != of_val:
                raise DataError(
                    f"{self.train} and {self.val} do not have the same class folders: {join_names(of_train)} against "
                    f"{join_names(of_val)}. Give both the same classes."
                )
        rows = {
            split: [Row(str(p.relative_to(self.path)), name, p) for name, p in found] for split, found in files.items()
        }
        return listing_of(rows["train"], rows.get("val"))
