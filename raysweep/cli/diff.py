"""``raysweep diff``: the differences between two experiments or checkpoints."""

from __future__ import annotations

from typing import Any

import typer

from raysweep._text import plain
from raysweep.cli.options import RootOption
from raysweep.display.tables import table
from raysweep.display.terminal import percent, put_json, say
from raysweep.store.root import Root


def register(app: typer.Typer) -> None:
    app.command("diff", no_args_is_help=True)(diff)


def diff(
    a: str = typer.Argument(
        ..., metavar="A", help="An experiment or a checkpoint (path, EXPERIMENT@5, @best, @latest)."
    ),
    b: str = typer.Argument(..., metavar="B", help="Another experiment or checkpoint."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object with a list of differences."),
    root: RootOption = "experiments",
) -> None:
    """Show the differences between two experiments. Compares configuration, weights and class shares, data, code, versions."""
    from raysweep.report import difference

    folder = Root.open(root)
    one, other = difference.find(folder, a), difference.find(folder, b)
    found = difference.differences(one, other)
    if as_json:
        put_json({"a": one.name, "b": other.name, "differences": [dict(vars(d)) for d in found]})
        return
    if not found:
        say(
            f"Nothing differs between {plain(one.name)} and {plain(other.name)} in configuration, weights, data and versions."
        )
        return
    rows = [[d.section, plain(d.key), _text(d.section, d.a), _text(d.section, d.b)] for d in found]
    table(None, [("", "l"), ("", "l"), (plain(one.name), "l"), (plain(other.name), "l")], rows)


def _text(section: str, value: Any) -> str:
    if value is None:
        return "-"
    if section == "shares":
        return percent(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return plain(", ".join(map(str, value)))
    text = str(value)
    return plain(text if len(text) < 64 else f"{text[:12]}…")
