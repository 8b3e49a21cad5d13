"""The effects in tables: as plain rows, and which classes come first where not all fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from raysweep.report import effects, leaks
from raysweep.report.comparison import Comparison
from raysweep.report.effects import Effect


def row_of(comparison: Comparison, effect: Effect) -> Mapping[str, Any]:
    """An effect as plain values; where branches have controls of their own, also which; where images have leaked, also what it is
    without them."""
    more = {} if comparison.leaks is None else leaks.as_row(effect, comparison.leaks)
    own = {"against": comparison.reference_of(effect.branch)} if any(b.reference for b in comparison.branches) else {}
    return {**effects.as_row(effect), **own, **more}


def largest(comparison: Comparison, most: int) -> list[str]:
    """At most this many classes: the first of :func:`by_size`, in the order of the classes."""
    chosen = set(by_size(comparison, "f1")[:most])
    return [c for c in comparison.classes if c in chosen]


def by_size(comparison: Comparison, metric: str) -> list[str]:
    """The classes, those first in which a branch differs most from its reference; a difference that is shown comes before
    any other."""
    size: dict[str, tuple[bool, float]] = {}
    for e in comparison.effects:
        if e.metric == metric and e.target != effects.ALL and not math.isnan(e.difference):
            size[e.target] = max(size.get(e.target, (False, 0.0)), (bool(e.shown), abs(e.difference)))
    return sorted(comparison.classes, key=lambda c: size.get(c, (False, -1.0)), reverse=True)
