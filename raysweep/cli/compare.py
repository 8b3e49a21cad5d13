"""``raysweep compare``: which branch helped which class, and is it more than noise?"""

from __future__ import annotations

import math
from typing import Any

import typer

from raysweep._text import plain
from raysweep.display.terminal import put_json, say, table
from raysweep.store.root import Root

CLASS_METRICS = ("f1", "recall", "precision")


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
    root: str = typer.Option(
        "experiments", "--root", envvar="RAYSWEEP_ROOT", help="Folder of all experiments, or s3://BUCKET/PREFIX."
    ),
) -> None:
    """Show which branch helped which class. On the same validation images: the difference, its 95 % interval, and whether it
    is better, worse or within noise."""
    from raysweep.errors import InputError
    from raysweep.report import comparison as comparing

    if metric not in CLASS_METRICS:
        raise InputError(f"--metric {metric}: choose one of {', '.join(CLASS_METRICS)}.")
    found = comparing.compare(Root.open(root), references)
    if as_json:
        put_json(_as_json(found))
        return
    _show(found, metric)


def _as_json(found: Any) -> dict[str, Any]:
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


def _show(found: Any, metric: str) -> None:
    """Print one row per branch: its differences in points, marked where they are larger than noise."""
    from raysweep.report.effects import ALL, BETTER, NOISE, UNKNOWN, WORSE

    marks = {BETTER: "▲", WORSE: "▼", NOISE: " ", UNKNOWN: "?"}
    columns = [(ALL, "accuracy"), (ALL, "macro_f1"), *((c, metric) for c in found.classes)]
    titles = {"f1": "F1", "recall": "recall", "precision": "precision"}
    rows = []
    for branch in found.branches:
        cells = [found.of(branch.name, target, m) for target, m in columns]
        rows.append(
            [
                plain(branch.name),
                *("-" if math.isnan(e.difference) else f"{100 * e.difference:+.1f}{marks[e.label]}" for e in cells),
                f"{branch.seconds:,.0f}",
                f"{branch.images:,}",
            ]
        )
    head = [("branch", "l"), ("accuracy", "r"), ("macro-F1", "r"), *((plain(c), "r") for c in found.classes)]
    title = (
        f"Points against {plain(found.against)}; classes: {titles[metric]}. ▲ better, ▼ worse, unmarked: within noise"
    )
    table(title, [*head, ("seconds", "r"), ("images", "r")], rows)
    real = [e for e in found.effects if e.label in (BETTER, WORSE) and (e.metric == metric or e.target == ALL)]
    for e in real:
        what = {"accuracy": "accuracy", "macro_f1": "macro-F1"}.get(e.metric) or f"{titles[metric]} of {e.target}"
        noise = "" if e.noise is None else f"; variation between seeds {100 * e.noise:.1f}"
        say(
            f"{plain(e.branch)}: {plain(what)} {e.label}, {100 * e.reference:.1f} → {100 * e.value:.1f} "
            f"({100 * e.difference:+.1f}; 95 % interval {100 * e.low:+.1f} … {100 * e.high:+.1f}{noise})"
        )
    if not real and any(e.label == NOISE for e in found.effects):
        say("All differences are within noise: no branch is better or worse than what it is compared with.")
    for note in found.notes:
        say(f"Note: {plain(note)}")
