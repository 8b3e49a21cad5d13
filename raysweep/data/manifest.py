"""Tables that name a file and a class for each image: a manifest written by the user, or a data set's metadata files."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from raysweep._text import join_names, short_repr, truncate
from raysweep.data.listing import (
    Listing,
    Row,
    choose,
    digest,
    label_name,
    listing_of,
    marks,
    split_of,
    split_value,
    stamp,
)
from raysweep.data.tables import LABEL_COLUMNS, PATH_COLUMNS, SPLIT_COLUMNS, Table, column, meanings
from raysweep.errors import DataError

MAX_REPORTED = 5


class _Line(NamedTuple):
    """A row of a table as it was read; ``table`` is the table's position among the source's files."""

    table: int
    number: int
    image: Any
    label: Any
    split: str | None


class ManifestSource:
    """CSV, JSON lines or Parquet with a column for each image's path, one for its class, and optionally one for its split.

    The columns are found by name, in this order and in upper or lower case: ``path, file, file_name, image, filename``; ``label,
    labels, emotion, class, target, fine_label``; ``split, usage, subset`` with the words ``train``/``training``,
    ``val``/``valid``/``validation``/``dev`` and ``test``/``testing``/``eval``/``evaluation``. Without a column for the split
    and without a table for each split, the cache sets a part of each class aside. Where there are both val and test rows,
    the test rows are not read.

    A relative path starts at the table's folder and must stay inside it: a table from a stranger must not read other files
    of this machine. Links inside the folder are followed wherever they point, just as links among class folders are,
    because Hugging Face's own cache consists of links. An absolute path is accepted only from a table that ``data.path``
    itself names, because its owner wrote it for this machine; never from the metadata file or the shards of a folder. A
    path must lead to a regular file.
    """

    def __init__(self, path: Path, files: Sequence[tuple[Table, str | None]], remedy: str = "") -> None:
        """
        Args:
            path: what ``data.path`` names: one of the tables, or a folder.
            files: the tables, each with its split (``train``, ``val`` or ``test``) where its own name says it.
            remedy: added to the error about a table that has no column for the class.
        """
        self.path = path
        self.files = files
        self.remedy = remedy
        self.absolute = not path.is_dir()
        self._read: tuple[list[Row], list[Row] | None, list[Any]] | None = None

    def _lines(self) -> tuple[list[_Line], list[list[str] | None]]:
        """Every row of every table, and each table's class names for numbers."""
        lines: list[_Line] = []
        labels = []
        for t, (table, of_table) in enumerate(self.files):
            have = table.columns()
            image, label, split = (column(have, c) for c in (PATH_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS))
            if image is None or label is None:
                wanted = PATH_COLUMNS if image is None else LABEL_COLUMNS
                raise DataError(
                    f"{table.file} has no column {', '.join(wanted[:-1])} or {wanted[-1]}: its columns are {join_names(have)}. "
                    f"Rename a column{self.remedy}."
                )
            labels.append(label)
            for number, values in table.rows([image, label, *([split] if split else [])]):
                of_row = split_value(values[2], table.place(number)) if split else of_table
                lines.append(_Line(t, number, values[0], values[1], of_row))
        return self._by_folder(lines), meanings([table for table, _ in self.files], labels)

    def _by_folder(self, lines: list[_Line]) -> list[_Line]:
        """The rows of a metadata file beside ``train/`` and ``test/``, with the split of each image's own folder."""
        if self.absolute or any(line.split is not None for line in lines):
            return lines
        splits = [split_of(str(line.image).replace("\\", "/").split("/")[0]) for line in lines]
        if None in splits or "train" not in splits or len(set(splits)) == 1:
            return lines
        return [line._replace(split=split) for line, split in zip(lines, splits, strict=True)]

    def _rows(self) -> tuple[list[Row], list[Row] | None, list[Any]]:
        """(training rows, validation rows, what changes with their files); files of other rows may be missing."""
        if self._read is None:
            lines, names = self._lines()
            train, val = choose([line.split for line in lines], self.path)
            stamps: list[Any] = []
            missing: list[str] = []
            parts: list[list[Row]] = []
            for part in (train, val or []):
                parts.append([])
                for i in part:
                    line = lines[i]
                    table, _ = self.files[line.table]
                    where = table.place(line.number)
                    label = label_name(line.label, names[line.table], where)
                    file, found = self._file(table.file.parent, line.image, where)
                    if found is None:
                        missing.append(f"{where}: {truncate(line.image, 200)}")
                        continue
                    parts[-1].append(Row(truncate(line.image, 200), label, file))
                    stamps.append([part is train, str(file), label, *marks(found)])
            if missing:
                some = "; ".join(missing[:MAX_REPORTED]) + " …" * (len(missing) > MAX_REPORTED)
                raise DataError(
                    f"{len(missing):,} of {len(train) + len(val or []):,} images that {self.path} names are missing: "
                    f"{some}. Relative paths start at the table's own folder. Add the files or remove the rows."
                )
            self._read = parts[0], None if val is None else parts[1], stamps
        return self._read

    def _file(self, folder: Path, text: Any, where: str) -> tuple[Path, os.stat_result | None]:
        """The file that a row names, and its ``stat``; None for the latter if there is no such file.

        Raises:
            DataError: the row names no file, one outside the table's folder, or one that is not a regular file.
        """
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where} names no image: its path is {short_repr(text)}. Give every row a path.")
        # Normalised as text before it is opened, so that ".." after a link cannot lead to another folder.
        inner = os.path.normpath(text)
        if os.path.isabs(text):
            if not self.absolute:
                raise DataError(
                    f"{where} names {truncate(text, 200)}. In a table that was found in a folder, a path must be relative to the table's own "
                    "folder. Make it relative, or set data.path to the table itself."
                )
        elif inner == os.pardir or inner.startswith(os.pardir + os.sep):
            raise DataError(
                f"{where} names {truncate(text, 200)}, which lies outside {folder}. Move the image or the table; or set "
                "data.path to the table itself and write an absolute path."
            )
        file = folder / inner
        try:
            found = os.stat(file)
        except (OSError, ValueError):  # ValueError: a zero byte in the path
            return file, None
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would never end
            raise DataError(f"{where} names {truncate(text, 200)}, which is no regular file. Name an image file.")
        return file, found

    def fingerprint(self) -> str:
        return digest([[stamp(table.file) for table, _ in self.files], self._rows()[2]])

    def listing(self) -> Listing:
        train, val, _ = self._rows()
        return listing_of(train, val)
