"""``effects.csv``: every effect of a comparison as a row."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from raysweep.report import effects
from raysweep.report.comparison import Comparison
from raysweep.store import files


def write(comparison: Comparison, path: Path) -> None:
    """Write ``effects.csv``: one row per branch, class and metric. Metrics over all classes have the class ``(all)``. What is not
    known is empty."""

    def cell(value: Any) -> Any:
        return None if isinstance(value, float) and math.isnan(value) else value

    rows: list[list[Any]] = [list(effects.COLUMNS)]
    rows += [[cell(value) for value in effects.as_row(e).values()] for e in comparison.rows]
    files.write_atomic(path, files.csv_text(rows).encode())
