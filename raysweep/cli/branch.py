"""``raysweep branch``: a sweep of children of one checkpoint, each with different class sampling weights."""

from __future__ import annotations

from typing import Any

import typer

from raysweep._text import plain
from raysweep.display.terminal import percent, put, put_json, say, table
from raysweep.events import Loading
from raysweep.store.results import read_results
from raysweep.store.root import Root


def register(app: typer.Typer) -> None:
    app.command("branch", no_args_is_help=True)(branch)


def branch(
    overrides: list[str] | None = typer.Argument(
        None, metavar="[key=value]...", help="Settings of all branches that override the parent's."
    ),
    checkpoint: str = typer.Option(
        ..., "--from", help="A .pt file, or EXPERIMENT@5, EXPERIMENT@best, EXPERIMENT@latest."
    ),
    weights_grid: str = typer.Option(..., "--weights-grid", help="A grid file, such as configs/grid.yaml."),
    name: str | None = typer.Option(None, "--name", help="Name of the sweep; its branches are named NAME-BRANCH."),
    description: str = typer.Option("", "--description", help="The purpose of the sweep, for the logs."),
    epochs: int | None = typer.Option(None, "--epochs", min=1, help="Additional epochs; overrides the grid's."),
    threads: int | None = typer.Option(
        None,
        "--threads",
        min=1,
        help="CPU threads per branch. Fewer than the parent's: more branches run at the same time, not bit-exact.",
    ),
    workers: int | None = typer.Option(
        None, "--workers", min=0, help="Ray workers per branch. 0: one device per branch."
    ),
    max_concurrent: int | None = typer.Option(
        None, "--max-concurrent", min=1, help="Largest number of branches that run at the same time."
    ),
    gpus_per_branch: float | None = typer.Option(
        None, "--gpus-per-branch", min=0.01, help="0.25 lets four branches share a GPU."
    ),
    address: str | None = typer.Option(None, "--address", help="Address of a running Ray cluster."),
    root: str = typer.Option(
        "experiments", "--root", envvar="RAYSWEEP_ROOT", help="Folder of all experiments, or s3://BUCKET/PREFIX."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Check everything and show every branch, but start nothing."),
    as_json: bool = typer.Option(False, "--json", help="With --dry-run: print JSON."),
) -> None:
    """Train many children of a checkpoint (a sweep). Each has a different class ratio; the control has the unchanged one."""
    from raysweep.config import grid as grids
    from raysweep.config import load as load_config
    from raysweep.display.sweep import SweepDisplay

    grid = grids.read(weights_grid)
    over = load_config.parse_overrides(overrides or [])
    with SweepDisplay() as display:
        display(Loading())
        from raysweep.launch.sweep import driver as sweeping
        from raysweep.plan import sweep as sweep_plan
        from raysweep.plan.types import SweepRequest

        request = SweepRequest(
            Root.open(root),
            checkpoint,
            grid,
            name=name,
            description=description,
            epochs=epochs,
            threads=threads,
            workers=workers,
            address=address,
            max_concurrent=max_concurrent,
            gpus_per_branch=gpus_per_branch,
            overrides=over,
        )
        plan = sweep_plan.plan_sweep(request, display, writable=not dry_run)
        if dry_run:
            display.close()
            show_plan(plan, as_json)
            return
        result = sweeping.run(plan, display)
    put(str(result.sweep.folder))
    summarise(result, root)


def show_plan(plan: Any, as_json: bool) -> None:
    """Print what --dry-run shows: every branch with its class shares, and what the sweep will use and write."""
    from raysweep.plan import capacity

    base, parent = plan.base, plan.parent
    address = base.settings.scaling.address
    count = None if address else capacity.at_once(plan, capacity.this_machine())
    before = plan.shares(parent.weights)
    if as_json:
        put_json(
            {
                "name": plan.name,
                "parent": parent.record().to_json(),
                "parent_shares": before,
                "epochs": base.settings.training.epochs,
                "threads": base.resources.threads,
                "at_once": count,
                "bytes": plan.branches * plan.branch_bytes,
                "notes": list(plan.notes),
                "branches": [
                    {
                        "name": p.name,
                        "control": p.control,
                        "seed": p.seed,
                        "weights": p.weights.as_dict(),
                        "shares": plan.shares(p.weights),
                    }
                    for p in plan.points
                ],
            }
        )
        return
    classes, old = list(parent.classes), parent.weights.as_dict()
    rows = [["(parent)", "", *(percent(before[c]) for c in classes)]]
    for p in plan.points:
        shares, new = plan.shares(p.weights), p.weights.as_dict()
        cells = [percent(shares[c]) + (f" (w {new[c]:g})" if new[c] != old[c] else "") for c in classes]
        rows.append([p.name + (" *" if p.control else ""), str(p.seed), *cells])
    table(
        "Share of each class among the images shown",
        [("branch", "l"), ("seed", "r"), *((plain(c), "r") for c in classes)],
        rows,
    )
    for note in (*plan.notes, *(n.text for n in base.notes)):
        say(plain(note))
    searched = plan.branches - len(plan.points)
    if searched:
        say(f"{searched} more branches will get their weights from the search.")
    device = f"{base.resources.workers} workers of " if base.resources.workers else ""
    device += f"{base.resources.threads} thread{'s' * (base.resources.threads != 1)}"
    device += f" and {plan.gpus_per_branch:g} GPU" if plan.gpus_per_branch else ""
    where = f"as many at a time as fit on {address}" if count is None else f"{count} at a time"
    say(
        f"{plan.branches} branches (* control) of {base.settings.training.epochs} epochs from {plain(parent.experiment)}@{parent.epoch}, "
        f"each with {device}, {where}; about {plan.branches * plan.branch_bytes / 1e6:,.0f} MB. Nothing was started."
    )


def summarise(result: Any, root: str) -> None:
    """Print the results of a sweep, which branches failed and why, and the next command."""
    import shlex

    from raysweep.errors import TrainingError

    rows = read_results(result.sweep)
    say("")
    lines = []
    for r in rows:
        against = r["val_acc_minus_control"]
        f1 = r["val_macro_f1_minus_control"]
        lines.append(
            [
                plain(r["branch"]) + (" *" if r["control"] else ""),
                str(r["status"]),
                percent(r["val_acc"]),
                "" if against is None or r["control"] else f"{100 * against:+.1f}",
                "-" if r["val_macro_f1"] is None else f"{r['val_macro_f1']:.3f}",
                "" if f1 is None or r["control"] else f"{f1:+.3f}",
                plain(f"{r['worst_class']} {percent(r['worst_recall'])}") if r["worst_class"] is not None else "-",
            ]
        )
    columns = [
        ("branch", "l"),
        ("status", "l"),
        ("accuracy", "r"),
        ("− control", "r"),
        ("macro-F1", "r"),
        ("− control", "r"),
    ]
    table("Last epoch of every branch (* control)", [*columns, ("worst class", "l")], lines, err=True)
    for name, reason in result.failed.items():
        file = result.sweep.traceback(name)
        where = f" (traceback: {file})" if file.is_file() else ""
        say(f"{plain(name)} failed: {plain(reason)}{plain(where)}")
    where = "" if root == "experiments" else f" --root {shlex.quote(root)}"
    say(f"All results are in {result.sweep.folder}")
    if result.failed:
        raise TrainingError(
            f"{len(result.failed)} of {len(rows)} branches failed; the others are complete. Run the failed ones again with: "
            f"raysweep continue {result.sweep.id}{where}"
        )
    say(f"Next: raysweep compare {result.sweep.id}{where}")
