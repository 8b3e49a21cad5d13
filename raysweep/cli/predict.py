"""``raysweep predict``: the classes that a checkpoint predicts for images."""

from __future__ import annotations

import typer

from raysweep._paths import user_path
from raysweep._text import plain
from raysweep.cli.consent import consent
from raysweep.cli.options import Checkpoint, Classes, RootOption, TrustOption
from raysweep.display.terminal import percent, put_json, split_classes, table
from raysweep.store.root import Root


def register(app: typer.Typer) -> None:
    app.command("predict", no_args_is_help=True)(predict)


def predict(
    checkpoint: Checkpoint,
    images: list[str] = typer.Argument(
        ..., metavar="IMAGE...", help="Image files, and key=value for settings that an old checkpoint does not contain."
    ),
    classes: Classes = None,
    as_json: bool = typer.Option(False, "--json", help="Print JSON with the probability of every class."),
    trust: TrustOption = False,
    root: RootOption = "experiments",
) -> None:
    """Predict the classes of image files."""
    import os

    from raysweep.config import load as load_config
    from raysweep.errors import InputError

    files = [i for i in images if "=" not in i or os.path.exists(i)]
    over = load_config.parse_overrides([i for i in images if i not in files])
    if not files:
        raise InputError("Name at least one image file.")
    from raysweep.tools import predict as networks

    found = networks.load(Root.open(root), checkpoint, over, split_classes(classes), consent(trust))
    paths = [user_path(f) for f in files]
    rows = []
    for start in range(0, len(paths), 64):
        some = paths[start : start + 64]
        rows += list(zip(some, found.probabilities(networks.read_images(found, some)).tolist(), strict=True))
    if as_json:
        put_json(
            [
                {
                    "image": str(path),
                    "class": found.classes[max(range(len(p)), key=p.__getitem__)],
                    "probabilities": dict(zip(found.classes, p, strict=True)),
                }
                for path, p in rows
            ]
        )
        return
    lines = []
    for path, p in rows:
        first, second = sorted(range(len(p)), key=lambda i: -p[i])[:2]
        lines.append(
            [
                plain(path),
                plain(found.classes[first]),
                percent(p[first]),
                plain(f"{found.classes[second]} {percent(p[second])}"),
            ]
        )
    table(None, [("image", "l"), ("class", "l"), ("probability", "r"), ("next", "l")], lines)
