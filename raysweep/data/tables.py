"""Tables of any kind, read row by row and within bounds: CSV, JSON lines and Parquet.

A table may come from a stranger, so each has limits: the length of a line, the size of a file, and the memory of a
Parquet file, in which a few bytes can stand for any number of rows.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raysweep._text import join_names, short_repr
from raysweep.data.delimited import Dialect, looks_like_image, sniff
from raysweep.data.listing import reason
from raysweep.errors import DataError

MAX_BYTES = 2_000_000_000  # of a CSV or JSON lines file; FER-2013's CSV has 300 MB
MAX_LINE = 1_000_000
MAX_ROWS = 20_000_000
# A Parquet file may unpack to FREE_BYTES + MAX_GROWTH × its own size. Images are compressed already and hardly grow;
# labels, which do grow, fit into FREE_BYTES.
MAX_GROWTH = 20
FREE_BYTES = 256_000_000
_BUFFER = 1 << 20  # bytes of a Parquet file that are read at once, instead of a whole chunk of a column

# As people and public data sets call them, in the order in which they count; :func:`plain_name` tells what is the same name.
PATH_COLUMNS = (
    "path", "file", "file_name", "image", "filename",
    "image_path", "img_path", "file_path", "filepath", "filepaths", "image_name", "img_name", "imagename", "image_file",
    "image_id", "img_id", "img", "id_code", "image_index", "picture", "photo", "name", "id",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "emotion", "class", "target", "fine_label",
    "class_name", "classname", "label_name", "classes", "category", "species", "breed", "dx", "diagnosis", "finding",
    "finding_labels", "findings", "expression", "disease", "variety", "class_id", "label_id", "category_id",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "usage", "subset")
MAYBE_SPLIT_COLUMNS = (
    "set",
    "partition",
    "phase",
    "data_set",
    "dataset",
    "fold",
)  # if their values are words for splits
# fastai's and CUB's way: a column that is true for the images of one split. → the split of true, of false
FLAG_COLUMNS = {
    **dict.fromkeys(("is_valid", "is_val", "is_validation"), ("val", "train")),
    "is_test": ("test", "train"),
    **dict.fromkeys(("is_train", "is_training", "is_training_img", "is_training_image"), ("train", "test")),
}
FOLD_COLUMNS = (*MAYBE_SPLIT_COLUMNS, "folds", "kfold", "k_fold", "cv_fold")
LIST_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl")


def plain_name(name: str) -> str:
    """A column's name in lower case, with one underscore for spaces, dots and hyphens: ``Image name`` is ``image_name``."""
    return re.sub(r"[\s._-]+", "_", name.strip().lower())


