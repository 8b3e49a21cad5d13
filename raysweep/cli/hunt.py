"""``raysweep hunt``: from one checkpoint to a better model, within a budget."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from raysweep._text import counted, plain
from raysweep.cli.consent import consent
from raysweep.cli.options import Address, From, RootOption, TrustOption
from raysweep.cluster import signals
from raysweep.display.tables import table
from raysweep.display.terminal import duration, put, put_json, say, say_next

if TYPE_CHECKING:
    from raysweep.plan.hunt.plan import HuntPlan, HuntRequest
    from raysweep.store.hunts import Hunt


def register(app: typer.Typer) -> None:
    app.command("hunt", no_args_is_help=True)(hunt)


def hunt(
    checkpoint: From,
    overrides: list[str] | None = typer.Argument(
        None, metavar="[key=value]...", help="Settings of all branches that override the parent's."
    ),
    budget: str | None = typer.Option(None, "--budget", metavar="TIME", help="Hours or minutes of work: 2h, 90m."),
    images: str | None = typer.Option(None, "--images", metavar="N", help="Images to show in all: 2M, 500k."),
    branches: int | None = typer.Option(None, "--branches", min=1, help="Trainings in all, of the length of a round."),
    rounds: int | None = typer.Option(
        None, "--rounds", min=1, help="Rounds of branches. Default: as the budget allows, at most 4."
    ),
    space: str | None = typer.Option(
        None,
        "--space",
        metavar="FILE",
        help="What is varied, and between which values. Default: the weights of the rarest classes, the loss, the learning rate.",
    ),
    epochs: int | None = typer.Option(None, "--epochs", min=1, help="Epochs of each round; overrides the space's."),
    proposer: str = typer.Option("model", "--proposer", help="What proposes the next round: model, optuna or random."),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of the proposals."),
    name: str | None = typer.Option(None, "--name", help="Name of the hunt; its sweeps are named NAME-r1, NAME-r2."),
    description: str = typer.Option("", "--description", help="The purpose of the hunt."),
    threads: int | None = typer.Option(None, "--threads", min=1, help="CPU threads of each training."),
    workers: int | None = typer.Option(None, "--workers", min=0, help="Ray workers of each training."),
    max_concurrent: int | None = typer.Option(
        None, "--max-concurrent", min=1, help="Largest number of branches that run at the same time."
    ),
    gpus_per_branch: float | None = typer.Option(
        None, "--gpus-per-branch", min=0.01, help="0.25 lets four branches share a GPU."
    ),
    in_process: bool = typer.Option(
        False, "--in-process", help="Train the branches in processes of this machine, without Ray."
    ),
    address: Address = None,
    trust: TrustOption = False,
    root: RootOption = "experiments",
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Check everything and show what it would take, but start nothing."
    ),
    as_json: bool = typer.Option(False, "--json", help="With --dry-run: print JSON."),
) -> None:
    """Hunt for a better model from a checkpoint, within a budget. Rounds of branches; at the end new seeds and one look at the test images."""
    from raysweep.api import hunting
    from raysweep.config import load as load_config
    from raysweep.store import resolve
    from raysweep.store.root import Root

    resolve.check(Root.open(root), checkpoint)
    request = hunting.request_of(
        checkpoint, (budget, images, branches), rounds, space, proposer, seed, root,
        name=name, description=description, epochs=epochs, threads=threads, workers=workers, max_concurrent=max_concurrent,
        gpus_per_branch=gpus_per_branch, address=address, in_process=in_process, overrides=load_config.parse_overrides(overrides or []) or None,
    )  # fmt: skip
    _run(request, trust, dry_run, as_json)


def _run(request: HuntRequest, trust: bool, dry_run: bool, as_json: bool) -> None:
    from raysweep.api import hunting
    from raysweep.display.sweep import SweepDisplay

    with SweepDisplay() as display:
        request = replace(request, sweep=replace(request.sweep, trust=consent(trust, display)))
        plan = hunting.plan_hunt(request, display, writable=not dry_run)
        if dry_run:
            display.close()
            put_json(_as_json(plan)) if as_json else _show(plan)
            return
        found = hunting.run_hunt(plan, display)
    put(str(found.folder))
    summarise(found)


def _as_json(plan: HuntPlan) -> dict[str, object]:
    """What ``--dry-run --json`` prints."""
    return {
        "name": plan.name,
        "parent": plan.parent.record().to_json(),
        "rounds": plan.rounds,
        "epochs": plan.epochs,
        "trainings": plan.trainings,
        "images": plan.trainings * plan.images,
        "hours": plan.hours,
        "at_once": plan.at_once,
        "counted_on": plan.counted_on,
        "bytes": plan.bytes,
        "space": plan.space.model_dump(mode="json", exclude_none=True),
        "first_round": {arm: t.to_json() for arm, t in plan.treatments.items()},
        "notes": [*plan.first.notes, *(n.text for n in plan.first.base.notes)],
    }


def _show(plan: HuntPlan) -> None:
    """Print the branches of the first round, and what the hunt will take."""
    rows = []
    for arm, t in plan.treatments.items():
        weights = t.weights if isinstance(t.weights, str) else ", ".join(f"{c} {w:g}" for c, w in t.weights.items())
        settings = ", ".join(f"{k}={v}" for k, v in {**t.shares, **t.settings}.items())
        rows.append([arm, plain(weights), plain(settings)])
    table("First round", [("branch", "l"), ("weights", "l"), ("settings", "l")], rows)
    for note in (*plan.first.notes, *(n.text for n in plan.first.base.notes)):
        say(plain(note))
    at = f"{plain(plan.parent.experiment)}@{plan.parent.epoch}"
    say(
        f"{counted(plan.rounds, 'round')} of {counted(plan.epochs, 'epoch')} from {at}: at most {counted(plan.trainings, 'training')} in all, the new seeds "
        f"at the end included; {plan.trainings * plan.images:,} images, about {duration(3600 * plan.hours)}, {plan.bytes / 1e6:,.0f} MB. Counted on {plan.counted_on}. Nothing was started."
    )


def summarise(found: Hunt) -> None:
    """Print the page of a hunt that has ended, and the next command."""
    signals.all_done()
    for line in found.page().splitlines():
        say(plain(line))
    record = found.record()
    say(f"The page is {found.folder}/hunt.md, and hunt.html beside it.")
    last = record.rounds[-1].sweep
    if last is not None:
        say_next(found.root, "compare", last)
