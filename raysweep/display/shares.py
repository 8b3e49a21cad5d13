"""The table of classes: their images, weights and shares; of a thousand classes only those that differ."""

from __future__ import annotations

from collections.abc import Mapping

from raysweep._text import labels
from raysweep.display.tables import table
from raysweep.display.terminal import percent, say

MOST_CLASSES = 20  # rows


def show_shares(
    counts: Mapping[str, int],
    weights: Mapping[str, float],
    shares: Mapping[str, float],
    quotas: Mapping[str, int] | None = None,
    validation: Mapping[str, int] | None = None,
) -> None:
    """Print a row per class. Of more than MOST_CLASSES, those are left out whose share differs least from that of the data,
    and then those of average size; a line says how many.

    Args:
        counts: class → images. quotas: class → images per epoch, if they are shown. validation: class → validation images,
            if they are shown.
    """
    total = sum(counts.values())
    names = dict(zip(counts, labels(list(counts)), strict=True))
    rows = []
    for c in _shown(counts, weights, shares):
        row = [names[c], f"{counts[c]:,}", percent(counts[c] / total), f"{weights[c]:g}", percent(shares[c])]
        row += [] if quotas is None else [f"{quotas[c]:,}"]
        rows.append(row if validation is None else [*row, f"{validation.get(c, 0):,}"])
    columns = [("class", "l"), ("images", "r"), ("share of the data", "r"), ("weight", "r"), ("share shown", "r")]
    columns += [] if quotas is None else [("shown per epoch", "r")]
    table(None, columns if validation is None else [*columns, ("validation", "r")], rows)
    if more := len(counts) - len(rows):
        say(f"… {more:,} more classes of {len(counts):,}; --json has all.")


def _shown(counts: Mapping[str, int], weights: Mapping[str, float], shares: Mapping[str, float]) -> list[str]:
    if len(counts) <= MOST_CLASSES:
        return list(counts)
    total, middle = sum(counts.values()), sorted(counts.values())[len(counts) // 2]

    def size(c: str) -> tuple[bool, float, int]:
        return (weights[c] != 1.0, abs(shares[c] - counts[c] / total), abs(counts[c] - middle))

    chosen = set(sorted(counts, key=size, reverse=True)[:MOST_CLASSES])
    return [c for c in counts if c in chosen]
