"""The effects as a heat map: branch × class, in percentage points; what is not shown is pale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raysweep._text import counted
from raysweep.report import effects
from raysweep.report.comparison import Comparison
from raysweep.report.figures import new_figure, png, safe_label

TITLES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


def heat_map(comparison: Comparison) -> bytes:
    """The F1 of every class as PNG. Purple is better than the reference and orange is worse, which every kind of colour vision can
    tell apart. Each cell has a sign, and it is bold where the difference is shown."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    columns = [*((c, "f1") for c in comparison.classes), (effects.ALL, "macro_f1"), (effects.ALL, "accuracy")]
    names = [b.name for b in comparison.branches]
    table = [[comparison.of(name, target, m) for target, m in columns] for name in names]
    most = max((abs(e.difference) for row in table for e in row), default=0.0) or 0.01
    scale, colours = Normalize(-most, most), matplotlib.colormaps["PuOr"]
    width = max(len(safe_label(n)) for n in names)
    figure = new_figure(2.4 + 0.075 * width + 0.85 * len(columns), 1.9 + 0.42 * len(names))
    axes = figure.add_subplot()
    for y, row in enumerate(table):
        for x, effect in enumerate(row):
            _cell(axes, x, y, effect, colours(float(scale(effect.difference))))
    _finish(axes, comparison, columns, names)
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=axes, shrink=0.8, aspect=18)
    bar.ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:+.0f}")
    return png(figure)


def _finish(axes: Any, comparison: Comparison, columns: Sequence[tuple[str, str]], names: Sequence[str]) -> None:
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.axvline(len(comparison.classes) - 0.5, color="white", linewidth=3)
    labels = [
        f"{safe_label(t)}\n{counted(comparison.counts[t], 'image')}" if t != effects.ALL else f"{TITLES[m]}\nall"
        for t, m in columns
    ]
    axes.set_xticks(range(len(columns)), labels, fontsize=8, rotation=0 if len(columns) < 12 else 45)
    axes.set_yticks(range(len(names)), [safe_label(n) for n in names], fontsize=9)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(
        f"F1 in percentage points against {comparison.against}\nbold: shown (false-discovery rate "
        f"{effects.LEVEL:.0%}); below: the 95 % interval",
        fontsize=10,
        loc="left",
    )


def _cell(axes: Any, x: int, y: int, effect: effects.Effect, colour: tuple[float, ...]) -> None:
    from matplotlib.patches import Rectangle

    real = bool(effect.shown)
    pale = colour if real else tuple(0.25 * c + 0.75 for c in colour[:3])
    axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=pale))
    dark = real and sum(colour[:3]) < 1.35
    style = {"ha": "center", "va": "center", "color": "white" if dark else "black" if real else "#666666"}
    weight = "bold" if real else "normal"
    axes.text(x, y - 0.1, f"{100 * effect.difference:+.1f}", fontsize=9, weight=weight, **style)
    axes.text(x, y + 0.26, f"{100 * effect.low:+.1f} … {100 * effect.high:+.1f}", fontsize=5.5, **style)
