"""``raysweep resume``: a child experiment from any checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from raysweep._text import Nested
from raysweep.cli.consent import consent
from raysweep.cli.options import (
    Address,
    Classes,
    DryRun,
    From,
    Purpose,
    Reset,
    RootOption,
    ShowConfig,
    TrustOption,
    WeightsOnly,
    Workers,
    resets_head,
)
from raysweep.display.terminal import put, split_classes

_Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="New weights: disgust=5,fear=2; or shares, fear=35%; or a rule: balanced, sqrt, power=0.5; or JSON; or a JSON or YAML "
        "file. Other classes keep the parent's.",
    ),
]


def register(app: typer.Typer) -> None:
    app.command("resume", no_args_is_help=True)(resume)


def resume(
    checkpoint: From,
    overrides: list[str] | None = typer.Argument(
        None, metavar="[key=value]...", help="Settings that override the parent's."
    ),
    name: str | None = typer.Option(None, "--name", help="Name of the child; default: the parent's."),
    epochs: int | None = typer.Option(None, "--epochs", min=1, help="Additional epochs."),
    weights: _Weights = None,
    description: Purpose = None,
    classes: Classes = None,
    weights_only: WeightsOnly = False,
    reset: Reset = None,
    root: RootOption = "experiments",
    workers: Workers = None,
    address: Address = None,
    trust: TrustOption = False,
    dry_run: DryRun = False,
    show_config: ShowConfig = False,
) -> None:
    """Train a child of a checkpoint. It starts from the same state, with new class weights or settings if you give them."""
    from raysweep.cli.run import announce, show_plan
    from raysweep.config import weights_file
    from raysweep.display.run import RunDisplay

    changed = weights_file.parse(weights) if weights is not None else None
    over = _settings(overrides or [], workers, address)
    with RunDisplay() as display:
        from raysweep.api import training

        plan = training.plan_resume(
            checkpoint,
            settings=over,
            progress=display,
            root=root,
            classes=split_classes(classes),
            trust=consent(trust, display),
            name=name,
            description=description,
            epochs=epochs,
            weights=changed,
            fresh_optimizer=weights_only,
            reset_head=resets_head(reset),
            writable=not dry_run,
        )
        if dry_run:
            display.close()
            show_plan(plan, False, show_config)
            return
        result = training.train(plan, display)
    put(str(result.experiment.folder))
    announce(display, result.experiment)


def _settings(overrides: Sequence[str], workers: str | None, address: str | None) -> Nested:
    """What the command line says of the settings, nested; --workers and --address override ``scaling.…=``."""
    from raysweep.config import load as load_config

    over: Nested = load_config.parse_overrides(list(overrides))
    options = {"num_workers": load_config.parse_workers(workers), "address": address}
    scaling = {k: v for k, v in options.items() if v is not None}
    return load_config.merge(over, {"scaling": scaling}) if scaling else over
