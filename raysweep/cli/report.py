"""``raysweep report``: one HTML file with all results."""

from __future__ import annotations

import typer

from raysweep._paths import user_path
from raysweep._text import plain
from raysweep.cli.options import RootOption
from raysweep.display.terminal import put, say
from raysweep.store.root import Root


def register(app: typer.Typer) -> None:
    app.command("report", no_args_is_help=True)(report)


def report(
    reference: str = typer.Argument(..., metavar="SWEEP|EXPERIMENT", help="Id, name, path, or an unambiguous prefix."),
    output: str | None = typer.Option(
        None, "--output", "-o", metavar="FILE", help="Default: report.html in the folder of the sweep or experiment."
    ),
    root: RootOption = "experiments",
) -> None:
    """Write a self-contained HTML report. Contains lineage, effects on every class, curves, confusion matrices, commands."""
    from raysweep.errors import InputError
    from raysweep.report import page

    target = user_path(output) if output is not None else None
    if target is not None and (target.is_dir() or not target.absolute().parent.is_dir()):
        raise InputError(f"-o {output}: give the name of a file in a folder that exists, such as report.html.")
    found = Root.open(root)
    written = page.write(found, reference, target)
    put(plain(written))
    here = "" if target is not None or not found.is_remote else " Use -o FILE to write it to this machine."
    say(f"Open the file in a browser; it works offline.{here}")
