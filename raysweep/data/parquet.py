"""Parquet files with encoded images, as the datasets library and the Hugging Face Hub write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raysweep._text import join_names
from raysweep.data.listing import (
    Listing,
    Row,
    Source,
    choose,
    digest,
    label_name,
    listing_of,
    split_in,
    split_value,
    stamp,
)
from raysweep.data.manifest import ManifestSource
from raysweep.data.tables import LABEL_COLUMNS, PATH_COLUMNS, SPLIT_COLUMNS, ParquetTable, column, meanings
from raysweep.errors import DataError

IMAGE_COLUMNS = ("image", "img", "image_bytes", "bytes", "jpg", "png")
SHARD = re.compile(r"-\d{5}-of-\d{5}")


def shards(path: Path) -> list[tuple[ParquetTable, str | None]]:
    """The Parquet files of a folder, and the split of each: by its name, else by the nearest folder that tells one.

    ``data/train-00000-of-00002.parquet`` and ``default/validation/0000.parquet`` tell one. A single file given as
    ``data.path`` tells none, whatever its name: it is all there is. Where there are validation files, test files are left
    alone, as :func:`~raysweep.data.listing.choose` leaves rows; they need not even have labels.
    """
    if not path.is_dir():
        return [(ParquetTable(path), None)]
    found: list[tuple[ParquetTable, str | None]] = []
    for file in sorted(path.rglob("*.parquet")):
        inner = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in inner.parts):
            told = (split_in(part) for part in (inner.stem, *reversed(inner.parent.parts)))
            found.append((ParquetTable(file), next((split for split in told if split is not None), None)))
    if any(split == "val" for _, split in found):
        return [(table, split) for table, split in found if split != "test"]
    if not any(split == "test" for _, split in found):  # train/ alone is no split either
        return [(table, None) for table, _ in found]
    return found


def open_parquet(path: Path) -> Source:
    """The source of a Parquet file or a folder of them: encoded images if there is a column of bytes, else paths of images.

    Raises:
        DataError: there is none, or the first one cannot be read.
    """
    files = shards(path)
    if not files:
        raise DataError(f"{path} holds no .parquet file. Give a folder that does, or a file.")
    kinds = files[0][0].kinds()
    encoded, text = ([name for name, kind in kinds.items() if kind == wanted] for wanted in ("bytes", "text"))
    if column(encoded, IMAGE_COLUMNS) is None and column(text, PATH_COLUMNS) is not None:
        return ManifestSource(path, files)
    return ParquetSource(path, files)


class ParquetSource:
    """Encoded image bytes (plain, or a struct with ``bytes``) and a label: text, or a number with or without names.

    The split is told by a column, else by the names of files and folders.
    """

    def __init__(self, path: Path, files: Sequence[tuple[ParquetTable, str | None]]) -> None:
        self.path = path
        self.files = files

    def fingerprint(self) -> str:
        return digest([stamp(table.file) for table, _ in self.files])

    def listing(self) -> Listing:
        # Labels and splits first: images that are not needed, and they are nearly all of a file, are not read.
        labels: list[Any] = []
        splits: list[str | None] = []
        image_columns: list[str] = []
        starts = [0]
        label_columns: list[str] = []
        for table, of_table in self.files:
            have = table.columns()
            image_columns.append(self._images(table))
            label_columns.append(self._column(have, LABEL_COLUMNS, table))
            split = column(have, SPLIT_COLUMNS)
            for number, values in table.rows([label_columns[-1], *([split] if split else [])]):
                labels.append(values[0])
                splits.append(split_value(values[1], table.place(number)) if split else of_table)
            starts.append(len(labels))
        names = meanings([table for table, _ in self.files], label_columns)
        train, val = choose(splits, self.path)
        needed = {*train, *(val or [])}
        rows: dict[int, Row] = {}
        for t, (table, _) in enumerate(self.files):
            if needed.isdisjoint(range(starts[t], starts[t + 1])):
                continue
            for number, (payload,) in table.rows([image_columns[t]]):
                i = starts[t] + number
                if i in needed:
                    data = payload.get("bytes") if isinstance(payload, dict) else payload
                    label = label_name(labels[i], names[t], table.place(number))
                    # What is no bytes is left for decoding to report.
                    rows[i] = Row(f"{table.file.name} row {number}", label, data if isinstance(data, bytes) else b"")
        return listing_of([rows[i] for i in train], None if val is None else [rows[i] for i in val])

    @staticmethod
    def _images(table: ParquetTable) -> str:
        kinds = table.kinds()
        found = column([name for name, kind in kinds.items() if kind == "bytes"], IMAGE_COLUMNS)
        if found is not None:
            return found
        wrong = ParquetSource._column(list(kinds), IMAGE_COLUMNS, table)
        raise DataError(
            f"{table.file}: the column {wrong} does not hold the bytes of images. Write PNG or JPEG into it."
        )

    @staticmethod
    def _column(have: list[str], wanted: tuple[str, ...], table: ParquetTable) -> str:
        found = column(have, wanted)
        if found is None:
            raise DataError(
                f"{table.file} has no column {' or '.join(wanted[:3])}: its columns are {join_names(have)}. Rename one."
            )
        return found
