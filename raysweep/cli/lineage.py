"""``raysweep lineage``: the tree of experiments, with the ratio change on every edge."""

from __future__ import annotations

import typer

from raysweep._paths import user_path
from raysweep._text import plain
from raysweep.display.terminal import put, put_json, say
from raysweep.store.remote.root import open_root


def register(app: typer.Typer) -> None:
    app.command("lineage")(lineage)


def lineage(
    reference: str | None = typer.Argument(None, metavar="[EXPERIMENT]", help="Only its ancestors and descendants."),
    as_json: bool = typer.Option(False, "--json", help="A flat JSON array, parents before children."),
    plot: str | None = typer.Option(None, "--plot", metavar="FILE", help="Draw the tree into a PNG file."),
    root: str = typer.Option("experiments", "--root", envvar="RAYSWEEP_ROOT", help="Folder of all experiments."),
) -> None:
    """Show which experiment grew from which checkpoint, and what ratio change lies between."""

    from raysweep.errors import InputError
    from raysweep.report import tree

    folder = open_root(root)
    nodes = tree.build(folder, reference)
    if plot is not None:
        target = user_path(plot)
        if target.suffix.lower() != ".png":
            raise InputError(f"--plot {plot}: the picture is a PNG file; give a name that ends in .png.")
        try:
            target.write_bytes(tree.picture(nodes))
        except OSError as error:
            raise InputError(f"--plot {plot}: the file cannot be written ({error.strerror}).") from None
        say(f"Drawn into {target}")
        return
    if as_json:
        put_json(tree.rows(nodes))
        return
    if not nodes:
        say(f"No experiments under {folder.absolute()}. Next: raysweep run configs/base.yaml")
        return
    for guides, name, about in tree.lines(nodes):
        put(f"{plain(guides)}{plain(name)}  {plain(about)}")
