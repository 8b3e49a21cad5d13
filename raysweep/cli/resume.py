"""``raysweep resume``: a child experiment from any checkpoint."""

from __future__ import annotations

from typing import Any

import typer

from raysweep.display.terminal import put, split_classes
from raysweep.events import Loading
from raysweep.store.root import Root


def register(app: typer.Typer) -> None:
    app.command("resume", no_args_is_help=True)(resume)


def resume(
    overrides: list[str] | None = typer.Argument(
        None, metavar="[key=value]...", help="Settings that override the parent's."
    ),
    checkpoint: str = typer.Option(
        ..., "--from", help="A .pt file, or EXPERIMENT@5, EXPERIMENT@best, EXPERIMENT@latest."
    ),
    name: str | None = typer.Option(None, "--name", help="Name of the child; default: the parent's."),
    epochs: int | None = typer.Option(None, "--epochs", min=1, help="Additional epochs."),
    weights: str | None = typer.Option(
        None, "--weights", help="JSON, or a JSON or YAML file: new weights by class. Other classes keep the parent's."
    ),
    description: str | None = typer.Option(None, "--description", help="The purpose of the experiment, for its log."),
    classes: str | None = typer.Option(
        None,
        "--classes",
        metavar="A,B,C",
        help="The classes of an old checkpoint, in the order of the outputs.",
    ),
    weights_only: bool = typer.Option(False, "--weights-only", help="Keep the model, reset the optimizer."),
    root: str = typer.Option(
        "experiments", "--root", envvar="RAYSWEEP_ROOT", help="Folder of all experiments, or s3://BUCKET/PREFIX."
    ),
    workers: str | None = typer.Option(
        None, "--workers", metavar="N|MIN-MAX", help="Ray workers. 0: train in this process. 2-8: as many as fit."
    ),
    address: str | None = typer.Option(None, "--address", help="Address of a running Ray cluster."),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Check everything and show what would run, but start nothing."
    ),
) -> None:
    """Train a child of a checkpoint. It starts from the same state, with new class weights or settings if you give them."""

    from raysweep.cli.run import announce, show_plan
    from raysweep.config import load as load_config
    from raysweep.config import weights_file
    from raysweep.display.run import RunDisplay

    changed = weights_file.parse(weights) if weights is not None else None
    over: dict[str, Any] = load_config.parse_overrides(overrides or [])
    count = load_config.parse_workers(workers)
    scaling = {k: v for k, v in (("num_workers", count), ("address", address)) if v is not None}
    if scaling:
        over = load_config.merge(over, {"scaling": scaling})
    with RunDisplay() as display:
        display(Loading())
        from raysweep.launch import run as launching
        from raysweep.plan import child
        from raysweep.plan import parent as parents

        place = Root.open(root)
        parent = parents.read_parent(place, checkpoint, over, split_classes(classes))
        plan = child.plan_child(
            parent,
            place,
            name=name,
            description=description,
            epochs=epochs,
            weights=changed,
            overrides=over,
            fresh_optimizer=weights_only,
            progress=display,
            writable=not dry_run,
        )
        if dry_run:
            display.close()
            show_plan(plan, False)
            return
        for note in plan.notes:
            if not note.inexact:  # the training itself says that
                display(note)
        result = launching.run(plan, display)
    put(str(result.experiment.folder))
    announce(display, result.experiment, root)
