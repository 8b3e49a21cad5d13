"""Parquet files with encoded images, as the datasets library and the Hugging Face Hub write them."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysweep._text import join_names
from raysweep.config.settings import DataSection
from raysweep.data import multi_label
from raysweep.data.listing import (
    Found,
    Row,
    Source,
    digest,
    label_name,
    split_in,
    split_value,
    stamp,
)
from raysweep.data.manifest import ManifestSource
from raysweep.data.reading import LeftOut
from raysweep.data.roles.groups import column_of, grouped
from raysweep.data.roles.words import AUTO, TEST, choose
from raysweep.data.tables import LABEL_COLUMNS, PATH_COLUMNS, SPLIT_COLUMNS, ParquetTable, column, meanings, plain_name
from raysweep.data.tree import is_hidden
from raysweep.errors import DataError

IMAGE_COLUMNS = ("image", "img", "image_bytes", "bytes", "jpg", "png")
UNLABELLED = "rows and files of test images without a class"
_RECENT = 32  # images of a file that are kept, for threads that ask for them a little later
SHARD = re.compile(r"-\d{5}-of-\d{5}")


def shards(path: Path) -> list[tuple[ParquetTable, str | None]]:
    """The Parquet files of a folder, and the split of each: taken from its name, else from the nearest folder's name.

    ``data/train-00000-of-00002.parquet`` and ``default/validation/0000.parquet`` name a split. A single file given as
    ``data.path`` has none, whatever its name: there are no other images.
    """
    if not path.is_dir():
        return [(ParquetTable(path), None)]
    files = [(file, file.relative_to(path)) for file in sorted(path.rglob("*.parquet")) if file.is_file()]
    found = [(ParquetTable(file), _split_in_path(inner)) for file, inner in files if not _is_hidden(inner)]
    splits = {split for _, split in found}
    if splits.isdisjoint(("val", "test")):  # train/ alone is no split
        return [(table, None) for table, _ in found]
    return found


def _is_hidden(inner: Path) -> bool:
    return any(map(is_hidden, inner.parts))


def _split_in_path(inner: Path) -> str | None:
    splits = map(split_in, (inner.stem, *reversed(inner.parent.parts)))
    return next((split for split in splits if split is not None), None)


def open_parquet(path: Path, data: DataSection | None = None) -> Source:
    """The source of a Parquet file or a folder of them: encoded images if there is a column of bytes, else paths of images.

    Raises:
        DataError: there is none, or the first one cannot be read.
    """
    files = shards(path)
    if not files:
        raise DataError(f"{path} holds no .parquet file. Set data.path to a folder with Parquet files, or to one file.")
    kinds = files[0][0].kinds()
    encoded, text = ([name for name, kind in kinds.items() if kind == wanted] for wanted in ("bytes", "text"))
    if column(encoded, IMAGE_COLUMNS) is None and column(text, PATH_COLUMNS) is not None:
        return ManifestSource(path, files, data=data)
    return ParquetSource(path, files, data.val if data else AUTO, column_of(data.group) if data else None, data)


class _Cells:
    """The encoded images of a file, read in their order: whoever asks for an earlier one has the file read from its beginning."""

    def __init__(self, table: ParquetTable, image: str) -> None:
        self.table, self.image = table, image
        self._lock = threading.Lock()
        self._rows: Iterator[tuple[int, list[Any]]] = iter(())
        self._next = 0
        self._last: deque[tuple[int, bytes]] = deque(maxlen=_RECENT)

    def read(self, number: int) -> bytes:
        """The bytes in a row; empty where there is something else, which decoding reports.

        Raises:
            OSError: the file cannot be read, or has no such row any more.
        """
        with self._lock:
            for row, content in self._last:
                if row == number:
                    return content
            if number < self._next or self._next == 0:
                self._rows, self._next = self.table.rows([self.image]), 0
                self._last.clear()
            for row, (value,) in self._rows:
                self._next = row + 1
                found = value.get("bytes") if isinstance(value, dict) else value
                self._last.append((row, found if isinstance(found, bytes) else b""))
                if row == number:
                    return self._last[-1][1]
            self._next = 0
        raise OSError(f"{self.table.file.name} has no row {number} any more")


@dataclass(frozen=True)
class InParquet:
    """An image's bytes in a row of a Parquet file."""

    cells: _Cells
    row: int
    size: int

    def read(self) -> bytes:
        return self.cells.read(self.row)


