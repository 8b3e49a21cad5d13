"""``effects.csv``: every effect of a comparison as a row."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from raysweep.report.comparison import Comparison
from raysweep.report.effects_table import row_of
from raysweep.store import files


def write(comparison: Comparison, path: Path) -> None:
    """Write ``effects.csv``: one row per branch, class and metric. Metrics over all classes have the class ``(all)``. What is not
    known is empty."""

    def cell(value: Any) -> Any:
        return None if isinstance(value, float) and math.isnan(value) else value

    every = [row_of(comparison, e) for e in comparison.rows]
    rows: list[list[Any]] = [list(every[0]), *([cell(value) for value in row.values()] for row in every)]
    files.write_atomic(path, files.csv_text(rows).encode())
