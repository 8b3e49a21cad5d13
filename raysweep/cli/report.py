"""``raysweep report``: one HTML file with all results."""

from __future__ import annotations

import typer

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
    from raysweep.api import pages

    found = Root.open(root)
    put(plain(pages.report_of(found, reference, output)))
    here = "" if output is not None or not found.is_remote else " Use -o FILE to write it to this machine."
    say(f"Open the file in a browser; it works offline.{here}")
