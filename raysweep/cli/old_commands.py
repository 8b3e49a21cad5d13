"""The options of the old system's ``resume_experiment.py``. Hidden from the help; see docs/migration.md."""

from __future__ import annotations

import shlex
import sys

import typer

from raysweep._text import plain
from raysweep.display.terminal import say


def register(app: typer.Typer) -> None:
    app.command("resume-experiment", hidden=True, no_args_is_help=True)(resume_experiment)


def resume_experiment(
    overrides: list[str] | None = typer.Argument(None, metavar="[key=value]..."),
    list_: bool = typer.Option(False, "--list", help="raysweep list --checkpoints"),
    checkpoint: str | None = typer.Option(None, "--checkpoint", help="raysweep resume --from"),
    name: str | None = typer.Option(None, "--name"),
    epochs: int | None = typer.Option(None, "--epochs", min=1),
    weights: str | None = typer.Option(None, "--weights"),
    description: str | None = typer.Option(None, "--description"),
    root: str | None = typer.Option(None, "--root"),
) -> None:
    """Do what resume_experiment.py did, and print the equivalent raysweep command."""
    from raysweep.errors import InputError

    if not list_ and checkpoint is None:
        raise InputError("Give --list, or --checkpoint with the path of a checkpoint to resume from.")
    words = ["list", "--checkpoints"] if list_ else ["resume", "--from", str(checkpoint), *(overrides or [])]
    if not list_:
        given = (("--name", name), ("--epochs", epochs), ("--weights", weights), ("--description", description))
        for flag, value in given:
            if value is not None:
                words += [flag, str(value)]
    if root is not None:
        words += ["--root", root]
    say(f"Today: raysweep {plain(shlex.join(words))}")
    from raysweep.cli.main import main

    main(words)


if __name__ == "__main__":
    from raysweep.cli.main import main

    main(["resume-experiment", *sys.argv[1:]])
