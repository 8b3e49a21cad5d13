"""Learning curves for the page: one small SVG per metric, the parent's epochs and every branch's from the fork on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from raysweep.report.figures import COLOURS

INK = "#0a0b0c"  # stands for the colour of the text, light or dark
_STYLES = ("-", "--", ":")
_HUES = [c for c in COLOURS if c not in ("#000000", "#F0E442")]  # what is seen on white and on black


@dataclass(frozen=True)
class Line:
    """One network: its epochs (the parent's first), a column's values, and how it is drawn."""

    epochs: Sequence[int]
    values: Sequence[float | None]
    style: int | None  # of a branch; None for the control
    fork: int | None  # epochs after it are the network's own


def colour(style: int | None) -> str:
    """CSS colour of a line."""
    return "currentColor" if style is None else _HUES[style % len(_HUES)]


def dash(style: int | None) -> str:
    """matplotlib's dashes of a line."""
    return "-" if style is None else _STYLES[style // len(_HUES) % len(_STYLES)]


def svg(lines: Sequence[Line], name: str) -> str:
    """A chart as SVG without any text but numbers, in the page's own colours.

    Args:
        name: tells the ids within this SVG from those of the others on a page.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.5), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.patch.set_visible(False)
    forks = {line.fork for line in lines if line.fork}
    for line in lines:
        points = [(e, v) for e, v in zip(line.epochs, line.values, strict=False) if v is not None]
        before = [p for p in points if line.fork is not None and p[0] <= line.fork]
        own = [p for p in points if line.fork is None or p[0] >= line.fork]
        if before:
            axes.plot(*zip(*before, strict=True), color="#808080", linewidth=1.4, zorder=1)
        if own:
            shade = INK if line.style is None else colour(line.style)
            axes.plot(
                *zip(*own, strict=True), color=shade, linestyle=dash(line.style), marker="o", markersize=2.6,
                linewidth=2.0 if line.style is None else 1.4, zorder=3 if line.style is None else 2,
            )  # fmt: skip
    for fork in forks:
        axes.axvline(fork, color="#808080", linestyle=":", linewidth=1)
    axes.locator_params(axis="x", integer=True)
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(color="#808080", alpha=0.25, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#808080")
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = out.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