def column(have: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The first wanted column that exists, as the table spells it."""
    return next(iter(every_column(have, wanted)), None)


def every_column(have: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The wanted columns that exist, as the table spells them, in the order of ``wanted``."""
    plain = {plain_name(name): name for name in reversed(have)}
    return [plain[w] for w in wanted if w in plain]


def open_table(file: Path) -> Table:
    """The table in a file; its suffix selects the kind, CSV by default. Nothing is read yet."""
    return {".jsonl": JsonTable, ".parquet": ParquetTable}.get(file.suffix.lower(), CsvTable)(file)


def meanings(tables: Sequence[Table], labels: Sequence[str]) -> list[list[str] | None]:
    """The class names for the numbers in each table's column of labels; None where no table has names.

    A table without names takes those of the other tables.

    Raises:
        DataError: a table has no names, and the others have different ones.
    """
    names = [table.class_names(label) for table, label in zip(tables, labels, strict=True)]
    given = [n for n in names if n is not None]
    if not given or len(given) == len(names):
        return names
    if any(n != given[0] for n in given):
        raise DataError(
            f"{tables[names.index(None)].file} does not say which classes its labels stand for, and the files beside it "
            "disagree. Write the labels as text."
        )
    return [given[0]] * len(names)


class Table(ABC):
    """A file with named columns."""

    encoding = "utf-8-sig"

    def __init__(self, file: Path) -> None:
        self.file = file

    @abstractmethod
    def columns(self) -> list[str]:
        """The names of the columns; for JSON lines, those of the first line.

        Raises:
            DataError: the file cannot be read.
        """

    @abstractmethod
    def _rows(self, names: Sequence[str]) -> Iterator[tuple[int, list[Any]]]: ...

    def rows(self, names: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        """(number, the values of these columns) of each row. Numbers count lines from 1, or Parquet's rows from 0.

        Values of CSV are texts without outer spaces; all others have the type they have in the file. A missing value is None.

        Raises:
            DataError: the table cannot be read, a row does not fit the columns, or the table exceeds the limits above.
        """
        every = self.columns()
        for name in names:
            if every.count(name) > 1:
                raise DataError(f"{self.file} has the column {name} more than once. Remove or rename one.")
        for count, row in enumerate(self._rows(names)):
            if count >= MAX_ROWS:
                raise DataError(
                    f"{self.file} has more than {MAX_ROWS:,} rows, more than raysweep reads. Split the file."
                )
            yield row

    def place(self, number: int) -> str:
        """Where a row is, for messages."""
        return f"{self.file}, line {number}"

    def notes(self) -> list[str]:
        """What is unusual about the file, for people."""
        return []

    def class_names(self, label: str) -> list[str] | None:
        """The class names for the numbers in a column of labels; None if the table has none.

        Raises:
            DataError: two numbers have the same name.
        """
        return None

    def _lines(self, kind: str) -> Iterator[str]:
        if self.file.stat().st_size > MAX_BYTES:
            raise DataError(f"{self.file} is larger than {MAX_BYTES:,} bytes. Store this many images in Parquet files.")
        try:
            with open(self.file, encoding=self.encoding, newline="") as opened:
                number = 0
                while line := opened.readline(MAX_LINE + 1):
                    number += 1
                    if len(line) > MAX_LINE:
                        raise DataError(
                            f"{self.place(number)} is longer than {MAX_LINE:,} characters, so it is no list of images. Correct data.path."
                        )
                    yield line
        except UnicodeError as error:
            raise DataError(
                f"{self.file} cannot be read as {kind}: {reason(error)}. Save it as UTF-8; Excel calls this format CSV UTF-8."
            ) from None

    def _unreadable(self, kind: str, error: BaseException) -> DataError:
        return DataError(f"{self.file} cannot be read as {kind}: {reason(error)}. Repair the file, or create it again.")


class CsvTable(Table):
    """A text file with a line for each row, in whatever :class:`~raysweep.data.delimited.Dialect` it has. The first line has the
    names of the columns, unless it names an image; the columns then are called 1, 2 and so on."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self._dialect: Dialect | None = None
        self._names: list[str] | None = None
        self.has_header = True
        self._numbered = False

    @property
    def dialect(self) -> Dialect:
        if self._dialect is None:
            self._dialect = sniff(self.file)
            self.encoding = self._dialect.encoding
        return self._dialect

    def columns(self) -> list[str]:
        if self._names is None:
            first = next((row for _, row in self._fields()), [])
            known = column(first, PATH_COLUMNS + LABEL_COLUMNS) is not None
            self.has_header = known or not (self._numbered or any(map(looks_like_image, first)))
            self._names = first if self.has_header else [str(i + 1) for i in range(len(first))]
        return self._names

    def may_lack_header(self) -> None:
        """The user gives the numbers of the columns: the first line has their names only if it has known ones."""
        self._numbered, self._names = True, None

    def notes(self) -> list[str]:
        self.columns()
        return self.dialect.notes(self.file, self.has_header)

    def _fields(self) -> Iterator[tuple[int, list[str]]]:
        dialect = self.dialect
        lines = itertools.islice(self._lines("CSV"), dialect.first, None)
        if dialect.delimiter == " ":
            for number, line in enumerate(lines, start=1 + dialect.first):
                if line.strip():
                    yield number, line.strip().rsplit(None, 1)
            return
        reader = csv.reader(lines, strict=True, delimiter=dialect.delimiter)
        try:
            for row in reader:
                if len(row) > 1 or (row and row[0].strip()):  # else the line is empty
                    yield reader.line_num + dialect.first, [value.strip() for value in row]
        except csv.Error as error:
            raise self._unreadable("CSV", error) from None

    def _rows(self, names: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        have = self.columns()
        fields = self._fields()
        if self.has_header:
            next(fields, None)
        positions = [have.index(name) for name in names]
        for number, row in fields:
            if len(row) != len(have):
                raise DataError(
                    f"{self.place(number)} has {len(row)} field{'s' * (len(row) > 1)}, but the first line "
                    f"{'names' if self.has_header else 'has'} {len(have)} "
                    f"column{'s' * (len(have) > 1)}. Put texts that contain {'commas' if self.dialect.delimiter == ',' else 'the delimiter'} "
                    "in double quotes."
                )
            yield number, [row[i] for i in positions]


class JsonTable(Table):
    """One JSON object per line."""

    def columns(self) -> list[str]:
        return list(next((value for _, value in self._objects()), {}))

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(self._lines("JSON lines"), start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{self.place(number)} is no JSON: {reason(error)}. Write one object per line."
                ) from None
            if not isinstance(value, dict):
                raise DataError(
                    f"{self.place(number)} is {short_repr(value)}, not an object. Write one object per line."
                )
            yield number, value

    def _rows(self, names: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        return ((number, [value.get(name) for name in names]) for number, value in self._objects())


class ParquetTable(Table):
    """A Parquet file; its columns may also hold bytes."""

    def columns(self) -> list[str]:
        return list(self._opened().schema_arrow.names)

    def place(self, number: int) -> str:
        return f"{self.file} row {number}"

    def kinds(self) -> dict[str, str]:
        """Column → ``bytes``, ``text`` or ``other``. A struct and a column without any value count as bytes.

        Raises:
            DataError: the file cannot be read.
        """
        found = {}
        for field in self._opened().schema_arrow:
            kind = str(field.type).removeprefix("dictionary<values=")
            if kind.startswith(("string", "large_string")):
                found[field.name] = "text"
            elif kind.startswith(("binary", "large_binary", "fixed_size_binary", "struct", "null")):
                found[field.name] = "bytes"
            else:
                found[field.name] = "other"
        return found

    def class_names(self, label: str) -> list[str] | None:
        """The names that the datasets library stores in the schema's metadata."""
        try:
            metadata = json.loads(self._opened().schema_arrow.metadata[b"huggingface"])
            feature = metadata["info"]["features"][label]
            names = feature.get("feature", feature)["names"]  # of a list of classes those of its items
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
            return None
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            return None
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise DataError(
                f"{self.file} has several numbers for the class {join_names(twice)}. Give each number a name of its own."
            )
        return names

    def _opened(self) -> Any:
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(self.file, buffer_size=_BUFFER)
        except Exception as error:  # pyarrow raises many kinds for broken files
            raise self._unreadable("Parquet", error) from None

    def bytes_of_a_row(self, names: Sequence[str]) -> int:
        """About how many bytes these columns have in a row.

        Raises:
            DataError: the table cannot be read, or exceeds the limits above.
        """
        opened = self._opened()
        sizes = self._sizes(opened, names, self._most())
        return sum(sizes) // max(1, int(opened.metadata.num_rows))

    def _most(self) -> int:
        return FREE_BYTES + MAX_GROWTH * self.file.stat().st_size

    def _sizes(self, opened: Any, names: Sequence[str], most: int) -> list[int]:
        count, sizes = opened.metadata.num_rows, self._chunk_sizes(opened.metadata, names)
        if count > MAX_ROWS or sum(sizes) > most:
            raise self._too_much(sum(sizes), count)
        return sizes

    def _rows(self, names: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        most = self._most()
        opened = self._opened()
        count, sizes = opened.metadata.num_rows, self._sizes(opened, names, most)
        # One value may be as large as its chunk and appear in every row: the rows of a batch fit in memory even then.
        at_once = max(1, min(1024, FREE_BYTES // max([*sizes, 1])))
        total = number = 0
        for size, values in self._batches(opened, names, at_once):
            total += size
            if total > most:
                raise self._too_much(total, count)
            for row in zip(*values, strict=True):
                yield number, list(row)
                number += 1

    @staticmethod
    def _chunk_sizes(metadata: Any, names: Sequence[str]) -> list[int]:
        """Uncompressed bytes of each chunk of these columns, as the file declares them."""
        groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
        chunks = [group.column(c) for group in groups for c in range(group.num_columns)]
        return [c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] in names]

    def _batches(self, opened: Any, names: Sequence[str], at_once: int) -> Iterator[tuple[int, list[list[Any]]]]:
        """(bytes, the values of each column) of ``at_once`` rows at a time."""
        batches = opened.iter_batches(batch_size=at_once, columns=list(names))
        while True:
            try:
                batch = next(batches, None)
                values = [] if batch is None else [batch.column(name).to_pylist() for name in names]
            except Exception as error:  # pyarrow raises many kinds for broken files
                raise self._unreadable("Parquet", error) from None
            if batch is None:
                return
            yield batch.nbytes, values

    def _too_much(self, size: int, count: int) -> DataError:
        return DataError(
            f"{self.file} has {self.file.stat().st_size:,} bytes, but declares {count:,} rows of {size:,} bytes or more in "
            "total, as no file of images does. Use another file."
        )
