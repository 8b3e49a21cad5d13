"""``raysweep suggest``: the grid to try next, from the results of a sweep."""

from __future__ import annotations

import typer

from raysweep._paths import user_path
from raysweep._text import plain
from raysweep.cli.options import RootOption
from raysweep.display.terminal import put_json, put_words, say, say_next
from raysweep.store.root import Root

METRICS = ("macro_f1", "accuracy")


def register(app: typer.Typer) -> None:
    app.command("suggest", no_args_is_help=True)(suggest)


def suggest(
    sweep: str = typer.Argument(..., metavar="SWEEP", help="Id, name, path, or an unambiguous prefix."),
    metric: str = typer.Option("macro_f1", "--metric", help=f"The metric to improve: {' or '.join(METRICS)}."),
    output: str | None = typer.Option(None, "--output", "-o", metavar="FILE", help="Write the grid to a new file."),
    as_json: bool = typer.Option(False, "--json", help="Print the grid and the reasons as one JSON object."),
    root: RootOption = "experiments",
) -> None:
    """Suggest the next grid file. Says which classes to show more or less often, by how much, and why."""
    from raysweep.errors import InputError
    from raysweep.report import suggestion
    from raysweep.store import resolve
    from raysweep.store.commands import command
    from raysweep.store.sweep import Sweep

    if metric not in METRICS:
        raise InputError(f"--metric {metric}: choose one of {', '.join(METRICS)}.")
    of = resolve.find_any(Root.open(root), sweep)
    if not isinstance(of, Sweep):
        raise InputError(f"{of.id} is an experiment; suggest takes a sweep. `raysweep branch` makes one.")
    found = suggestion.suggest(of, metric)
    if as_json:
        put_json(suggestion.as_data(found))
        return
    text = suggestion.as_yaml(found)
    if output is None:
        put_words(text.rstrip("\n"))
        grid = _free("grid")
        branch = command(of.root, "branch", "--from", found.parent, "--weights-grid", grid)
        say(f"Next: {plain(command(of.root, 'suggest', of.id, '-o', grid))} && {plain(branch)}")
        return
    target = user_path(output)
    try:
        with open(target, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"-o {output}: the file exists. Name a new one, or delete it.") from None
    except OSError as error:
        raise InputError(f"-o {output}: the file cannot be written ({error.strerror}).") from None
    if found.free is not None:
        say(plain(found.notes[0]))
    say(f"Written to {plain(target)}.")
    say_next(of.root, "branch", "--from", found.parent, "--weights-grid", str(target))


def _free(stem: str) -> str:
    """The name of a grid file that is not there yet."""
    from itertools import count

    names = (f"{stem}{'' if n == 1 else f'-{n}'}.yaml" for n in count(1))
    return next(name for name in names if not user_path(name).exists())
