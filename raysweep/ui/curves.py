"""What the page draws as learning curves: the same networks, styles and panels as in the report, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raysweep._text import plain
from raysweep.label_sets import MAP
from raysweep.report.sections import chart, learning_curves
from raysweep.report.sections.learning_curves import DASHES, Network
from raysweep.report.sections.records import Group

MOST_POINTS = 500  # of a line
MOST_GROUPS = 60
_FIRST = (("macro-F1", "val_macro_f1"), ("accuracy", "val_acc"), ("loss", "val_loss"))
_SHARES = "val_loss"  # the only column that is no share


def of_groups(groups: Sequence[Group], wanted: Sequence[str] = ()) -> Mapping[str, Any]:
    """The curves of some groups of experiments.

    Args:
        wanted: classes; by default the first ones.
    """
    styles = learning_curves.styles(groups)
    made = [
        (group, n)
        for group in groups[:MOST_GROUPS]
        for e in group.members
        if (n := learning_curves.network(e, styles[group.name])) is not None
    ]
    every = list(dict.fromkeys(c.removeprefix("f1_") for _, n in made[:1] for c in n.history if c.startswith("f1_")))
    classes = [c for c in wanted if c in every] or every[: learning_curves.MOST_PANELS]
    columns = [*_FIRST, *((f"F1 of {c}", f"f1_{c}") for c in classes)]
    if any(f"ap_{c}" in n.history for _, n in made for c in classes):  # several labels for an image
        columns = [(MAP, MAP), *_FIRST, *((f"AP of {c}", f"ap_{c}") for c in classes)]
    lines = [_line(group.name, n, [key for _, key in columns]) for group, n in made]
    legend = [
        {
            "name": plain(group.name),
            "colour": chart.colour(styles[group.name]),
            "dash": DASHES[chart.dash(styles[group.name])],
        }
        for group in groups[:MOST_GROUPS]
    ]
    notes = []
    if len(groups) > MOST_GROUPS:
        notes.append(f"The first {MOST_GROUPS} of {len(groups):,} branches are drawn.")
    if len(every) > len(classes):
        notes.append(f"{len(classes)} of {len(every):,} classes are drawn.")
    panels = [
        {"title": plain(title), "share": key != _SHARES, "at": at}
        for at, (title, key) in enumerate(columns)
        if any(v is not None for line in lines for v in line["values"][at])
    ]
    left = [plain(c) for c in every] if len(every) > learning_curves.MOST_PANELS else []
    return {"panels": panels, "lines": lines, "legend": legend, "classes": left, "notes": notes}


def _line(name: str, network: Network, columns: Sequence[str]) -> Mapping[str, Any]:
    """One network: its epochs, and of each column its values. Of very many epochs every second, third … is drawn, and the last."""
    many = len(network.epochs)
    step = -(-many // MOST_POINTS) or 1
    kept = sorted({*range(0, many, step), many - 1}) if many else []

    def values(key: str) -> list[float | None]:
        column = network.history.get(key, [])
        return [
            None if i >= len(column) or (v := column[i]) is None or v != v or abs(v) > 1e9 else round(v, 5)
            for i in kept
        ]

    return {
        "name": plain(name),
        "colour": chart.colour(network.style),
        "dash": DASHES[chart.dash(network.style)],
        "control": network.style is None,
        "fork": network.fork,
        "epochs": [network.epochs[i] for i in kept],
        "values": [values(key) for key in columns],
    }


def spark(values: Sequence[float | None], width: int = 120, height: int = 28) -> str:
    """The points of a small line in a box of this size, for ``<polyline>``; empty with fewer than two values."""
    known = [v for v in values[-MOST_POINTS:] if v is not None and v == v]
    if len(known) < 2:
        return ""
    low, high = min(known), max(known)
    room = (high - low) or 1.0
    return " ".join(
        f"{2 + (width - 4) * i / (len(known) - 1):.1f},{height - 3 - (height - 6) * (v - low) / room:.1f}"
        for i, v in enumerate(known)
    )
