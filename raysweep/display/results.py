"""The table of a sweep's branches: what the last epoch of each reached, and the classes that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raysweep._text import labels, plain
from raysweep.display.shares import MOST_CLASSES
from raysweep.display.tables import table
from raysweep.display.terminal import decimals, percent
from raysweep.label_sets import MAP
from raysweep.store.results import controls

Row = Mapping[str, Any]  # of results.csv

_COLUMNS = [
    ("branch", "l"),
    ("status", "l"),
    ("accuracy", "r"),
    ("accuracy − control", "r"),
    ("macro-F1", "r"),
    ("macro-F1 − control", "r"),
    ("worst class", "l"),
]


def results_table(rows: Sequence[Row], err: bool = False, whole: str = "--json") -> None:
    """Print the last epoch of every branch, from the rows of results.csv. Of the classes: those whose weights differ between the
    branches, then those whose recall differs most from the control's.

    Args:
        whole: what has everything, where a terminal is narrow.
    """
    against = controls(rows)
    classes = [k.removeprefix("recall_") for k in dict.fromkeys(k for r in rows for k in r) if k.startswith("recall_")]
    sizes = {c: (_varied(rows, c), _largest(rows, against, c)) for c in classes}
    several = any(MAP in r for r in rows)
    of_maps = [(MAP, "r"), (f"{MAP} − control", "r")]
    first = [*_COLUMNS[:2], *of_maps, *_COLUMNS[2:-1], ("worst label", "l")] if several else _COLUMNS
    columns = [*first, *((c, "r") for c in labels(classes))]
    cells = [
        [*_cells(r, several), *(_recall(r, its, c) for c in classes)] for r, its in zip(rows, against, strict=True)
    ]
    title = "Last epoch of every branch (* control)"
    title += "; classes: recall, of branches in points against the control of their seed" if classes else ""
    least = [len(first) + i for i in sorted(range(len(classes)), key=lambda i: sizes[classes[i]])]
    table(
        title,
        columns,
        cells,
        err=err,
        least=least,
        most=MOST_CLASSES,
        optional=[n + 2 * several for n in (6, 3, 2)],
        whole=whole,
    )


def _varied(rows: Sequence[Row], name: str) -> bool:
    return len({r.get(f"weight_{name}") for r in rows}) > 1


def _against(row: Row, control: Row | None, name: str) -> float | None:
    """The recall of a class minus that of the control; None where one of them is not known, or they ended different epochs."""
    if control is None or control is row or row.get("epoch") != control.get("epoch"):
        return None
    mine, its = row.get(f"recall_{name}"), control.get(f"recall_{name}")
    return None if mine is None or its is None else float(mine) - float(its)


def _largest(rows: Sequence[Row], against: Sequence[Row | None], name: str) -> float:
    return max((abs(_against(r, its, name) or 0.0) for r, its in zip(rows, against, strict=True)), default=0.0)


def _recall(row: Row, control: Row | None, name: str) -> str:
    difference = _against(row, control, name)
    return percent(row.get(f"recall_{name}")) if difference is None else f"{100 * difference:+.1f}"


def _cells(row: Row, several: bool) -> list[str]:
    found = _of_all(row)
    if not several:
        return found
    value, against = row.get(MAP), row.get(f"{MAP}_minus_control")
    mine = [decimals(value), "" if against is None or row["control"] else f"{against:+.3f}"]
    return [*found[:2], *mine, *found[2:]]


def _of_all(row: Row) -> list[str]:
    against, f1 = row["val_acc_minus_control"], row["val_macro_f1_minus_control"]
    return [
        plain(row["branch"]) + (" *" if row["control"] else ""),
        str(row["status"]),
        percent(row["val_acc"]),
        "" if against is None or row["control"] else f"{100 * against:+.1f}",
        decimals(row["val_macro_f1"]),
        "" if f1 is None or row["control"] else f"{f1:+.3f}",
        "-" if row["worst_class"] is None else plain(f"{row['worst_class']} {percent(row['worst_recall'])}"),
    ]
