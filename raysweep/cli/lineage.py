"""``raysweep lineage``: the tree of experiments, with the ratio change on every edge."""

from __future__ import annotations

import shutil
import sys

import typer

from raysweep._text import plain
from raysweep.cli import pictures
from raysweep.cli.options import RootOption
from raysweep.display.terminal import cell_len, put, put_json, say, say_first, wrapped
from raysweep.store.root import Root


def register(app: typer.Typer) -> None:
    app.command("lineage")(lineage)


def lineage(
    reference: str | None = typer.Argument(
        None, metavar="[EXPERIMENT]", help="Show only its ancestors and descendants."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print a flat JSON array, parents before children."),
    plot: str | None = typer.Option(None, "--plot", metavar="FILE", help="Draw the tree as a PNG file."),
    root: RootOption = "experiments",
) -> None:
    """Show the tree of experiments, with every ratio change. Each experiment is shown below its parent."""
    from raysweep.api import reading

    found = reading.lineage(reference, root=root)
    if plot is not None:
        target = pictures.write("--plot", plot, found.picture)
        say(f"Written to {target}")
        return
    if as_json:
        put_json(found.rows())
        return
    if not found:
        folder = Root.open(root)
        say(f"No experiments under {folder.path.absolute()}.")
        say_first(folder)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for guides, name, about in found.lines():
        for line in _lines(plain(guides), plain(name), plain(about), width):
            put(line)


def _lines(guides: str, name: str, about: str, width: int | None) -> list[str]:
    """An experiment in one line, or, where that is wider than the terminal, in several, between which the guides go on."""
    whole = f"{guides}{name}  {about}"
    if width is None or cell_len(whole) <= width:
        return [whole]
    lead = guides[: len(guides) - len(guides.lstrip("│├└─ "))]
    below = lead.replace("├─", "│ ").replace("└─", "  ") + "  "
    lines, current = [], lead
    for part in (guides[len(lead) :].strip(), name, about):
        if current not in (lead, below) and cell_len(f"{current}  {part}") > width:
            lines.append(current)
            current = below
        current += part if current in (lead, below) else f"  {part}"
        if cell_len(current) > width and " " in part:
            first, *rest = wrapped(current, width).split("\n")
            lines += [first, *(f"{below}{line.strip()}" for line in rest[:-1])]
            current = f"{below}{rest[-1].strip()}" if rest else below
    return [*lines, *([current] if current != below else [])]
