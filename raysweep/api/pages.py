"""What experiments and sweeps have in common: their report, their curves, how a number is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep._paths import user_path
from raysweep._text import decimals, percent, plain
from raysweep.api.given import Held, Reference, text
from raysweep.errors import InputError
from raysweep.label_sets import MAP
from raysweep.store.root import Root

if TYPE_CHECKING:
    import pandas as pd

    from raysweep.report.comparison import Comparison

_CHECKPOINTS = ("checkpoint", "loss", "val loss", MAP, "accuracy", "macro-F1", "worst class", "")
_WORDS = ("checkpoint", "worst class", "worst label", "")  # columns that hold no numbers


def checkpoints(
    every: Sequence[tuple[int, int | None, Mapping[str, Any], bool]],
) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """The columns and rows of a table of checkpoints; mAP is a column of those with several labels for an image.

    Args:
        every: of each its epoch, its batch within it (None at the end), its metrics, and whether it is the best.
    """
    several = any(MAP in metrics for _, _, metrics, _ in every)
    rows = []
    for epoch, batch, metrics, best in every:
        cells = {
            "checkpoint": f"@{epoch}" if batch is None else f"epoch {epoch}, batch {batch}",
            "loss": decimals(metrics.get("train_loss")),
            "val loss": decimals(metrics.get("val_loss")),
            MAP: decimals(metrics.get(MAP)),
            "accuracy": percent(metrics.get("val_acc")),
            "macro-F1": decimals(metrics.get("val_macro_f1")),
            "worst class": plain(worst(metrics)) or "-",
            "": "best" if best else "",
        }
        within = {name: "" for name in cells if name != "checkpoint" and batch is not None}
        rows.append([text for name, text in (cells | within).items() if several or name != MAP])
    heads = [name for name in _CHECKPOINTS if several or name != MAP]
    heads = [name.replace("class", "label") for name in heads] if several else heads
    return [(name, "l" if name in _WORDS else "r") for name in heads], rows


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
