"""``raysweep compare``: which class a ratio taught, which it only shifted, and what is not shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from raysweep._text import labels, plain
from raysweep.cli.options import RootOption
from raysweep.display.tables import table
from raysweep.display.terminal import put_json, say

if TYPE_CHECKING:
    from raysweep.report.comparison import Compared, Comparison
    from raysweep.report.effects import Effect

MOST_SENTENCES = 30
_LEAKS = "  without leaks"  # the row below a branch
TITLES = {  # of a class
    "f1": "F1", "recall": "recall", "precision": "precision", "ap": "average precision", "auroc": "AUROC",
    "learned": "learned, at equal alarms",
}  # fmt: skip


def register(app: typer.Typer) -> None:
    app.command("compare", no_args_is_help=True)(compare)


def compare(
    references: list[str] = typer.Argument(
        ...,
        metavar="SWEEP|EXPERIMENT...",
        help="A sweep, an experiment (compared with its parent), or several (compared with the first).",
    ),
    metric: str | None = typer.Option(
        None,
        "--metric",
        help="The metric shown per class: learned (the default), f1, recall, precision, ap or auroc.",
    ),
    of_class: str | None = typer.Option(
        None, "--class", metavar="CLASS", help="Show all four columns of one class: total, predicted, free and learned."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print everything as one JSON object."),
    root: RootOption = "experiments",
) -> None:
    """Show which class a ratio taught and which it only shifted. On the same validation images, apart from luck of seeds and images
    and from what a moved threshold gives without training."""
    from raysweep.api import looking
    from raysweep.errors import InputError, did_you_mean

    if metric is not None and metric not in TITLES:
        raise InputError(f"--metric {metric}: choose one of {', '.join(TITLES)}.")
    found = looking.compare(*references, root=root)
    if of_class is not None and of_class not in found.classes:
        raise InputError(f"--class {of_class}: there is no such class.{did_you_mean(of_class, found.classes)}")
    if as_json:
        put_json(_as_json(found))
        return
    if of_class is not None:
        _show_class(found, of_class)
        return
    _show(found, metric or ("learned" if found.pairs else "f1"))


def _as_json(found: Comparison) -> dict[str, object]:
    from raysweep.report import verdict
    from raysweep.report.effects_table import row_of

    return {
        "title": found.title,
        "against": found.against,
        "classes": list(found.classes),
        "validation_images": found.counts,
        "branches": [dict(vars(b)) for b in found.branches],
        "effects": [row_of(found, e) for e in found.rows],
        "comparisons": found.tests,
        "leaks": _leaks(found),
        "chosen_on_test": found.on_test,
        "winner": None if found.winner is None else dict(vars(found.winner)),
        "verdict": [line.text for line in verdict.lines(found)],
        "notes": found.notes,
    }


def _leaks(found: Comparison) -> dict[str, object] | None:
    """The validation images that are also in training, and what changes without them; None where there are none."""
    from raysweep.report import leaks

    if found.leaks is None:
        return None
    changed = leaks.changes(found.effects, found.leaks)
    return {
        "images": dict(found.leaks.images),
        "under_another_class": found.leaks.other_class,
        "changed": [
            {
                "branch": branch,
                "target": target,
                "metric": metric,
                "kind": c.kind,
                "label": c.whole.label,
                "without": c.clean.label,
            }
            for (branch, target, metric), c in changed.items()
        ],
    }


def _show(found: Comparison, metric: str) -> None:
    """Print one row per branch, then the verdict."""
    from raysweep.report import verdict
    from raysweep.report.effects import ALL, NOT_TESTED, UNKNOWN
    from raysweep.report.effects_table import by_size

    of_all = found.overall[::-1]
    columns = [*((ALL, m) for m in of_all), *((c, metric) for c in found.classes)]
    rows = []
    for branch in found.branches:
        mine = [found.of(branch.name, target, m) for target, m in columns]
        rows.append(_cells(branch, mine))
        if found.leaks is not None:
            clean = [found.leaks.of(e) for e in mine]
            rows.append([_LEAKS, *("" if e is None else _cell(e) for e in clean), "", ""])
    rows += _of_offsets(found, columns)
    names = [verdict.NAMES[m] for m in of_all]
    head = [("branch", "l"), *((name, "r") for name in (*names, *labels(found.classes)))]
    title = (
        f"Points against {plain(found.against)}; classes: {TITLES[metric]}. ▲ better, ▼ worse, unmarked: not shown"
        + ("; ?: not known" if any(e.label in (UNKNOWN, NOT_TESTED) for e in found.effects) else "")
    )
    order = [1 + len(of_all) + found.classes.index(c) for c in by_size(found, metric)]
    shown = [*head, ("seconds", "r"), ("images", "r")]
    table(title, shown, rows, least=order[::-1], optional=[len(head), len(head) + 1])
    lines, more = verdict.sentences(found, MOST_SENTENCES)
    for line in lines:
        say(plain(line.text))
    if more:
        say(f"{more:,} more; --json has all.")
    for note in found.notes:
        say(f"Note: {plain(note)}")


def _show_class(found: Comparison, target: str) -> None:
    """Print the four columns of one class, a row per branch, then what may be said of it."""
    from raysweep.report import verdict

    def points(value: float | None) -> str:
        return "" if value is None or math.isnan(value) else f"{100 * value:+.1f}"

    def learned(e: Effect) -> list[str]:
        ends = "" if math.isnan(e.low) else f"{points(e.low)} … {points(e.high)}"
        return [_cell(e), ends, points(e.smallest).lstrip("+"), plain(e.label)]

    rows = []
    for branch in found.branches:
        recall = found.of(branch.name, target, "recall")
        row = [plain(branch.name), _cell(recall), _cell(found.of(branch.name, target, "f1"))]
        row.append("" if recall.times is None or math.isnan(recall.times) else f"{recall.times:.2f} ×")
        row.append(points(recall.free))
        if found.pairs:
            row += learned(found.of(branch.name, target, "learned"))
        rows.append(row)
        if found.leaks is not None:
            mine = [found.leaks.of(found.of(branch.name, target, m)) for m in ("recall", "f1", "learned")]
            total, f1, even = (e for e in mine if e is not None)  # of a branch all are there
            rows.append([_LEAKS, _cell(total), _cell(f1), "", "", *learned(even)])
    head = ["total: recall", "total: F1", "predicted", "free: recall"]
    head += ["learned", "interval", "shown from", ""] if found.pairs else []
    title = f"{plain(target)} ({found.counts[target]:,} images), points against {plain(found.against)}"
    table(title, [("branch", "l"), *((name, "r") for name in head)], rows)
    for line in verdict.lines(found):
        if f": {target}: " in line.text:
            say(plain(line.text))
    for note in found.notes:
        say(f"Note: {plain(note)}")


def _cells(branch: Compared, effects: Sequence[Effect]) -> list[str]:
    """A row of the table: the differences in points, marked where they are shown."""
    points = [_cell(e) for e in effects]
    return [plain(branch.name), *points, f"{branch.seconds:,.0f}", f"{branch.images:,}"]


def _of_offsets(found: Comparison, columns: Sequence[tuple[str, str]]) -> list[list[str]]:
    """The rows of what the references get without training; none if offsets were not searched."""
    rows = []
    for name in found.moved:
        known = {(e.target, e.metric): _cell(e) for e in found.offsets_of(name)}
        rows.append([plain(name), *(known.get(column, "") for column in columns), "0", "0"])
        if found.leaks is not None:
            known = {(e.target, e.metric): _cell(e) for e in found.leaks.offsets if e.branch == name}
            rows.append([_LEAKS, *(known.get(column, "") for column in columns), "", ""])
    return rows


def _cell(e: Effect) -> str:
    from raysweep.report.effects import BETTER, NO_IMAGES, NOT_TESTED, UNKNOWN, WORSE

    if e.label == NO_IMAGES:
        return NO_IMAGES
    mark = "?" if e.label in (UNKNOWN, NOT_TESTED) else {BETTER: "▲", WORSE: "▼", "": " "}[e.shown]
    return "-" if math.isnan(e.difference) else f"{100 * e.difference:+.1f}{mark}"
