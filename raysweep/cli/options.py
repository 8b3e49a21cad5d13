"""Options and arguments that several commands have in common. What only one command has stands there."""

from __future__ import annotations

from typing import Annotated

import typer

from raysweep._text import plain
from raysweep.errors import InputError

ROOT = typer.Option("--root", envvar="RAYSWEEP_ROOT", help="Folder of all experiments, or s3://BUCKET/PREFIX.")

RootOption = Annotated[str, ROOT]
From = Annotated[str, typer.Option("--from", help="A .pt file, or EXPERIMENT@5, EXPERIMENT@best, EXPERIMENT@latest.")]
Checkpoint = Annotated[str, typer.Argument(metavar="CKPT", help="A .pt file, or EXPERIMENT@5, @best, @latest.")]
Purpose = Annotated[str | None, typer.Option("--description", help="The purpose of the experiment, for its log.")]
Classes = Annotated[
    str | None,
    typer.Option("--classes", metavar="A,B,C", help="The classes of an old checkpoint, in the order of the outputs."),
]
Workers = Annotated[
    str | None,
    typer.Option("--workers", metavar="N|MIN-MAX", help="Ray workers. 0: train in this process. 2-8: as many as fit."),
]
Address = Annotated[str | None, typer.Option("--address", help="Address of a running Ray cluster.")]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run the code that the checkpoint names although you did not make it here, and remember that."
    ),
]
Adjust = Annotated[
    str | None,
    typer.Option(
        "--adjust",
        metavar="METRIC",
        help="Add to the logits the offsets that are best by macro_f1, accuracy or balanced_accuracy on the validation images.",
    ),
]
ShowConfig = Annotated[
    bool, typer.Option("--show-config", help="With --dry-run: also print the resolved configuration as YAML.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and show what would run, but start nothing.")]
WeightsOnly = Annotated[bool, typer.Option("--weights-only", help="Keep the model, reset the optimizer.")]
Reset = Annotated[
    str | None,
    typer.Option(
        "--reset", metavar="head", help="head: begin with a new last layer, drawn by the seed; all else stays."
    ),
]


def resets_head(reset: str | None) -> bool:
    """Whether ``--reset`` asks for a new last layer.

    Raises:
        InputError: it names another part.
    """
    if reset not in (None, "head"):
        raise InputError(f"--reset {plain(reset)}: the part that can begin anew is head. Write --reset head.")
    return reset is not None
