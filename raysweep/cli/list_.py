"""``raysweep list``: the experiments under the root."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from raysweep._text import counted, plain
from raysweep.cli.options import RootOption
from raysweep.display.tables import table
from raysweep.display.terminal import age, decimals, percent, put_json, put_json_bytes, say, say_first
from raysweep.label_sets import MAP
from raysweep.store.commands import command
from raysweep.store.root import Root

if TYPE_CHECKING:
    from raysweep.store.fields import Row

MOST_BRANCHES = 8  # of a sweep, in the list of everything on a terminal
_COLUMNS = ("id", "status", "epochs", "best acc", "macro-F1", "worst class", "parent", "ratio change", "age")
_NUMBERS = {"epochs", "best acc", "macro-F1", "age"}
STATUSES = ("running", "finished", "interrupted", "failed", "crashed", "legacy", "damaged")
MAX_OWN = 3  # columns of metrics of the user; list --json has them all
SORT_KEYS = ("created", "id", "best_acc", "best_macro_f1", "epochs_done", "status")  # columns of the catalog's index


def register(app: typer.Typer) -> None:
    app.command("list")(list_)


def list_(
    checkpoints: bool = typer.Option(
        False, "--checkpoints", help="List every checkpoint with the reference for --from."
    ),
    sweep: str | None = typer.Option(None, "--sweep", help="List only the branches of this sweep."),
    status: str | None = typer.Option(None, "--status", help=f"List only this status: {', '.join(STATUSES)}."),
    sort: str = typer.Option("created", "--sort", help=f"Sort by: {', '.join(SORT_KEYS)}."),
    limit: int | None = typer.Option(
        None, "--limit", min=1, help="List at most this many: the last ones in sort order."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON array with the documented fields."),
    root: RootOption = "experiments",
) -> None:
    """List the experiments under the root, oldest first. On a terminal, the branches of a sweep are grouped under it; programs get one
    row for each experiment."""

    from raysweep.errors import InputError, did_you_mean
    from raysweep.store import index

    if sort not in SORT_KEYS:
        raise InputError(
            f"--sort {sort}: there is no such key.{did_you_mean(sort, SORT_KEYS)} Use one of {', '.join(SORT_KEYS)}."
        )
    if status is not None and status not in STATUSES:
        raise InputError(
            f"--status {status}: there is no such status.{did_you_mean(status, STATUSES)} Use one of {', '.join(STATUSES)}."
        )
    folder = Root.open(root)
    if sweep is not None and not index.texts(folder, sweep=sweep, limit=1):
        sweep = _sweep_id(folder, sweep)
    if as_json and not checkpoints:
        texts = index.texts(folder, status=status, sweep=sweep, sort=sort, limit=limit)
        put_json_bytes(b"[" + b",\n ".join(texts) + b"]\n")  # one line per experiment
        return
    rows = index.rows(folder, status=status, sweep=sweep, sort=sort, limit=limit)
    if checkpoints:
        _checkpoints(rows, as_json)
        return
    if not rows:
        _say_none(folder, status, sweep)
        return
    grouped = sys.stdout.isatty() and (status, sweep, sort) == (None, None, "created")
    counts = _branches(rows if limit is None else index.rows(folder)) if grouped and any(r.sweep for r in rows) else {}
    cells, hidden = _grouped(rows, counts) if counts else ([_cells(r) for r in rows], None)
    columns = [(name, "r" if name in _NUMBERS else "l") for name in _COLUMNS]
    if own := list(dict.fromkeys(name for r in rows for name in r.metrics))[:MAX_OWN]:
        columns += [(plain(name), "r") for name in own]
        of = {plain(r.id): r.metrics for r in rows}
        cells = [[*line, *(decimals(of.get(line[0].strip(), {}).get(name)) for name in own)] for line in cells]
    # In a narrow terminal the worst class leaves first, then the parent, the age, the user's metrics, macro-F1, epochs, ratio change; of several labels for
    # an image mAP stays, by which the best epoch is chosen, and the accuracy leaves.
    names = [name for name, _ in columns]
    own_columns = [i for i in range(len(_COLUMNS), len(columns)) if names[i] != MAP]
    of_labels = [names.index("best acc")] if rows and all(MAP in r.metrics for r in rows) else []
    table(None, columns, cells, optional=[5, 6, 8, *own_columns, 4, *of_labels, 2, 7])
    for r in rows:
        if r.note:
            say(plain(r.note))
    if hidden is not None:
        say(f"All branches of a sweep: `{command(folder, 'list', '--sweep', plain(hidden))}`")


def _branches(rows: list[Row]) -> dict[str, list[Row]]:
    """Sweep → its branches."""
    found: dict[str, list[Row]] = {}
    for r in rows:
        if r.sweep is not None:
            found.setdefault(r.sweep, []).append(r)
    return found


def _grouped(rows: list[Row], sweeps: dict[str, list[Row]]) -> tuple[list[list[str]], str | None]:
    """The cells with a row for each sweep above its branches, of which at most ``MOST_BRANCHES`` are listed: the controls, and then
    those that are best. Also the first sweep of which some are not."""
    cells: list[list[str]] = []
    hidden = None
    here = _branches(rows)
    for r in rows:
        if r.sweep is None:
            cells.append(_cells(r))
            continue
        listed = here.pop(r.sweep, None)
        if listed is None:  # it was listed with the first branch of its sweep
            continue
        cells.append(_sweep_cells(r.sweep, sweeps[r.sweep]))
        best = sorted(listed, key=lambda b: (not b.control, -(b.best_macro_f1 or b.best_acc or 0)))[:MOST_BRANCHES]
        shown = {b.id for b in best}
        for branch in listed:
            if branch.id in shown:
                first, *others = _cells(branch)
                cells.append([f"  {first}", *others])
        if more := len(sweeps[r.sweep]) - len(best):
            cells.append([f"  … {more:,} more", *[""] * (len(_COLUMNS) - 1)])
            hidden = hidden or r.sweep
    return cells, hidden


def _sweep_cells(sweep: str, branches: list[Row]) -> list[str]:
    from collections import Counter

    def best(values: Iterator[float | None]) -> float | None:
        return max((v for v in values if v is not None), default=None)

    states = Counter(b.status for b in branches)
    first = branches[0]
    return [
        plain(sweep),
        ", ".join(f"{n:,} {status}" for status, n in states.items()),
        "",
        percent(best(b.best_acc for b in branches)),
        decimals(best(b.best_macro_f1 for b in branches)),
        "",
        plain(first.parent.reference) if first.parent else "-",
        f"sweep of {counted(len(branches), 'branch', 'branches')}",
        age(first.created),
    ]


def _say_none(folder: Root, status: str | None, sweep: str | None) -> None:
    """Say that nothing is listed: because of the filters, or because there is no experiment at all."""
    which = [f"with status {status}"] if status is not None else []
    which += [f"of sweep {plain(sweep)}"] if sweep is not None else []
    where = plain(folder.path.absolute())
    if which:
        say(f"No experiment {' '.join(which)} under {where}.")
        return
    say(f"No experiments under {where}.")
    say_first(folder)


def _sweep_id(root: Root, reference: str) -> str:
    """The id of the sweep that a path, a name or the start of an id means.

    Raises:
        NotFoundError: there is no such sweep; the message names those that there are.
    """
    from raysweep.store import resolve

    return resolve.find_sweep(root, reference).original_id


def _cells(r: Row) -> list[str]:
    from raysweep.store import ratio

    best, before = r.best_acc, r.parent_best_acc
    better_before = best is not None and before is not None and before > best
    return [
        plain(r.id),
        r.status,
        f"{r.epochs_done}/{r.epochs_target or '?'}",
        percent(best) + (f" (parent {percent(before)})" if better_before else ""),
        decimals(r.best_macro_f1),
        plain(f"{r.worst_class} {percent(r.worst_recall)}") if r.worst_class else "-",
        plain(r.parent.reference) if r.parent else "-",
        plain(ratio.of_row(r)),
        age(r.created),
    ]


@dataclass(frozen=True)
class CheckpointRow:
    """A checkpoint as --checkpoints lists it."""

    reference: str  # for --from
    file: str
    epoch: int
    batch: int | None
    bytes: int
    val_acc: object
    best: bool


def _checkpoints(rows: list[Row], as_json: bool) -> None:
    found = [checkpoint for r in rows for checkpoint in _of_experiment(r)]
    if as_json:
        put_json([vars(c) for c in found])
        return
    cells = [[plain(c.reference), percent(c.val_acc), f"{c.bytes / 1e6:.1f}", "best" if c.best else ""] for c in found]
    table(None, [("reference", "l"), ("accuracy", "r"), ("MB", "r"), ("", "l")], cells)


def _of_experiment(row: Row) -> Iterator[CheckpointRow]:
    from raysweep.store import layout
    from raysweep.store.experiment import Experiment

    experiment = Experiment(row.path)
    manifest = experiment.manifest()
    for e in manifest.entries:
        file = str(experiment.folder / e.file)
        reference = f"{row.id}@{e.epoch}" if e.batch is None else file
        best = e.file == manifest.best_file
        yield CheckpointRow(reference, file, e.epoch, e.batch, e.bytes, e.metrics.get("val_acc"), best)
    for epoch, batch in experiment.old_checkpoints():
        path = experiment.folder / layout.checkpoint_name(layout.Position(epoch, batch))
        reference = f"{row.id}@{epoch}" if batch is None else str(path)
        size = path.stat().st_size if path.is_file() else 0
        yield CheckpointRow(reference, str(path), epoch, batch, size, None, False)
