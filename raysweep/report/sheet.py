"""A picture of training images, each as it is and as training saw it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raysweep.report import figures, fonts

_SIDE = 96  # pixels that an image is drawn with at least, where it is smaller
_GAP = 6
_WIDTH = 12.0  # inches


@dataclass(frozen=True)
class Cell:
    """An image, uint8 (H, W, C), as it is and as training saw it, and what is written below."""

    before: np.ndarray
    after: np.ndarray
    text: str


def png(cells: Sequence[Cell], title: str) -> bytes:
    """The picture: pairs in rows, on the left of each the image as it is."""
    height, width = cells[0].before.shape[:2]
    times = max(1, _SIDE // max(height, width))
    high, wide = height * times, width * times
    across = max(1, min(len(cells), round(math.sqrt(1.2 * len(cells)))))
    rows = -(-len(cells) // across)
    cell_high, cell_wide = high + max(24, high // 4), 2 * wide + 3 * _GAP
    canvas = np.full((rows * cell_high, across * cell_wide, 3), 255, dtype=np.uint8)
    inches = _WIDTH * across / max(across, 4)
    figure = figures.new_figure(inches, inches * canvas.shape[0] / canvas.shape[1] + 0.5)
    axes = figure.add_subplot()
    size = min(9.0, 72 * inches / across / 16)
    for k, cell in enumerate(cells):
        top, left = k // across * cell_high, k % across * cell_wide
        for image, x in ((cell.before, left), (cell.after, left + wide + _GAP)):
            large = np.broadcast_to(image, (height, width, 3)).repeat(times, axis=0).repeat(times, axis=1)
            canvas[top : top + high, x : x + wide] = large
        text = fonts.safe_label(cell.text, 34)
        axes.text(left + wide + _GAP / 2, top + high + 3, text, ha="center", va="top", fontsize=size)
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    figure.suptitle(fonts.safe_label(title, 110), fontsize=10)
    return figures.png(figure)
