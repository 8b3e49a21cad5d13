"""``raysweep branch``: a sweep of children of one checkpoint, each with different class sampling weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from raysweep._text import Nested, counted, join_names, labels, plain
from raysweep.cli.consent import consent
from raysweep.cli.options import Address, From, Reset, RootOption, TrustOption, WeightsOnly, resets_head
from raysweep.cluster import signals
from raysweep.display.terminal import percent, put, put_json, say, say_next
from raysweep.store.root import Root

if TYPE_CHECKING:
    from raysweep.config.grid import Grid
    from raysweep.launch.sweep.driver import SweepResult
    from raysweep.plan.types import SweepPlan, SweepRequest


_Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="CPU threads per branch. Fewer than the parent's: more branches run at the same time, not bit-exact.",
    ),
]


def register(app: typer.Typer) -> None:
    app.command("branch", no_args_is_help=True)(branch)


def branch(
    checkpoint: From,
    weights_grid: str | None = typer.Option(
        None, "--weights-grid", help="A grid file, or the name of an example: grid, rules."
    ),
    grid: str | None = typer.Option(
        None,
        "--grid",
        help="A small grid in place of a file: 'disgust=3,5 fear=2', also settings (loss.kind=focal), rules (balanced), seeds=0,1.",
    ),
    overrides: list[str] | None = typer.Argument(
        None, metavar="[key=value]...", help="Settings of all branches that override the parent's."
    ),
    name: str | None = typer.Option(None, "--name", help="Name of the sweep; its branches are named NAME-BRANCH."),
    description: str = typer.Option("", "--description", help="The purpose of the sweep, for the logs."),
    epochs: int | None = typer.Option(None, "--epochs", min=1, help="Additional epochs; overrides the grid's."),
    threads: _Threads = None,
    workers: int | None = typer.Option(
        None, "--workers", min=0, help="Ray workers per branch. 0: one device per branch."
    ),
    max_concurrent: int | None = typer.Option(
        None, "--max-concurrent", min=1, help="Largest number of branches that run at the same time."
    ),
    in_process: bool = typer.Option(
        False,
        "--in-process",
        help="Train in processes of this machine, without Ray, whose start takes longer than small branches.",
    ),
    gpus_per_branch: float | None = typer.Option(
        None, "--gpus-per-branch", min=0.01, help="0.25 lets four branches share a GPU."
    ),
    weights_only: WeightsOnly = False,
    reset: Reset = None,
    address: Address = None,
    trust: TrustOption = False,
    root: RootOption = "experiments",
    dry_run: bool = typer.Option(False, "--dry-run", help="Check everything and show every branch, but start nothing."),
    as_json: bool = typer.Option(False, "--json", help="With --dry-run: print JSON."),
) -> None:
    """Train many children of a checkpoint (a sweep). Each has a different class ratio; the control has the unchanged one."""
    from raysweep.plan.types import SweepRequest

    request = SweepRequest(
        Root.open(root),
        checkpoint,
        _grid(weights_grid, grid),
        name=name,
        description=description,
        epochs=epochs,
        threads=threads,
        workers=workers,
        address=address,
        max_concurrent=max_concurrent,
        in_process=in_process,
        gpus_per_branch=gpus_per_branch,
        fresh_optimizer=weights_only,
        reset_head=resets_head(reset),
        overrides=_nested(overrides or []),
    )
    _run(request, trust, dry_run, as_json)


def _nested(overrides: list[str]) -> Nested:
    from raysweep.config import load as load_config

    return load_config.parse_overrides(overrides)


def _grid(file: str | None, line: str | None) -> Grid:
    from raysweep.config import grid as grids
    from raysweep.config import grid_line
    from raysweep.errors import InputError

    if (file is None) == (line is None):
        raise InputError(
            "Give the grid either as a file, --weights-grid FILE, or as a line, --grid 'disgust=3,5 fear=2'."
        )
    return grids.read(file) if file is not None else grid_line.parse(line or "")


def _run(request: SweepRequest, trust: bool, dry_run: bool, as_json: bool) -> None:
    from raysweep.display.sweep import SweepDisplay
    from raysweep.store import resolve

    resolve.check(request.root, request.checkpoint)
    if request.grid.data.folds is not None:
        _run_folds(request, trust, dry_run, as_json)
        return
    with SweepDisplay() as display:
        from raysweep.api import training

        request = replace(request, trust=consent(trust, display))
        plan = training.plan_branch(request, display, writable=not dry_run)
        if dry_run:
            display.close()
            put_json(_plan_json(plan)) if as_json else _show_plan(plan)
            return
        result = training.train_sweep(plan, display)
    put(str(result.sweep.folder))
    summarise(result)


def _run_folds(request: SweepRequest, trust: bool, dry_run: bool, as_json: bool) -> None:
    from raysweep.cli import folds
    from raysweep.display.sweep import SweepDisplay
    from raysweep.events import Loading

    with SweepDisplay() as display:
        display(Loading())
        from raysweep.launch.sweep import folds as launching
        from raysweep.plan.folds import plan_folds

        request = replace(request, trust=consent(trust, display))
        plan = plan_folds(request, display, writable=not dry_run)
        if dry_run:
            display.close()
            if as_json:
                put_json({**_plan_json(plan.sweep), **folds.plan_json(plan)})
                return
            folds.show_plan(plan)
            _show_plan(plan.sweep)
            return
        result = launching.run(plan, display)
    put(str(result.folds.folder))
    folds.summarise(result)


def _at_once(plan: SweepPlan) -> int | None:
    """How many branches run at the same time; None where a cluster decides."""
    from raysweep.plan import capacity

    return None if plan.base.settings.scaling.address else capacity.at_once(plan, capacity.this_machine())


def _plan_json(plan: SweepPlan) -> dict[str, object]:
    """What --dry-run --json prints."""
    base, parent = plan.base, plan.parent
    return {
        "name": plan.name,
        "parent": parent.record().to_json(),
        "parent_shares": plan.shares(parent.weights),
        "epochs": base.settings.training.epochs,
        "learning_rate": None if base.rates is None else dict(vars(base.rates)),
        "threads": base.resources.threads,
        "at_once": _at_once(plan),
        "bytes": plan.branches * plan.branch_bytes,
        "notes": [*plan.notes, *(n.text for n in base.notes)],
        "reading": base.data.reading.to_json(),
        "branches": [
            {
                "name": p.name,
                "control": p.control,
                "seed": p.seed,
                "weights": p.weights.as_dict(),
                "shares": plan.shares(p.weights, p),
                "settings": dict(p.settings),
                "arm": p.arm,
                "reference": p.reference,
                "learning_rate": None if (rates := plan.of(p).rates) is None else dict(vars(rates)),
            }
            for p in plan.points
        ],
    }


def _show_plan(plan: SweepPlan) -> None:
    """Print what --dry-run shows: every branch with its class shares, and what the sweep will use and write."""
    base, parent = plan.base, plan.parent
    _table_of_shares(plan)
    for note in (*plan.notes, *(n.text for n in base.notes)):
        say(plain(note))
    for its in dict.fromkeys(p.reference for p in plan.points if p.reference is not None):
        those = join_names(list(dict.fromkeys(str(p.arm) for p in plan.points if p.reference == its)))
        say(f"Compared with {plain(its)}, the control of the same settings: {plain(those)}.")
    searched = plan.branches - len(plan.points)
    if searched:
        say(f"The search will choose the weights of {searched} more branches.")
    device = f"{counted(base.resources.workers, 'worker')} of " if base.resources.workers else ""
    device += counted(base.resources.threads, "thread")
    device += f" and {plan.gpus_per_branch:g} GPU" if plan.gpus_per_branch else ""
    count = _at_once(plan)
    where = f"as many at a time as fit on {base.settings.scaling.address}" if count is None else f"{count} at a time"
    say(
        f"{counted(plan.branches, 'branch', 'branches')} (* control) of {counted(base.settings.training.epochs, 'epoch')} from {plain(parent.experiment)}@{parent.epoch}, "
        f"each with {device}, {where}; about {plan.branches * plan.branch_bytes / 1e6:,.0f} MB. Nothing was started."
    )


def _table_of_shares(plan: SweepPlan) -> None:
    from raysweep.display.shares import MOST_CLASSES
    from raysweep.display.tables import table

    parent = plan.parent
    classes, old, before = parent.classes, parent.weights.as_dict(), plan.shares(parent.weights)
    rows = [["(parent)", "", *(percent(before[c]) for c in classes)]]
    size = dict.fromkeys(classes, (False, 0.0))
    for p in plan.points:
        shares, new = plan.shares(p.weights, p), p.weights.as_dict()
        size = {c: max(size[c], (new[c] != old[c], abs(shares[c] - before[c]))) for c in classes}
        cells = [percent(shares[c]) + (f" (w {new[c]:g})" if new[c] != old[c] else "") for c in classes]
        rows.append([plain(p.name) + (" *" if p.control else ""), str(p.seed), *cells])
    columns = [("branch", "l"), ("seed", "r"), *((c, "r") for c in labels(classes))]
    least = [2 + i for i in sorted(range(len(classes)), key=lambda i: size[classes[i]])]
    table("Share of each class among the images shown", columns, rows, least=least, most=MOST_CLASSES)


def summarise(result: SweepResult) -> None:
    """Print the results of a sweep, which branches failed and why, and the next command.

    Raises:
        TrainingError: branches failed.
    """
    from raysweep.display.results import results_table
    from raysweep.display.verdict import say_verdict
    from raysweep.errors import TrainingError
    from raysweep.store.commands import continue_command
    from raysweep.store.results import read_results

    signals.all_done()
    sweep = result.sweep
    rows = read_results(sweep)
    say("")
    results_table(rows, err=True, whole="results.csv")
    for name, reason in result.failed.items():
        file = sweep.traceback(name)
        where = f" (traceback: {file})" if file.is_file() else ""
        say(f"{plain(name)} failed: {plain(reason)}{plain(where)}")
    say(f"All results are in {sweep.folder}")
    if result.failed:
        raise TrainingError(
            f"{len(result.failed)} of {counted(len(rows), 'branch', 'branches')} failed; the others are complete. Run the failed ones again with: "
            f"{continue_command(sweep.root, sweep.id)}"
        )
    if result.comparison is not None:
        say_verdict(result.comparison)
    say_next(sweep.root, "compare", sweep.id)
