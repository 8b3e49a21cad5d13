"""``raysweep suggest``: the grid to try next, from the results of a sweep."""

from __future__ import annotations

import typer

from raysweep._paths import user_path
from raysweep._text import plain
from raysweep.cli.options import RootOption
from raysweep.display.terminal import put_json, put_words, say, say_next


def register(app: typer.Typer) -> None:
    app.command("suggest", no_args_is_help=True)(suggest)


def suggest(
    sweep: str = typer.Argument(..., metavar="SWEEP", help="Id, name, path, or an unambiguous prefix."),
    metric: str = typer.Option("macro_f1", "--metric", help="The metric to improve: macro_f1 or accuracy."),
    output: str | None = typer.Option(None, "--output", "-o", metavar="FILE", help="Write the grid to a new file."),
    as_json: bool = typer.Option(False, "--json", help="Print the grid and the reasons as one JSON object."),
    root: RootOption = "experiments",
) -> None:
    """Suggest the next grid file. Says which classes to show more or less often, by how much, and why."""
    from raysweep.api import looking
    from raysweep.report import suggestion
    from raysweep.store.commands import command

    found = looking.suggest(sweep, metric, root=root)
    if as_json:
        put_json(suggestion.as_data(found))
        return
    if output is None:
        put_words(found.yaml.rstrip("\n"))
        grid = _free("grid")
        branch = command(found.root, "branch", "--from", found.parent, "--weights-grid", grid)
        say(f"Next: {plain(command(found.root, 'suggest', found.sweep, '-o', grid))} && {plain(branch)}")
        return
    target = found.save(output)
    if found.free is not None:
        say(plain(found.notes[0]))
    say(f"Written to {plain(target)}.")
    say_next(found.root, "branch", "--from", found.parent, "--weights-grid", str(target))


def _free(stem: str) -> str:
    """The name of a grid file that is not there yet."""
    from itertools import count

    names = (f"{stem}{'' if n == 1 else f'-{n}'}.yaml" for n in count(1))
    return next(name for name in names if not user_path(name).exists())
