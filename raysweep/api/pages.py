"""What experiments and sweeps have in common: their report, their curves, how a number is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep._paths import user_path
from raysweep._text import percent
from raysweep.api.given import Held, Reference, text
from raysweep.errors import InputError
from raysweep.store.root import Root

if TYPE_CHECKING:
    import pandas as pd

    from raysweep.report.comparison import Comparison

CHECKPOINTS = [
    ("checkpoint", "l"),
    ("loss", "r"),
    ("val loss", "r"),
    ("accuracy", "r"),
    ("macro-F1", "r"),
    ("worst class", "l"),
    ("", "l"),
]


def worst(metrics: Mapping[str, Any]) -> str:
    """``disgust 12.0%``: the class of the lowest recall; empty where it is not known."""
    name = metrics.get("worst_class")
    return f"{name} {percent(metrics.get('worst_recall'))}" if name else ""


def report_of(root: Root, reference: str, path: Reference | None = None) -> Path:
    """Write the page of a sweep or an experiment, by default into its folder, and return its path.

    Raises:
        InputError: ``path`` is a folder, or in a folder that is not there. NotFoundError: there is no such sweep or experiment.
        StoreError: it cannot be written. LockedError: it still runs, and no path is given.
    """
    from raysweep.report import page

    target = user_path(text(path)) if path is not None else None
    if target is not None and (target.is_dir() or not target.absolute().parent.is_dir()):
        raise InputError(
            f"{text(path or '')} cannot be the report: give the name of a file in a folder that exists, such as report.html."
        )
    return page.write(root, reference, target)


def write_report(of: Held, path: Reference | None) -> Path:
    """The same of an object."""
    return report_of(of.stored.root, str(of.folder), path)


def effects_frame(found: Comparison) -> pd.DataFrame:
    """A row for each branch, class and metric, with the columns of ``effects.csv``."""
    import pandas as pd

    from raysweep.report import effects
    from raysweep.report.effects_table import row_of

    rows = [dict(row_of(found, e)) for e in found.rows]
    return pd.DataFrame(rows, columns=None if rows else list(effects.COLUMNS))


def chosen(frame: pd.DataFrame, column: str, value: str | None, known: Sequence[str]) -> pd.DataFrame:
    """The rows with this value.

    Raises:
        InputError: no row can have it.
    """
    from raysweep.errors import did_you_mean

    if value is None:
        return frame
    if value not in known:
        raise InputError(f"There is no {column} {value!r}.{did_you_mean(value, known)} There are: {', '.join(known)}.")
    return frame[frame[column] == value].reset_index(drop=True)
