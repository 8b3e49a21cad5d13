"""``raysweep continue``: finish what was interrupted, in place."""

from __future__ import annotations

import typer

from raysweep.cli.terminal import put


def register(app: typer.Typer) -> None:
    app.command("continue", no_args_is_help=True)(continue_)


def continue_(
    reference: str = typer.Argument(..., help="An experiment: id, name, prefix or path."),
    steal: bool = typer.Option(
        False, "--steal", help="Take the writer's lock of a process on another host that is gone for certain."
    ),
    root: str = typer.Option("experiments", "--root", envvar="RAYSWEEP_ROOT", help="Folder of all experiments."),
) -> None:
    """Go on with an interrupted experiment from its newest whole checkpoint, in its own folder."""
    from pathlib import Path

    from raysweep.cli.progress import Display
    from raysweep.cli.run import announce

    with Display() as display:
        display({"kind": "loading"})
        from raysweep.launch import child

        result = child.continue_experiment(Path(root).expanduser(), reference, steal=steal, progress=display)
    put(str(result.experiment.folder))
    announce(display, result.experiment, root)
