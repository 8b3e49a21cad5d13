"""The share of each class among the images: what the weights requested, and what was shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raysweep.errors import StoreError
from raysweep.report.history import class_sums, images, read_history
from raysweep.report.sections.records import Group, Share, ShareLine, Shares
from raysweep.store.experiment import Experiment

MOST_CLASSES = 40  # columns


def table(groups: Sequence[Group]) -> Shares | None:
    """The shares of every branch since the fork, its seeds added up; None if no branch has a history of them."""
    rows: list[ShareLine] = []
    classes: list[str] = []
    for group in groups:
        (requested, all_requested), (realised, all_realised) = (
            _images(group.members, prefix) for prefix in ("requested_", "realised_")
        )
        if realised:
            classes = classes or list(realised)
            totals = all_requested or 1, all_realised or 1
            rows.append(ShareLine(group.name, _cells(group, classes, requested, realised, totals)))
    if not rows:
        return None
    chosen = _largest(rows, len(classes))
    return Shares(
        [classes[i] for i in chosen],
        [replace(row, cells=[row.cells[i] for i in chosen]) for row in rows],
        len(classes) - len(chosen),
    )


def _largest(rows: Sequence[ShareLine], classes: int) -> list[int]:
    """The columns that are shown, in order: those of the classes whose shares or weights differ most."""

    def size(i: int) -> float:
        shares = [row.cells[i].realised for row in rows]
        weights = [row.cells[i].weight for row in rows]
        return max(shares) - min(shares) + max(abs(w - 1) for w in weights) + max(weights) - min(weights)

    return sorted(sorted(range(classes), key=size, reverse=True)[:MOST_CLASSES])


def _cells(
    group: Group,
    classes: Sequence[str],
    requested: dict[str, float],
    realised: dict[str, float],
    totals: tuple[float, float],
) -> list[Share]:
    weights = group.members[0].config().sampling_weights
    all_requested, all_realised = totals
    return [
        Share(
            weight=weights.get(c, 1.0),
            requested=requested.get(c, 0) / all_requested,
            realised=realised.get(c, 0) / all_realised,
            off=int(realised.get(c, 0) - requested.get(c, 0)),
        )
        for c in classes
    ]


def _images(members: Sequence[Experiment], prefix: str) -> tuple[dict[str, float], float]:
    """(class → images, from the columns with this prefix; all images). Experiments without a history count as none."""
    total: dict[str, float] = {}
    every = 0.0
    for member in members:
        try:
            history = read_history(member)
        except StoreError:
            continue
        every += images(member, history, prefix)
        for c, count in class_sums(member, history, prefix).items():
            total[c] = total.get(c, 0) + count
    return total, every
