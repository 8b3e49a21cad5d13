"""``raysweep power``: how many seeds or images it would take to show a difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from raysweep._text import plain
from raysweep.cli.options import RootOption
from raysweep.display.tables import table
from raysweep.display.terminal import put_json, say
from raysweep.store.root import Root

if TYPE_CHECKING:
    from raysweep.report.comparison import Comparison
    from raysweep.report.effects import Effect

NAMES = {
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "learned": "learned",
    "mAP": "mAP",
}
_REASONS = {
    "not tested": "Not tested: fewer than 10 images or predictions of the class.",
    "not separable": "Not separable: no threshold makes some network predict the class as often as it occurs.",
    "one seed": "One seed: of a branch with one seed nothing is tested. Seeds: if every branch and the control get as many.",
}


@dataclass(frozen=True)
class Row:
    """What it takes for one metric: ``smallest_now`` is the smallest difference that the sweep could have shown."""

    target: str
    metric: str
    smallest_now: float | None
    seeds: int | None
    images: float | None
    reason: str = ""  # why nothing is tested, where smallest_now is None


def register(app: typer.Typer) -> None:
    app.command("power", no_args_is_help=True)(power)


def power(
    sweep: str = typer.Argument(..., metavar="SWEEP", help="A sweep whose branches or control have several seeds."),
    difference: float = typer.Option(2.0, "--difference", help="The difference to show, in percentage points."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    root: RootOption = "experiments",
) -> None:
    """Say how many seeds or images it would take to show a difference with a probability of 80 %, if every branch and the control get
    as many seeds. From the variation that the sweep measured."""
    from raysweep.errors import InputError
    from raysweep.report import comparison
    from raysweep.store import resolve
    from raysweep.store.sweep import Sweep

    if not 0 < difference <= 100:
        raise InputError(f"--difference {difference:g}: give percentage points above 0 and at most 100.")
    named = resolve.find_any(Root.open(root), sweep)
    if not isinstance(named, Sweep):
        raise InputError(
            f"{named.id} is an experiment. Name a sweep: only several trainings show how much seeds change."
        )
    found = comparison.of_sweep(named)
    if found.findings is None or not found.findings.seeds.degrees:
        raise InputError(
            f"{sweep} has one seed of everything, so nothing is known of the variation between seeds. Train more controls: "
            "`control_seeds: 8` in the grid."
        )
    rows = _rows(found, difference / 100)
    if as_json:
        put_json({"sweep": found.title, "difference": difference, "rows": [vars(row) for row in rows]})
        return
    from raysweep.report.findings.power import MOST_SEEDS

    cells = [
        [
            plain(row.target),
            row.metric,
            row.reason if row.smallest_now is None else f"{100 * row.smallest_now:.1f}",
            f"> {MOST_SEEDS}" if row.seeds is None else str(row.seeds),
            "no number" if row.images is None else f"{row.images:.1f} ×" if row.images > 1 else "as now",
        ]
        for row in rows
    ]
    title = f"To show {difference:g} points with a probability of 80 %"
    columns = [("class", "l"), ("metric", "l"), ("shown from, now", "r"), ("seeds each", "r"), ("images", "r")]
    table(title, columns, cells)
    for line in _explained(rows):
        say(line)


def _explained(rows: Sequence[Row]) -> list[str]:
    """What the words in the table mean, of those that are there."""
    from raysweep.report.findings.power import MOST_SEEDS

    found = []
    if any(row.seeds is None and row.images is not None for row in rows):
        found.append(
            f"> {MOST_SEEDS} seeds: the images alone leave more doubt, so it takes {MOST_SEEDS} seeds and so many times as many images."
        )
    if any(row.images is None for row in rows):
        found.append(f"No number of images: seeds vary so much that even {MOST_SEEDS} of them leave more doubt.")
    reasons = {row.reason for row in rows if row.smallest_now is None}
    found += [text for reason, text in _REASONS.items() if reason in reasons]
    return found


def _rows(found: Comparison, difference: float) -> list[Row]:
    """One row for each metric over all classes, and what was learned of each class; the branch that varies most counts."""
    from raysweep.report import needed
    from raysweep.report.effects import ALL, LEARNED

    each: dict[tuple[str, str], list[Effect]] = {}
    for e in found.effects:
        if e.metric in NAMES if e.target == ALL else e.metric == LEARNED:
            each.setdefault((e.target, e.metric), []).append(e)
    rows = []
    for (target, metric), of_branches in each.items():
        most = needed.hardest(of_branches)
        takes = None if most is None else needed.of_effect(found, most, difference)
        if most is None or takes is None:
            continue
        tested = not math.isnan(most.smallest)
        rows.append(
            Row(
                target,
                NAMES[metric],
                most.smallest if tested else None,
                takes.seeds,
                None if math.isinf(takes.images) else takes.images,
                "" if tested else most.label,
            )
        )
    return rows
