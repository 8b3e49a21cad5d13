"""One chart of learning curves as SVG: the parent's epochs in grey, and every network's own epochs from the fork on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raysweep.report.figures import COLOURS

INK = "#0a0b0c"  # stands for the colour of the page's text, light or dark
_GREY = "#808080"
_STYLES = ("-", "--", ":")
_HUES = [c for c in COLOURS if c not in ("#000000", "#F0E442")]  # those that are visible on white and on black


@dataclass(frozen=True)
class Line:
    """One network: its epochs (the parent's first), the values of a column, and its style."""

    epochs: Sequence[int]
    values: Sequence[float | None]
    style: int | None  # number of the branch; None for the control
    fork: int | None  # last epoch of the parent


def colour(style: int | None) -> str:
    """The CSS colour of a line."""
    return "currentColor" if style is None else _HUES[style % len(_HUES)]


def dash(style: int | None) -> str:
    """The dashes of a line, in matplotlib's notation."""
    return "-" if style is None else _STYLES[style // len(_HUES) % len(_STYLES)]


def svg(lines: Sequence[Line], name: str) -> str:
    """The chart as SVG, in the page's own colours. It contains numbers only, no other text.

    Args:
        name: makes the ids in this SVG different from those of other charts on the page.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.5), layout="constrained")
    canvas: Any = FigureCanvasSVG(figure)
    axes = figure.subplots()
    drawn: set[tuple[tuple[int, float], ...]] = set()
    for line in lines:
        _draw(axes, line, drawn)
    for fork in {line.fork for line in lines if line.fork}:
        axes.axvline(fork, color=_GREY, linestyle=":", linewidth=1)
    _finish(axes)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.patch.set_visible(False)  # the page's background shows
        facts = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.print_svg(out, metadata=facts)  # savefig would draw everything twice
    text = out.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def _draw(axes: Any, line: Line, drawn: set[tuple[tuple[int, float], ...]]) -> None:
    """Draw a line; ``drawn`` are the epochs of parents that are there already, since branches have theirs in common."""
    points = [(e, v) for e, v in zip(line.epochs, line.values, strict=False) if v is not None]
    fork = -1 if line.fork is None else line.fork
    before, own = tuple(p for p in points if p[0] <= fork), [p for p in points if p[0] >= fork]
    if before and before not in drawn:
        drawn.add(before)
        axes.plot(*zip(*before, strict=True), color=_GREY, linewidth=1.4, zorder=1)
    if own:
        control = line.style is None
        axes.plot(
            *zip(*own, strict=True), color=INK if control else colour(line.style), linestyle=dash(line.style),
            marker="o", markersize=2.6, linewidth=2.0 if control else 1.4, zorder=3 if control else 2,
        )  # fmt: skip


def _finish(axes: Any) -> None:
    axes.patch.set_visible(False)
    axes.locator_params(axis="x", integer=True)
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(color=_GREY, alpha=0.25, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_GREY)
