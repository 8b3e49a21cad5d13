"""The reliability plot: how often networks are right, by how sure they say they are."""

from __future__ import annotations

from collections.abc import Sequence

from raysweep.report.figures import COLOURS, new_figure, png
from raysweep.report.findings.calibration import BINS
from raysweep.report.findings.estimates import Estimated
from raysweep.report.fonts import safe_label


def reliability_png(arms: Sequence[Estimated], title: str) -> bytes:
    """Accuracy over confidence, a line for each arm with 95 % intervals, and below it how many predictions are that sure. On the diagonal a network is
    right as often as it says."""
    figure = new_figure(5.6, 6.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="calibrated")
    for arm, colour in zip(arms, COLOURS, strict=False):
        x, y = [b.confidence for b in arm.bins], [b.accuracy for b in arm.bins]
        ece = arm.overall["ece"].value
        name = f"{safe_label(arm.name, 40)}: error {100 * ece:.1f} points ({100 * arm.ece_by_luck:.1f} by luck)"
        lows, highs = [b.accuracy_low for b in arm.bins], [b.accuracy_high for b in arm.bins]
        # An interval that ends at the accuracy itself (all right, or none) may end 1e-16 before it, by rounding.
        ends = [
            [max(0.0, a - low) for a, low in zip(y, lows, strict=True)],
            [max(0.0, h - a) for h, a in zip(highs, y, strict=True)],
        ]
        above.errorbar(x, y, ends, color=colour, marker="o", markersize=4, linewidth=1.6, elinewidth=0.8, label=name)
        total = sum(b.images for b in arm.bins)
        middles, shares = [(b.low + b.high) / 2 for b in arm.bins], [b.images / total for b in arm.bins]
        below.bar(middles, shares, width=1 / BINS, fill=False, edgecolor=colour, linewidth=1.4)
    above.set_title(safe_label(title, 60), fontsize=11)
    above.set_ylabel("right")
    below.set_ylabel("predictions")
    below.set_xlabel("confidence of the prediction")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
        axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    above.set_xlim(0, 1)
    above.set_ylim(0, 1)
    above.legend(fontsize=8, loc="upper left")
    return png(figure)
