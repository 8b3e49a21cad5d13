"""The table of branches: accuracy, macro-F1 and cost of each, and the difference from its reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raysweep._text import short_repr
from raysweep.label_sets import MAP
from raysweep.report.comparison import Comparison
from raysweep.report.effects import ALL, Effect
from raysweep.report.history import cost
from raysweep.report.sections.records import BranchLine, Group
from raysweep.store import catalog
from raysweep.store.records_manifest import ManifestEntry
from raysweep.weights import describe_changed


def line(group: Group, comparison: Comparison | None) -> BranchLine:
    """One line of the table. Metrics are means over the last epochs of the seeds; costs are sums over the seeds."""
    rows = [catalog.summary(e) for e in group.members]
    last = [ends[-1] for e in group.members if (ends := e.manifest().ends)]
    costs = [cost(e) for e in group.members]
    several = bool(group.members) and bool(group.members[0].config().setting("data", "multi_label"))
    return BranchLine(
        name=group.name,
        control=group.control,
        change="; ".join([describe_changed(rows[0].change), *_settings(comparison, group.name)]),
        status=", ".join(sorted({r.status for r in rows})),
        seeds=len(group.members),
        accuracy=_mean(last, "val_acc"),
        macro_f1=_mean(last, "val_macro_f1"),
        worst=str(last[0].metrics.get("worst_class") or "-") if last else "-",
        worst_recall=_mean(last, "worst_recall"),
        d_accuracy=_effect(comparison, group.name, "accuracy"),
        d_macro_f1=_effect(comparison, group.name, "macro_f1"),
        seconds=sum(seconds for seconds, _ in costs),
        images=sum(images for _, images in costs),
        mean_precision=_mean(last, MAP) if several else None,
        d_mean_precision=_effect(comparison, group.name, MAP)
        if comparison is not None and comparison.several
        else None,
    )


def _settings(comparison: Comparison | None, name: str) -> list[str]:
    """The settings of a branch, and what it is compared with where that is the control of its cell."""
    mine = next((b for b in comparison.branches if b.name == name), None) if comparison is not None else None
    if mine is None:
        return []
    told = [f"{key}={short_repr(value)}" for key, value in mine.settings.items()]
    return [*told, *([f"against {mine.reference}"] if mine.reference else [])]


def _mean(entries: Sequence[ManifestEntry], metric: str) -> float | None:
    """The mean of a metric over those entries that have it; None if none has it."""
    values = [float(v) for e in entries if isinstance(v := e.metrics.get(metric), (int, float))]
    return float(np.mean(values)) if values else None


def _effect(comparison: Comparison | None, branch: str, metric: str) -> Effect | None:
    if comparison is None or all(b.name != branch for b in comparison.branches):
        return None
    return comparison.of(branch, ALL, metric)