class ParquetSource:
    """Encoded image bytes (plain, or a struct with ``bytes``) and a label: text, or a number with or without names.

    The split comes from a column, else from the names of files and folders.
    """

    def __init__(
        self,
        path: Path,
        files: Sequence[tuple[ParquetTable, str | None]],
        asked: str = AUTO,
        group: str | None = None,
        data: DataSection | None = None,
    ) -> None:
        """
        Args:
            asked: ``data.val``.
            group: the column that ``data.group`` names.
            data: with ``multi_label`` and ``labels``.
        """
        self.path = path
        self.multi = data if data is not None and data.multi_label else None
        self.group = group
        self.asked = asked
        self._unlabelled: list[str] = []  # files and rows of sealed images without a class
        # Sealed images need not have labels: the Hub's often have none.
        sealed = asked != TEST or any(split == "val" for _, split in files)
        self.files = [(t, s) for t, s in files if not (sealed and s == "test" and self._lacks_labels(t))]

    def fingerprint(self) -> str:
        files = [stamp(table.file) for table, _ in self.files]
        asked = [] if self.multi is None else [list(self.multi.labels), self._asked_label, self.multi.classes]
        return digest([files, asked] if any(asked) else files)

    def _lacks_labels(self, table: ParquetTable) -> bool:
        lacking = column(table.columns(), self._wanted) is None
        self._unlabelled += [str(table.file.relative_to(self.path))] * lacking
        return lacking

    def found(self) -> Found:
        # Images are nearly all of a file. So labels and splits are read first, and then only the images that are needed.
        labels: list[Any] = []
        splits: list[str | None] = []
        starts: list[int] = []  # of each file: how many rows the files before it have
        for table, of_file in self.files:
            starts.append(len(labels))
            for label, split in self._labels(table, of_file):
                labels.append(label)
                splits.append(split)
        label_columns = [self._column(table.columns(), self._wanted, table) for table, _ in self.files]
        names = meanings([table for table, _ in self.files], label_columns)
        roles = choose(splits, self.path, self.asked)
        needed = {*roles.train, *(roles.val or []), *roles.test}
        rows: dict[int, Row] = {}
        for (table, _), start, end, of_file_names in zip(
            self.files, starts, [*starts[1:], len(labels)], names, strict=True
        ):
            if not needed.isdisjoint(range(start, end)):
                rows |= self._rows(table, start, end, needed, set(roles.test), labels, of_file_names)
        left_out = roles.left_out(lambda i: f"row {i - max(s for s in starts if s <= i)}")
        if self._unlabelled:
            left_out[UNLABELLED] = LeftOut.of(self._unlabelled)
        return roles.found(rows, left_out, tuple(roles.notes))

    def _labels(self, table: ParquetTable, of_file: str | None) -> Iterator[tuple[Any, str | None]]:
        """(label, split) of every row of one file; ``of_file`` is the split where no column gives one.

        Raises:
            DataError: a column is missing, or a row has an unknown split.
        """
        have = table.columns()
        self._images(table)
        label, split = self._column(have, self._wanted, table), column(have, SPLIT_COLUMNS)
        flags = [self._column(have, (name,), table) for name in self.multi.labels] if self.multi else []
        for number, values in table.rows([*(flags or [label]), *([split] if split else [])]):
            where = table.place(number)
            value = (
                multi_label.of_columns_or_error(flags, values[: len(flags)], self.multi, where)
                if self.multi and flags
                else values[0]
            )
            yield value, split_value(values[-1], where) if split else of_file

    @property
    def _wanted(self) -> tuple[str, ...]:
        """The names that the column of the class may have."""
        asked = [] if self.multi is None else self.multi.labels or ([self._asked_label] if self._asked_label else [])
        return tuple(asked) or LABEL_COLUMNS

    @property
    def _asked_label(self) -> str | None:
        return self.multi.columns.label if self.multi and self.multi.columns else None

    def _rows(
        self,
        table: ParquetTable,
        start: int,
        end: int,
        needed: Container[int],
        sealed: Container[int],
        labels: Sequence[Any],
        names: list[str] | None,
    ) -> dict[int, Row]:
        """The needed images of one file, by their position among the rows of all files."""
        rows: dict[int, Row] = {}
        group = None if self.group is None else column(table.columns(), [plain_name(self.group)])
        image = self._images(table)
        cells, size = _Cells(table, image), table.bytes_of_a_row([image])
        of_groups = dict(table.rows([group])) if group else {}
        for i in range(start, end):
            number = i - start
            if i in needed:
                try:
                    if isinstance(labels[i], DataError):
                        raise labels[i]
                    if self.multi is None:
                        label = label_name(labels[i], names, table.place(number))
                    else:
                        label = multi_label.of_cell(labels[i], names, self.multi, table.place(number))
                except DataError:
                    if i not in sealed:
                        raise
                    self._unlabelled.append(f"{table.file.name} row {number}")
                    continue
                row = Row(f"{table.file.name} row {number}", label, InParquet(cells, number, size))
                rows[i] = grouped(row, of_groups[number][0] if group else None)
        return rows

    @staticmethod
    def _images(table: ParquetTable) -> str:
        """The column that holds the images' bytes."""
        kinds = table.kinds()
        found = column([name for name, kind in kinds.items() if kind == "bytes"], IMAGE_COLUMNS)
        if found is not None:
            return found
        wrong = ParquetSource._column(list(kinds), IMAGE_COLUMNS, table)
        raise DataError(
            f"{table.file}: the column {wrong} does not hold the bytes of images. Write encoded PNG or JPEG images into it."
        )

    @staticmethod
    def _column(have: list[str], wanted: tuple[str, ...], table: ParquetTable) -> str:
        found = next((name for name in wanted if name in have), None) or column(have, tuple(map(plain_name, wanted)))
        if found is None:
            raise DataError(
                f"{table.file} has no column {' or '.join(wanted[:3])}: its columns are {join_names(have)}. Rename one."
            )
        return found
