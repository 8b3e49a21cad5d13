"""What ``compare``, ``suggest``, ``evaluate`` and ``audit`` return: the records of these commands, which show themselves and become tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from raysweep._text import Nested, counted, join_names
from raysweep.api import pages
from raysweep.api.given import Reference, text
from raysweep.data import audit as auditing
from raysweep.report import comparison, effects, effects_table, evaluation, suggestion, verdict
from raysweep.report.card import BETTER, MOST_CLASSES, MOST_ROWS, SOFT, WORSE, Card, Cell, Shown, Table, left_out
from raysweep.report.effects import ALL, NOT_TESTED, UNKNOWN, Effect
from raysweep.report.findings.estimates import OF_CLASS, Estimate

if TYPE_CHECKING:
    import pandas as pd

MOST_VERDICTS = 12  # sentences
_NOT_KNOWN = (UNKNOWN, NOT_TESTED)


class _OfRecord:
    """A record with methods for its user."""

    @classmethod
    def of_record(cls, record: Any) -> Self:
        """The same values."""
        return cls(**{f.name: getattr(record, f.name) for f in fields(record)})


@dataclass(frozen=True, repr=False)
class Comparison(Shown, _OfRecord, comparison.Comparison):
    """The differences of branches from their reference on the same validation images, with what may be said of each."""

    @property
    def verdict(self) -> list[str]:
        """What may be said of the differences, in sentences, as ``raysweep compare`` prints them."""
        return [line.text for line in verdict.lines(self)]

    def to_pandas(self, metric: str | None = None, of_class: str | None = None) -> pd.DataFrame:
        """A row for each branch, class and metric; see :meth:`Sweep.effects <raysweep.api.sweep.Sweep.effects>`.

        Args:
            metric: only this one. of_class: only this class, or ``(all)``.

        Raises:
            InputError: there is no such metric or class.
        """
        frame = pages.effects_frame(self)
        frame = pages.chosen(frame, "metric", metric, list(dict.fromkeys(e.metric for e in self.rows)))
        return pages.chosen(frame, "target", of_class, list(dict.fromkeys(e.target for e in self.rows)))

    def card(self) -> Card:
        metric = effects.LEARNED if self.pairs else "f1"
        first = set(effects_table.by_size(self, metric)[:MOST_CLASSES])
        classes = [c for c in self.classes if c in first]
        of_all = self.overall[::-1]
        targets = [*((ALL, m) for m in of_all), *((c, metric) for c in classes)]
        shown = self.branches[:MOST_ROWS]
        rows: list[list[str | Cell]] = [
            [b.name, *(_difference(self.of(b.name, t, m)) for t, m in targets)] for b in shown
        ]
        known = {name: {(e.target, e.metric): e for e in self.offsets_of(name)} for name in self.moved}
        rows += [
            [Cell(n, SOFT), *("" if t not in of else _difference(of[t]) for t in targets)] for n, of in known.items()
        ]
        more = [
            left_out(
                len(self.classes) - len(classes),
                "class with smaller differences",
                "classes with smaller differences",
                ".to_pandas()",
            ),
            left_out(len(self.branches) - len(shown), "branch", "branches", ".to_pandas()"),
        ]
        columns = [("branch", "l"), *((name, "r") for name in (*(verdict.NAMES[m] for m in of_all), *classes))]
        what = "learned, at equal alarms" if metric == effects.LEARNED else "F1"
        facts = [
            f"points against {self.against}; classes: {what}. ▲ better, ▼ worse, unmarked: not shown"
            + _question(self.effects)
        ]
        lines, rest = verdict.sentences(self, MOST_VERDICTS)
        told = [(line.label, line.text) for line in lines]
        told += [("", f"{counted(rest, 'more sentence')}; .verdict has all.")] if rest else []
        told += [("", f"Note: {note}") for note in self.notes]
        return Card("Comparison", self.title, facts, [Table(columns, rows, " ".join(filter(None, more)))], told)


def _question(every: Sequence[Effect]) -> str:
    return "; ?: not known" if any(e.label in _NOT_KNOWN for e in every) else ""


def _difference(e: Effect) -> Cell:
    """A difference in points, marked where it is shown."""
    if e.label == effects.NO_IMAGES:
        return Cell(e.label, SOFT)
    if math.isnan(e.difference):
        return Cell("–", SOFT)
    mark = "?" if e.label in _NOT_KNOWN else {effects.BETTER: "▲", effects.WORSE: "▼", "": " "}[e.shown]
    tone = {effects.BETTER: BETTER, effects.WORSE: WORSE, "": ""}[e.shown]
    return Cell(f"{100 * e.difference:+.1f}{mark}", tone)


@dataclass(frozen=True, repr=False)
class Suggestion(Shown, _OfRecord, suggestion.Suggestion):
    """The grid of the next sweep, with the reasons. ``branch(found.parent, found.grid)`` trains it."""

    @property
    def grid(self) -> Nested:
        """What ``branch`` takes as its grid."""
        found = suggestion.as_data(self)["grid"]
        return {k: v for k, v in found.items() if v is not None}

    @property
    def yaml(self) -> str:
        """The grid as a file for ``raysweep branch``, with the reasons as comments."""
        return suggestion.as_yaml(self)

    def save(self, path: Reference) -> Path:
        """Write the grid to a new file; returns its path.

        Raises:
            InputError: the file exists, or cannot be written.
        """
        from raysweep.report import grid_file

        return grid_file.write(text(path), self.yaml)

    def card(self) -> Card:
        return Card("Suggestion", f"after {self.sweep}", [f"the next grid, for a better {self.metric}"], code=self.yaml)


@dataclass(frozen=True, repr=False)
class Evaluation(Shown, _OfRecord, evaluation.Evaluation):
    """Every number of trained networks with its interval."""

    def to_pandas(self) -> pd.DataFrame:
        """A row for each arm, class and metric: ``arm``, ``target`` (a class, or ``(all)``), ``images``, ``metric``, ``value``, ``low``, ``high``;
        shares in [0, 1], NaN where nothing is known."""
        import pandas as pd

        columns = ("arm", "target", "images", "metric", "value", "low", "high")
        return pd.DataFrame(list(self._rows()), columns=pd.Index(columns))

    def _rows(self) -> Iterator[tuple[object, ...]]:
        for arm in self.arms:
            for m, e in arm.overall.items():
                yield arm.name, ALL, self.images, m, *_of(e)
            for c, of in zip(self.classes, arm.of_class, strict=True):
                for m in OF_CLASS:
                    yield arm.name, c, self.counts[c], m, *_of(of[m])

    def card(self) -> Card:
        look = [] if self.look is None else [f"look {self.look} at these sealed images"]
        facts = [f"{counted(self.images, 'image')} of the split {self.split}; in brackets 95 % intervals", *look]
        tables = []
        for arm in self.arms:
            tables.append(
                Table(
                    [(f"{arm.name}, over all classes", "l"), ("value", "r")],
                    [[m, _interval(m, e)] for m, e in arm.overall.items()],
                )
            )
            worst = sorted(range(len(self.classes)), key=lambda i: _recall(arm.of_class[i]))[:MOST_CLASSES]
            names = list(arm.of_class[0]) if arm.of_class else []
            rows = [
                [
                    self.classes[i],
                    f"{self.counts[self.classes[i]]:,}",
                    *(_interval(m, arm.of_class[i][m]) for m in names),
                ]
                for i in sorted(worst)
            ]
            more = left_out(
                len(self.classes) - len(rows), "class of higher recall", "classes of higher recall", ".to_pandas()"
            )
            tables.append(Table([("class", "l"), ("images", "r"), *((n, "r") for n in names)], rows, more))
        lines = [("", f"Note: {note}") for note in self.notes]
        lines += (
            [("", f"{counted(len(self.left_out), 'image')} could not be decoded; .left_out names them.")]
            if self.left_out
            else []
        )
        return Card("Evaluation", self.reference, facts, tables, [*self._gain(), *lines])

    def _gain(self) -> list[tuple[str, str]]:
        g = self.gain
        if g is None:
            return []
        tone = {effects.BETTER: BETTER, effects.WORSE: WORSE}.get(g.label, "")
        said = f"{g.branch}: gain over the control in {g.metric}, in points: on validation {100 * g.validation:+.1f}, on these {100 * g.value:+.1f}"
        return [(tone, f"{said} ({g.label})." if g.label else f"{said}.")]


def _of(e: Estimate) -> tuple[float, float, float]:
    return e.value, e.low, e.high


def _recall(of: Mapping[str, Estimate]) -> float:
    value = of["recall"].value
    return 2.0 if math.isnan(value) else value


def _interval(metric: str, e: Estimate) -> str:
    if math.isnan(e.value):
        return "–"
    factor, form = (1.0, ".3f") if metric in evaluation.NO_SHARES else (100.0, ".1f")
    ends = "" if math.isnan(e.low) else f" [{factor * e.low:{form}}, {factor * e.high:{form}}]"
    return f"{factor * e.value:{form}}{ends}"


@dataclass(frozen=True, repr=False)
class Audit(Shown, _OfRecord, auditing.Audit):
    """Copies and contradictions among the images of a data set, and how they are read."""

    def report(self, path: Reference) -> Path:
        """Write one page with thumbnails of the copies and contradictions to a new file; returns its path.

        Raises:
            InputError: the file exists, or cannot be there.
        """
        from raysweep.report import audit_page

        return audit_page.write(self, text(path))

    def card(self) -> Card:
        train, val = self.counts
        leaked = {} if self.data.reading.copies is None else self.data.reading.copies.leaked
        first = sorted(self.data.classes, key=lambda c: -leaked.get(c, 0))[:MOST_CLASSES]
        rows = [[c, f"{train[c]:,}", f"{val[c]:,}", f"{leaked.get(c, 0):,}"] for c in first]
        columns = [("class", "l"), ("training", "r"), ("validation", "r"), ("of these also in training", "r")]
        table = Table(columns, rows, left_out(len(self.data.classes) - len(rows), "class", "classes", ".to_json()"))
        facts = [f"{counted(sum(train.values()), 'training image')}, {counted(sum(val.values()), 'validation image')}"]
        lines = [("", line) for line in self.data.reading.lines()]
        if several := self.contradicting:
            lines.append(
                (
                    WORSE,
                    f"{counted(len(several), 'group')} of equal training images have several classes, such as {_names(several[0])}.",
                )
            )
        if self.pairs:
            lines.append(
                (
                    "",
                    f"{counted(len(self.pairs), 'pair')} of images are nearly equal; look at them: .report('audit.html').",
                )
            )
        if not self.leaked and not self.repeated:
            lines.append(("", "No image is an exact copy of another one."))
        return Card("Audit", self.name, facts, [table], lines)


def _names(group: Sequence[auditing.Place]) -> str:
    return join_names([f"{p.name} ({p.of_class})" for p in group[:3]])
