"""``raysweep import``: clean copies of the old system's experiments."""

from __future__ import annotations

from pathlib import Path

import typer

from raysweep._paths import user_path
from raysweep._text import plain
from raysweep.cli.consent import consent
from raysweep.cli.options import RootOption, TrustOption
from raysweep.display.terminal import put, say_next, split_classes
from raysweep.store.root import Root


def register(app: typer.Typer) -> None:
    app.command("import", no_args_is_help=True)(import_)


def import_(
    arguments: list[str] = typer.Argument(
        ...,
        metavar="OLD_FOLDER... [key=value]...",
        help="Folders of old experiments; data.path=FOLDER also evaluates them.",
    ),
    classes: str | None = typer.Option(
        None,
        "--classes",
        metavar="A,B,C",
        help="The classes in the order of the model's outputs, if the model does not name them.",
    ),
    trust: TrustOption = False,
    root: RootOption = "experiments",
) -> None:
    """Copy experiments of the old system. The copies have manifest and lineage; the originals stay unchanged."""
    from raysweep.config import load as load_config
    from raysweep.errors import InputError

    folders = [a for a in arguments if "=" not in a or Path(a).is_dir()]
    overrides = load_config.parse_overrides([a for a in arguments if a not in folders])
    if not folders:
        raise InputError("Name the folder of an old experiment, the one with checkpoint_epoch_N.pt in it.")
    from raysweep.tools import import_legacy

    problems = []
    for folder in folders:
        try:
            made = import_legacy.import_folder(
                user_path(folder), Root.open(root), overrides, split_classes(classes), trust=consent(trust)
            )
        except InputError as error:
            problems.append(str(error))
            continue
        put(plain(made.folder))
        ends = [e.epoch for e in made.manifest().ends]
        data = [] if overrides.get("data") else ["data.path=FOLDER"]
        if ends:
            say_next(made.root, "resume", "--from", f"{made.id}@{ends[-1]}", *data)
    if problems:  # the other experiments are imported
        raise InputError(" ".join(problems))
