"""Read Parquet files into NumPy without pandas, which ``pyarrow.parquet.read_table`` and ``to_numpy`` load: half a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from raysweep.store import files


def read(path: Path) -> Any:
    """The whole file as a ``pyarrow.Table``.

    Raises:
        OSError, ValueError: it cannot be read, or is no Parquet file.
    """
    import pyarrow.parquet as pq

    with files.open_regular(path) as file:
        return pq.ParquetFile(file).read()


def numbers(table: Any, name: str) -> np.ndarray:
    """A column of numbers, (n,), or of lists of equal length, flattened; read-only.

    Raises:
        KeyError: there is no such column. ValueError, TypeError: it has other values, or gaps.
    """
    import pyarrow as pa

    column = table[name].combine_chunks()
    if pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    return np.from_dlpack(column)
