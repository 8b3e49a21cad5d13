"""``raysweep suggest``: the grid to try next, from the results of a sweep."""

from __future__ import annotations

import typer

from raysweep._paths import user_path
from raysweep._text import plain
from raysweep.display.terminal import put, put_json, say
from raysweep.store.root import Root

METRICS = ("macro_f1", "accuracy")


def register(app: typer.Typer) -> None:
    app.command("suggest", no_args_is_help=True)(suggest)


def suggest(
    sweep: str = typer.Argument(..., metavar="SWEEP", help="Id, name, path, or an unambiguous prefix."),
    metric: str = typer.Option("macro_f1", "--metric", help=f"The metric to improve: {' or '.join(METRICS)}."),
    output: str | None = typer.Option(None, "--output", "-o", metavar="FILE", help="Write the grid to a new file."),
    as_json: bool = typer.Option(False, "--json", help="Print the grid and the reasons as one JSON object."),
    root: str = typer.Option(
        "experiments", "--root", envvar="RAYSWEEP_ROOT", help="Folder of all experiments, or s3://BUCKET/PREFIX."
    ),
) -> None:
    """Suggest the next grid file. Says which classes to show more or less often, by how much, and why."""
    from raysweep.errors import InputError
    from raysweep.report import suggestion
    from raysweep.store import resolve

    if metric not in METRICS:
        raise InputError(f"--metric {metric}: choose one of {', '.join(METRICS)}.")
    found = suggestion.suggest(resolve.find_sweep(Root.open(root), sweep), metric)
    if as_json:
        put_json(suggestion.as_data(found))
        return
    text = suggestion.as_yaml(found)
    if output is None:
        put(text.rstrip("\n"))
        say(
            f"Next: raysweep suggest {plain(sweep)} -o grid.yaml, then raysweep branch --from {plain(found.parent)} --weights-grid grid.yaml"
        )
        return
    target = user_path(output)
    try:
        with open(target, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"-o {output}: the file exists. Name a new one, or delete it.") from None
    except OSError as error:
        raise InputError(f"-o {output}: the file cannot be written ({error.strerror}).") from None
    say(f"Written to {target}. Next: raysweep branch --from {plain(found.parent)} --weights-grid {plain(target)}")
