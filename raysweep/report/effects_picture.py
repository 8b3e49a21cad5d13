"""The effects as a heat map: branch × class, in percentage points; what is not shown to differ is pale.

Of many classes or branches those with the largest changes are drawn, so that the picture stays one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from raysweep._text import counted
from raysweep.label_sets import MAP
from raysweep.report import effects
from raysweep.report.comparison import Comparison
from raysweep.report.effects import LEARNED
from raysweep.report.effects_table import largest
from raysweep.report.figures import new_figure, png
from raysweep.report.fonts import labels, safe_label

MOST_CLASSES = 24
MOST_BRANCHES = 36
_FAINT = "#666666"
TITLES = {"accuracy": "accuracy", "macro_f1": "macro-F1", MAP: MAP}
_TITLES = {
    LEARNED: ("Learned (at equal alarms)", "the interval"),
    "f1": (
        "F1 at the networks' own decisions",
        "how often the class is predicted, and what moved thresholds give for free",
    ),
}


def heat_map(comparison: Comparison) -> bytes:
    """The effects on every class as PNG, in two panels: what was learned, at equal alarms; and F1 at the networks' own decisions, with
    how often the branch predicts the class and what the reference gets for free. Without predictions there is only F1.

    Purple is better than the reference and orange is worse, which every kind of colour vision can tell apart. Each cell has a
    sign, and it is bold where the difference is shown.
    """
    classes, names = largest(comparison, MOST_CLASSES), _branches(comparison)
    panels = (LEARNED, "f1") if comparison.pairs else ("f1",)
    width = max(len(safe_label(n)) for n in names)
    size = (
        2.4 + 0.075 * width + 0.85 * (len(classes) + len(comparison.overall)),
        len(panels) * (1.9 + 0.42 * len(names)),
    )
    figure = new_figure(*size)
    for axes, metric in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        _panel(figure, axes, comparison, [(c, metric) for c in classes], names)
    return png(figure)


def _panel(
    figure: Any, axes: Any, comparison: Comparison, of_classes: Sequence[tuple[str, str]], names: Sequence[str]
) -> None:
    """One metric of every class, beside macro-F1 and accuracy."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    columns = [*of_classes, *((effects.ALL, m) for m in comparison.overall)]
    table = [[comparison.of(name, target, m) for target, m in columns] for name in names]
    most = max((abs(e.difference) for row in table for e in row if not math.isnan(e.difference)), default=0.0) or 0.01
    scale, colours = Normalize(-most, most), matplotlib.colormaps["PuOr"]
    _cells(axes, table, lambda difference: colours(float(scale(difference))))
    _finish(axes, comparison, columns, names)
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=axes, shrink=0.8, aspect=18)
    bar.ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:+.0f}")


def _branches(comparison: Comparison) -> list[str]:
    """The branches that are shown, in order: those whose macro-F1, or mAP, differs most."""
    names = [b.name for b in comparison.branches]

    def size(name: str) -> float:
        return abs(comparison.of(name, effects.ALL, comparison.overall[0]).difference)

    chosen = set(sorted(names, key=size, reverse=True)[:MOST_BRANCHES])
    return [n for n in names if n in chosen]


def _omitted(comparison: Comparison, classes: int, branches: int) -> str:
    """Says how much the picture leaves out."""
    parts = []
    if (more := len(comparison.classes) - classes) > 0:
        parts.append(f"{more:,} more classes with smaller changes")
    if (more := len(comparison.branches) - branches) > 0:
        parts.append(f"{more:,} more branches")
    return f"\nnot shown: {' and '.join(parts)}; effects.csv has all" if parts else ""


def _finish(axes: Any, comparison: Comparison, columns: Sequence[tuple[str, str]], names: Sequence[str]) -> None:
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    classes = len(columns) - len(comparison.overall)
    axes.axvline(classes - 0.5, color="white", linewidth=3)
    known = labels(comparison.classes)
    text = dict(zip(comparison.classes, known.texts, strict=True))
    heads = [
        f"{text[t]}\n{counted(comparison.counts[t], 'image')}" if t != effects.ALL else f"{TITLES[m]}\nall"
        for t, m in columns
    ]
    if known.legend:
        axes.set_xlabel(known.legend, fontsize=8)
    axes.set_xticks(range(len(columns)), heads, fontsize=8, rotation=0 if len(columns) < 12 else 45)
    axes.set_yticks(range(len(names)), [safe_label(n) for n in names], fontsize=9)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    told, below = _TITLES[columns[0][1]] if comparison.pairs else ("F1", "the interval")
    axes.set_title(
        f"{told} in percentage points against {comparison.against}\nbold: shown (false-discovery rate "
        f"{effects.LEVEL:.0%}); below: {below}{_omitted(comparison, classes, len(names))}",
        fontsize=10,
        loc="left",
    )


def _cells(
    axes: Any, table: Sequence[Sequence[effects.Effect]], colour_of: Callable[[float], tuple[float, ...]]
) -> None:
    """A rectangle and its texts for every effect."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    boxes, inks = [], []
    for y, row in enumerate(table):
        for x, effect in enumerate(row):
            if math.isnan(effect.difference):
                _write(axes, x, y, effect.label, 6, _FAINT)
                continue
            colour, real = colour_of(effect.difference), bool(effect.shown)
            boxes.append(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92))
            inks.append(colour if real else tuple(0.25 * c + 0.75 for c in colour[:3]))
            ink = _FAINT if not real else "white" if sum(colour[:3]) < 1.35 else "black"
            head = f"{100 * effect.difference:+.1f}"
            _write(axes, x, y - 0.1, head, 9, ink, "bold" if real else "normal")
            _write(axes, x, y + 0.26, _below(effect), 5.5, ink)
    axes.add_collection(PatchCollection(boxes, facecolors=inks, edgecolors=inks), autolim=False)


def _write(axes: Any, x: float, y: float, text: str, size: float, ink: str, weight: str = "normal") -> None:
    """A text in a cell. It lies within the axes, so the layout need not measure it."""
    axes.text(x, y, text, fontsize=size, ha="center", va="center", color=ink, weight=weight).set_in_layout(False)


def _below(effect: effects.Effect) -> str:
    """The second line of a cell."""
    if effect.free is not None and effect.times is not None:
        times = "" if math.isnan(effect.times) else f"{effect.times:.2f} ×, "
        return f"{times}free {100 * effect.free:+.1f}"
    if math.isnan(effect.low):
        return counted(effect.images or 0, "image")
    return f"{100 * effect.low:+.1f} … {100 * effect.high:+.1f}"
