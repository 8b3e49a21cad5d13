"""The table of classes: their images, weights and shares; of a thousand classes only those that differ."""

from __future__ import annotations

from collections.abc import Mapping

from raysweep._text import labels
from raysweep.display.tables import table
from raysweep.display.terminal import percent, say
from raysweep.label_sets import images_in

MOST_CLASSES = 20  # rows
_KINDS = ("recall", "f1", "precision")


def show_shares(
    counts: Mapping[str, int],
    weights: Mapping[str, float],
    shares: Mapping[str, float],
    quotas: Mapping[str, int] | None = None,
    validation: Mapping[str, int] | None = None,
    reached: Mapping[str, float] | None = None,
) -> None:
    """Print a row per class. Of more than MOST_CLASSES, those are left out whose share differs least from that of the data,
    then those of high recall and of average size; a line says how many.

    Args:
        counts: class → images. quotas: class → images per epoch, if they are shown. validation: class → validation images,
            if they are shown. reached: ``recall_CLASS``, ``f1_CLASS`` and ``precision_CLASS`` of an epoch.
    """
    total = images_in(counts)
    names = dict(zip(counts, labels(list(counts)), strict=True))
    rows = []
    for c in most_telling(counts, weights, shares, reached or {}):
        row = [
            names[c],
            f"{counts[c]:,}",
            percent(counts[c] / total),
            f"{weights[c]:{'.4g' if weights[c] < 1000 else 'g'}}",
            percent(shares[c]),
        ]
        row += [] if quotas is None else [f"{quotas[c]:,}"]
        row += [] if validation is None else [f"{validation.get(c, 0):,}"]
        rows.append([*row, *(percent(reached.get(f"{kind}_{c}")) for kind in _KINDS)] if reached else row)
    columns = [("class", "l"), ("images", "r"), ("share of the data", "r"), ("weight", "r"), ("share shown", "r")]
    columns += [] if quotas is None else [("shown per epoch", "r")]
    columns += [] if validation is None else [("validation", "r")]
    columns += [(kind.replace("f1", "F1"), "r") for kind in _KINDS] if reached else []
    optional = [2, 7, 1, 4] if reached else [2, 5]  # of a narrow terminal: the share of the data leaves first
    table(None, columns, rows, optional=[i for i in optional if i < len(columns)])
    if more := len(counts) - len(rows):
        say(f"… {more:,} more classes of {len(counts):,}; --json has all.")


def most_telling(
    counts: Mapping[str, int], weights: Mapping[str, float], shares: Mapping[str, float], reached: Mapping[str, float]
) -> list[str]:
    """At most MOST_CLASSES classes, in their order: see :func:`show_shares`."""
    if len(counts) <= MOST_CLASSES:
        return list(counts)
    total, middle = images_in(counts), sorted(counts.values())[len(counts) // 2]

    def size(c: str) -> tuple[bool, float, float, int]:
        moved = abs(shares[c] - counts[c] / total)
        return (weights[c] != 1.0, moved, -reached.get(f"recall_{c}", 1.0), abs(counts[c] - middle))

    chosen = set(sorted(counts, key=size, reverse=True)[:MOST_CLASSES])
    return [c for c in counts if c in chosen]
