"""FER-2013 as Kaggle publishes it: a CSV file that holds the pixels themselves, as numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raysweep._text import join_names, truncate
from raysweep.data.delimited import sniff
from raysweep.data.listing import Found, Row, class_name, digest, reason, split_value, stamp
from raysweep.data.roles.words import AUTO, choose
from raysweep.data.tables import LABEL_COLUMNS, MAX_BYTES, PATH_COLUMNS
from raysweep.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

# The numbers of Kaggle's FER-2013 CSV ("Challenges in Representation Learning", 2013).
FER_LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


class CsvSource:
    """FER-2013's CSV: columns ``emotion`` (0 to 6, or a name), ``pixels`` (the gray values of a square image), ``Usage``."""

    def __init__(self, path: Path, asked: str = AUTO) -> None:
        """
        Args:
            asked: ``data.val``.
        """
        self.path = path
        self.asked = asked

    def fingerprint(self) -> str:
        return digest(stamp(self.path))

    def found(self) -> Found:
        table = self._table()
        names = [self._label(v.strip(), line) for line, v in enumerate(table["emotion"], start=2)]
        splits: list[str | None] = [None] * len(names)
        if "Usage" in table.columns:
            splits = [split_value(v, f"{self.path}, line {line}") for line, v in enumerate(table["Usage"], start=2)]
        roles = choose(splits, self.path, self.asked)
        rows = [
            Row(f"line {line}", name, self._pixels(text))
            for line, (name, text) in enumerate(zip(names, table["pixels"], strict=True), start=2)
        ]
        notes = (*sniff(self.path).notes(self.path, header=True), *roles.notes)
        return roles.found(rows, roles.left_out(lambda i: f"line {i + 2}"), notes)

    def _table(self) -> pd.DataFrame:
        """The file's content as text, with its columns checked."""
        import pandas as pd

        if self.path.stat().st_size > MAX_BYTES:
            raise DataError(f"{self.path} is larger than {MAX_BYTES:,} bytes. Store this many images in Parquet files.")
        try:
            form = sniff(self.path)
            table = pd.read_csv(
                self.path,
                dtype=str,
                keep_default_na=False,
                sep=form.delimiter,
                encoding=form.encoding,
                skiprows=form.first,
            )
        except Exception as error:
            raise DataError(f"{self.path} cannot be read as CSV: {reason(error)}. Repair the file.") from None
        if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus fields for an index and shifts the rest
            raise DataError(
                f"{self.path} cannot be read as CSV: its rows have more fields than its first line has names. Name every "
                "column in the first line."
            )
        known = {name.lower(): name for name in ("emotion", "pixels", "Usage")}
        table.columns = pd.Index([known.get(str(c).strip().lower(), str(c).strip()) for c in table.columns])
        missing = [c for c in ("emotion", "pixels") if c not in table.columns]
        if missing:
            raise DataError(
                f"{self.path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}: it has "
                f"{join_names(table.columns)}. FER-2013's columns are emotion,pixels,Usage; a list of files needs one of the "
                f"columns {', '.join(PATH_COLUMNS)} and one of {', '.join(LABEL_COLUMNS)}."
            )
        return table

    def _label(self, value: str, line: int) -> str:
        if not value.isdecimal():
            if not value:
                raise DataError(
                    f"{self.path}, line {line}: the column emotion is empty. Give a number from 0 to 6 or a name."
                )
            return class_name(value, f"{self.path}, line {line}")
        if len(value) > 9 or int(value) >= len(FER_LABELS):
            raise DataError(
                f"{self.path}, line {line}: emotion {truncate(value, 40)} is not one of 0 to 6 ({', '.join(FER_LABELS)}). Correct it."
            )
        return FER_LABELS[int(value)]

    @staticmethod
    def _pixels(text: str) -> np.ndarray | bytes:
        """Pixels of shape (side, side); or the text itself if it is no square image, which decoding reports."""
        try:
            values = np.array(text.split(), dtype=np.uint8)
        except (ValueError, OverflowError):
            return text.encode()
        side = round(len(values) ** 0.5)
        return values.reshape(side, side) if side and side * side == len(values) else text.encode()
