"""One folder per class, with or without a split; and imagefolder's metadata files, which give the class of each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raysweep._text import join_names
from raysweep.data.arrange import arrange
from raysweep.data.listing import TEST_NAMES, TRAIN_NAMES, VAL_NAMES, Found, Row, class_name, digest, marks, split_of
from raysweep.data.roles.words import AUTO
from raysweep.data.suspicious import told_of_words
from raysweep.data.tables import LIST_SUFFIXES, Table, column, open_table
from raysweep.data.tree import IMAGE_SUFFIXES, Folder, Rest, is_hidden, walk
from raysweep.errors import DataError

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
Walked = tuple[Folder, Rest]


def look(path: Path) -> Walked:
    """What lies in a folder, and what was left out of it.

    Raises:
        OSError: it cannot be read.
    """
    rest = Rest()
    return walk(path, rest), rest


def subfolders(path: Path) -> list[Path]:
    """The folders directly in ``path``, sorted, without hidden ones."""
    return sorted(p for p in path.iterdir() if p.is_dir() and not is_hidden(p.name))


def split_folders(path: Path) -> tuple[Path | None, Path | None]:
    """The folders for training and validation; ``test/`` is for validation where there is no ``val/``."""
    folders = {p.name.lower(): p for p in subfolders(path)}
    train = next((folders[n] for n in TRAIN_NAMES if n in folders), None)
    return train, next((folders[n] for n in VAL_NAMES + TEST_NAMES if n in folders), None)


def has_class_folders(tree: Folder) -> bool:
    """Whether there are images where class folders would have them."""
    return any(f.inner if split_of(f.name) else f.total for f in tree.inner)


def metadata_files(path: Path, tree: Folder) -> list[tuple[Table, str | None]]:
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
    found = [(table, split) for folder, split in places if (table := _metadata_in(folder, tree)) is not None]
    files = [table.file for table, _ in found]
    kinds = [split_of(p.name) for p in subfolders(path) if split_of(p.name)] if files else []
    if len(kinds) > len(set(kinds)):
        names = join_names(f"{p.name}/" for p in subfolders(path) if kinds.count(split_of(p.name)) > 1)
        raise DataError(
            f"{path} has several folders for the same split: {names}. Move one of them away, or put their images together."
        )
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


def _metadata_in(folder: Path, tree: Folder) -> Table | None:
    """The metadata file in one folder of the data in ``tree``; None if there is none."""
    tables = [open_table(folder / name) for name in METADATA if (folder / name).is_file()]
    found = [table for table in tables if _names_files(table, tree)]
    if len(found) > 1:
        raise DataError(
            f"{folder} has {join_names(t.file.name for t in found)}, and each names images. Keep one of them."
        )
    return found[0] if found else None


def _names_files(table: Table, tree: Folder) -> bool:
    """Whether a table has a column ``file_name``; not if it is unreadable and ``tree`` has class folders anyway."""
    try:
        return column(table.columns(), ("file_name",)) is not None
    except DataError:
        if has_class_folders(tree):
            return False
        raise


class NoClassFoldersError(DataError):
    """A folder has neither images in class folders nor a list of them."""


class FolderSource:
    """``train/`` with ``val/`` or ``test/``, each with one folder per class; or one folder per class without a split."""

    def __init__(self, path: Path, level: int | None = None, walked: Walked | None = None, asked: str = AUTO) -> None:
        """
        Args:
            level: see :func:`~raysweep.data.arrange.arrange`.
            walked: what lies in ``path``, if it was looked at already.
            asked: ``data.val``.

        Raises:
            LayoutError: splits and classes are not plain.
        """
        self.path = path
        tree, rest = walked or look(path)
        self._arranged = arrange(tree, level, rest, asked)
        self._left_out = rest.left_out()
        self._check(tree)

    def labels(self) -> set[str]:
        return {*self._arranged.train, *(self._arranged.val or {}), *self._arranged.test}

    def _check(self, tree: Folder) -> None:
        """Raises DataError if there are no images, or a class has none for training."""
        train = self._arranged.train
        if not any(f.total for folders in train.values() for f in folders):
            raise self._no_images(tree)
        empty = [f for folders in train.values() for f in folders if not f.total]
        if empty:
            first = ", ".join(_with_kinds(f) for f in empty[:10]) + " …" * (len(empty) > 10)
            raise DataError(
                f"The class folder{'s' * (len(empty) > 1)} {first} hold{'s' * (len(empty) == 1)} "
                f"no image. Add images or remove the folder{'s' * (len(empty) > 1)}."
            )

    def _no_images(self, tree: Folder) -> DataError:
        tabular = sorted(p.name for p in self.path.iterdir() if p.suffix.lower() in LIST_SUFFIXES)
        if tabular:
            more = (
                f"If {join_names(tabular[:3])} lists the images, give that file as data.path, with data.columns if the names of its "
                "columns are not known."
            )
        else:
            more = (
                "A folder may also hold a list of the images and their classes (.csv, .jsonl), Parquet "
                "files, or the files of CIFAR or MNIST that torchvision downloads; none of these is there."
            )
        others = f" It has {_kinds(tree.every_other())}." if tree.every_other() else ""
        return NoClassFoldersError(
            f"{self.path} holds no images in class folders (looked for {', '.join(sorted(IMAGE_SUFFIXES))} in "
            f"one folder per class).{others} The expected layout is {self.path}/CLASS/IMAGE.jpg. {more}"
            + told_of_words([p.name for p in tree.every()])
        )

    def _images(self) -> Iterator[tuple[str, str, Path]]:
        """(split, class, file) of every image, the files of a class in sorted order."""
        found = self._arranged
        parts = {"train": found.train, "val": found.val or {}, "test": found.test}
        for split, classes in parts.items():
            for name, folders in sorted(classes.items()):
                for file in sorted(image for folder in folders for image in folder.every()):
                    yield split, class_name(name, self.path), file

    def fingerprint(self) -> str:
        rows: list[Any] = []
        for split, name, path in self._images():
            rows.append([split, name, str(path.relative_to(self.path)), *marks(path.stat())])
        return digest([str(self.path.resolve()), rows])

    def found(self) -> Found:
        parts: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
        for split, name, path in self._images():
            parts[split].append(Row(str(path.relative_to(self.path)), name, path))
        val = None if self._arranged.val is None else parts["val"]
        notes = tuple(self._arranged.notes)
        return Found(parts["train"], val, self._left_out, notes, parts["test"], self._arranged.on_test)


def _with_kinds(folder: Folder) -> str:
    others = folder.every_other()
    return f"{folder.path}" + (f" (with {_kinds(others)})" if others else "")


def _kinds(suffixes: Counter[str]) -> str:
    return join_names(f"{n:,} {s}" for s, n in suffixes.most_common(6))
