"""The lists of images that lie in a folder: one for all images, or one for each split."""

from __future__ import annotations

from pathlib import Path

from raysweep._text import join_names
from raysweep.config.settings import DataSection
from raysweep.data.columns import may_be_list
from raysweep.data.listing import only_split_in
from raysweep.data.tables import (
    FLAG_COLUMNS,
    LIST_SUFFIXES,
    SPLIT_COLUMNS,
    CsvTable,
    JsonTable,
    Table,
    column,
    open_table,
)
from raysweep.data.tree import is_hidden
from raysweep.errors import DataError

Files = list[tuple[Table, str | None]]


def find(path: Path, data: DataSection, alone: bool = True) -> Files:
    """The lists directly in a folder that name images and their classes, each with the split in its own name.

    Args:
        alone: nothing else in the folder says the classes. Then JSON lines are taken where there is no other list; logs and the notes of other
            programs have their form, too.
    """
    tables = [t for t in _tables(path) if "submission" not in t.file.name.lower()]  # Kaggle's have one column a class
    found = [(table, only_split_in(table.file.stem)) for table in tables if _is_list(table, data)]
    others = [(table, split) for table, split in found if not isinstance(table, JsonTable)]
    return others or (found if alone else [])


def _is_list(table: Table, data: DataSection) -> bool:
    named = only_split_in(table.file.stem) is not None and table.file.suffix.lower() != ".txt"
    return may_be_list(table, data.multi_label, data.labels, surely=named)


def in_splits(path: Path, data: DataSection) -> Files:
    """The lists in the folders of the splits, one in each, with the names of their columns (Roboflow's ``train/_classes.csv``)."""
    found: Files = []
    for folder in sorted(p for p in path.iterdir() if p.is_dir() and not is_hidden(p.name)):
        split = only_split_in(folder.name)
        files = find(folder, data) if split is not None else []
        found += [(table, split) for table, _ in files if not isinstance(table, CsvTable) or table.has_header]
        if split is not None and not files:
            return []
    splits = [split for _, split in found]
    return found if "train" in splits and 1 < len(splits) == len(set(splits)) else []


def find_below(path: Path, data: DataSection) -> Files:
    """The lists in the only folder directly in ``path`` that has any."""
    inner = sorted(p for p in path.iterdir() if p.is_dir() and not is_hidden(p.name))
    found = [files for folder in inner if (files := find(folder, data))]
    return found[0] if len(found) == 1 else []


def of_splits(files: Files, path: Path) -> tuple[Files, list[str]]:
    """The lists to read, and what is to be said of the others.

    Raises:
        DataError: there are several, and their names do not say which split each of them lists.
    """
    by_split: dict[str | None, Files] = {}
    for table, split in files:
        by_split.setdefault(split, []).append((table, split))
    several = [table.file for same in by_split.values() for table, _ in same if len(same) > 1]
    if several or (None in by_split and len(by_split) > 1):
        raise DataError(
            f"{path} has several lists: {join_names(t.file.relative_to(path) for t, _ in files)}. Give one of them, such as "
            f"data.path={likeliest(files)}; or put one list for each split (train.csv, val.csv, test.csv) into a folder of its own."
        )
    if None in by_split or set(by_split) == {"train"}:
        return [(table, None) for table, _ in files], _unlabelled(path, files)
    if files and "train" not in by_split:
        raise DataError(
            f"{path} has {join_names(t.file.name for t, _ in files)}, but no list of training images. Add one, or give one of "
            "these as data.path."
        )
    return files, _unlabelled(path, files)


def likeliest(files: Files) -> Path:
    """Of several lists, the one to suggest: first one of all images, else one of training images."""
    order = {None: 0, "train": 1}
    return min(files, key=lambda f: order.get(f[1], 2))[0].file


def _unlabelled(path: Path, files: Files) -> list[str]:
    """What is to be said of lists without classes, such as Kaggle's ``test.csv``."""
    folder = files[0][0].file.parent if files else path
    read = {table.file for table, _ in files}
    others = [t.file.name for t in _tables(folder) if t.file not in read and t.file.suffix.lower() != ".txt"]
    return (
        [f"Not read: {join_names(others)}, which {'name' if len(others) > 1 else 'names'} no classes."]
        if others
        else []
    )


def others_beside(file: Path, data: DataSection) -> list[str]:
    """The names of the other lists in the folder of a list that is read alone."""
    if column(open_table(file).columns(), (*SPLIT_COLUMNS, *FLAG_COLUMNS)) is not None:
        return []
    split = only_split_in(file.stem)
    others = [t.file.name for t, s in find(file.parent, data) if t.file.name != file.name and s is not None]
    return others if split is not None else []


def how_to_read_all(folder: Path, data: DataSection) -> str:
    """What takes the lists of all splits in a folder."""
    try:
        of_splits(find(folder, data), folder)
    except DataError:
        return "To read the list of another split, too, put one list for each split into a folder of their own."
    return f"data.path={folder} takes the lists of all splits."


def _tables(path: Path) -> list[Table]:
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in LIST_SUFFIXES and p.is_file())
    return [open_table(file) for file in files if not is_hidden(file.name)]
