"""What differs from the reference: the sentences at the top of the page, and the heat maps of all classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raysweep._text import counted
from raysweep.report import verdict
from raysweep.report.comparison import Comparison
from raysweep.report.effects import ALL, LEARNED, NO_IMAGES, NOT_TESTED
from raysweep.report.effects_table import largest
from raysweep.report.sections.records import Heat, HeatCell, HeatLine, Verdict

MOST_CLASSES = 40  # columns of a table
MOST_CELLS = 1200  # of a table: with many branches, it has fewer classes, so that the page can be sent
FEWEST_CLASSES = 8  # that a table has, however many branches there are
MOST_VERDICTS = 30
_NAMES = {"learned": "learned", "f1": "F1", "recall": "recall", "precision": "precision"}


def verdicts(comparison: Comparison) -> list[Verdict]:
    """The verdict, as sentences."""
    lines, more = verdict.sentences(comparison, MOST_VERDICTS)
    found = [Verdict(line.label, line.text) for line in lines]
    return [*found, Verdict("nothing", f"{more:,} more are in effects.csv.")] if more else found


def columns(comparison: Comparison, branches: int) -> int:
    """How many classes a table of so many branches has at most."""
    rows = max(1, branches * (1 if comparison.leaks is None else 2))
    return min(MOST_CLASSES, max(FEWEST_CLASSES, MOST_CELLS // rows))


def heat(comparison: Comparison, branches: Sequence[str]) -> Heat:
    """One table (branch × class) for each metric. The strength of a cell's colour is relative to the largest difference of
    the table."""
    classes = largest(comparison, columns(comparison, len(branches)))
    names = _NAMES if comparison.pairs else {m: n for m, n in _NAMES.items() if m != LEARNED}
    tables = {metric: _table(comparison, branches, classes, metric) for metric in names}
    heads = [(c, counted(n, "image") if (n := comparison.counts[c]) else NO_IMAGES) for c in classes]
    return Heat([*heads, *((verdict.NAMES[m], "all") for m in comparison.overall)], tables, names)


def _table(comparison: Comparison, branches: Sequence[str], classes: Sequence[str], metric: str) -> list[HeatLine]:
    targets = [*((c, metric) for c in classes), *((ALL, m) for m in comparison.overall)]
    names = [*branches, *(comparison.moved if metric != LEARNED else ())]
    rows = {name: [comparison.of(name, target, m) for target, m in targets] for name in names}
    sizes = [
        abs(e.difference)
        for row in rows.values()
        for e in row
        if not math.isnan(e.difference) and e.label != NOT_TESTED
    ]
    most = max(sizes, default=0.0) or 1.0
    lines = []
    for name, row in rows.items():
        lines.append(HeatLine(name, [HeatCell(e, min(1.0, abs(e.difference) / most)) for e in row]))
        clean = [] if comparison.leaks is None else [e for w in row if (e := comparison.leaks.of(w)) is not None]
        if clean:
            lines.append(
                HeatLine("without leaks", [HeatCell(e, min(1.0, abs(e.difference) / most)) for e in clean], True)
            )
    return lines


def omitted(comparison: Comparison, branches: int) -> list[str]:
    """Says how many classes the tables of so many branches leave out."""
    most = columns(comparison, branches)
    more = len(comparison.classes) - most
    text = f"The tables show the {most} classes with the largest changes; effects.csv has the {more:,} others, too."
    return [text] if more > 0 else []
