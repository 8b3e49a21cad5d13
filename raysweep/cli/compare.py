"""``raysweep compare``: which branch helped which class, and is it more than noise?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from raysweep._text import labels, plain
from raysweep.cli.options import RootOption
from raysweep.display.terminal import put_json, say, table
from raysweep.store.root import Root

if TYPE_CHECKING:
    from raysweep.report.comparison import Compared, Comparison
    from raysweep.report.effects import Effect

MOST_SENTENCES = 30
TITLES = {"f1": "F1", "recall": "recall", "precision": "precision"}  # of a class


def register(app: typer.Typer) -> None:
    app.command("compare", no_args_is_help=True)(compare)


def compare(
    references: list[str] = typer.Argument(
        ...,
        metavar="SWEEP|EXPERIMENT...",
        help="A sweep, an experiment (compared with its parent), or several (compared with the first).",
    ),
    metric: str = typer.Option("f1", "--metric", help="The metric shown per class: f1, recall or precision."),
    as_json: bool = typer.Option(False, "--json", help="Print everything as one JSON object."),
    root: RootOption = "experiments",
) -> None:
    """Show which branch helped which class. On the same validation images: the difference, its 95 % interval, and whether it
    is better, worse or within noise."""
    from raysweep.errors import InputError
    from raysweep.report import comparison as comparing

    if metric not in TITLES:
        raise InputError(f"--metric {metric}: choose one of {', '.join(TITLES)}.")
    found = comparing.compare(Root.open(root), references)
    if as_json:
        put_json(_as_json(found))
        return
    _show(found, metric)


def _as_json(found: Comparison) -> dict[str, object]:
    from raysweep.report.effects import as_row

    return {
        "title": found.title,
        "against": found.against,
        "classes": list(found.classes),
        "validation_images": found.counts,
        "branches": [dict(vars(b)) for b in found.branches],
        "effects": [as_row(e) for e in found.effects],
        "notes": found.notes,
    }


def _show(found: Comparison, metric: str) -> None:
    """Print one row per branch, then a sentence for every difference that is larger than noise."""
    from raysweep.report.comparison import by_size
    from raysweep.report.effects import ALL, BETTER, NOISE, UNKNOWN, WORSE

    columns = [(ALL, "accuracy"), (ALL, "macro_f1"), *((c, metric) for c in found.classes)]
    rows = [_cells(branch, [found.of(branch.name, target, m) for target, m in columns]) for branch in found.branches]
    head = [("branch", "l"), ("accuracy", "r"), ("macro-F1", "r"), *((c, "r") for c in labels(found.classes))]
    title = (
        f"Points against {plain(found.against)}; classes: {TITLES[metric]}. ▲ better, ▼ worse, unmarked: within noise"
        + ("; ?: not known" if any(e.label == UNKNOWN for e in found.effects) else "")
    )
    order = [3 + found.classes.index(c) for c in by_size(found, metric)]
    table(title, [*head, ("seconds", "r"), ("images", "r")], rows, least=order[::-1])
    real = [e for e in found.effects if e.label in (BETTER, WORSE) and (e.metric == metric or e.target == ALL)]
    real.sort(key=lambda e: (e.target != ALL, -abs(e.difference)))
    for effect in real[:MOST_SENTENCES]:
        say(plain(_sentence(effect)))
    if len(real) > MOST_SENTENCES:
        say(f"{len(real) - MOST_SENTENCES:,} smaller differences are larger than noise, too; --json has all.")
    if not real and any(e.label == NOISE for e in found.effects):
        say("All differences are within noise: no branch is better or worse than what it is compared with.")
    for note in found.notes:
        say(f"Note: {plain(note)}")


def _cells(branch: Compared, effects: Sequence[Effect]) -> list[str]:
    """A row of the table: the differences in points, marked where they are larger than noise."""
    from raysweep.report.effects import BETTER, NO_IMAGES, NOISE, UNKNOWN, WORSE

    marks = {BETTER: "▲", WORSE: "▼", NOISE: " ", UNKNOWN: "?"}

    def cell(e: Effect) -> str:
        if e.label == NO_IMAGES:
            return NO_IMAGES
        return "-" if math.isnan(e.difference) else f"{100 * e.difference:+.1f}{marks[e.label]}"

    points = [cell(e) for e in effects]
    return [plain(branch.name), *points, f"{branch.seconds:,.0f}", f"{branch.images:,}"]


def _sentence(e: Effect) -> str:
    """``d5: F1 of disgust better, 40.0 → 45.2 (+5.2; 95 % interval +2.0 … +8.4)``."""
    what = {"accuracy": "accuracy", "macro_f1": "macro-F1"}.get(e.metric) or f"{TITLES[e.metric]} of {e.target}"
    from raysweep.report.sections.differences import interval

    noise = "" if e.noise is None else f"; variation between seeds {100 * e.noise:.1f}"
    return (
        f"{e.branch}: {what} {e.label}, {100 * e.reference:.1f} → {100 * e.value:.1f} "
        f"({100 * e.difference:+.1f}; {interval(e)}{noise})"
    )
