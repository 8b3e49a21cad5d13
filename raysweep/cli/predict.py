"""``raysweep predict``: the classes that a checkpoint predicts for images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from raysweep._paths import user_path
from raysweep._text import plain, truncate
from raysweep.cli.consent import consent
from raysweep.cli.options import Adjust, Checkpoint, Classes, RootOption, TrustOption
from raysweep.display.tables import table
from raysweep.display.terminal import percent, put_json, say, split_classes
from raysweep.store import resolve
from raysweep.store.root import Root

MAX_NAMED = 20  # files that cannot be used, in the error


def register(app: typer.Typer) -> None:
    app.command("predict", no_args_is_help=True)(predict)


def predict(
    checkpoint: Checkpoint,
    images: list[str] = typer.Argument(
        ..., metavar="IMAGE...", help="Image files, and key=value for settings that an old checkpoint does not contain."
    ),
    classes: Classes = None,
    as_json: bool = typer.Option(False, "--json", help="Print JSON with the probability of every class."),
    adjust: Adjust = None,
    trust: TrustOption = False,
    root: RootOption = "experiments",
) -> None:
    """Predict the classes of image files. Where some cannot be used, the others are answered, and the exit code is 1."""
    import os

    from raysweep.config import load as load_config
    from raysweep.errors import InputError, RaysweepError

    files = [i for i in images if "=" not in i or os.path.exists(i)]
    over = load_config.parse_overrides([i for i in images if i not in files])
    if not files:
        raise InputError("Name at least one image file.")
    place = Root.open(root)
    resolve.check(place, checkpoint)
    from raysweep.tools import predict as networks

    found = networks.load(place, checkpoint, over, split_classes(classes), consent(trust), adjust)
    for note in found.notes:
        say(plain(f"Note: {note}."))
    if found.adjustment is not None:
        say(plain(str(found.adjustment)))
    rows = list(networks.predictions(found, [user_path(f) for f in files]))
    if as_json:
        put_json([_as_json(found.classes, path, said, adjust) for path, said in rows])
    else:
        lines = [_cells(found.classes, path, said) for path, said in rows if not isinstance(said, str)]
        if lines:
            table(None, [("image", "l"), ("class", "l"), ("probability", "r"), ("next", "l")], lines)
    bad = [f"{truncate(path)} ({said})" for path, said in rows if isinstance(said, str)]
    if bad:
        more = f"; and {len(bad) - MAX_NAMED} more, all of which --json names" if len(bad) > MAX_NAMED else ""
        raise RaysweepError(
            f"{len(bad)} of {len(rows)} files cannot be used: {'; '.join(bad[:MAX_NAMED])}{more}. Give image files such as "
            ".jpg or .png."
        )


def _as_json(classes: Sequence[str], path: Path, said: list[float] | str, adjust: str | None) -> dict[str, object]:
    if isinstance(said, str):
        return {"image": str(path), "error": said}
    first = max(range(len(said)), key=said.__getitem__)
    row: dict[str, object] = {
        "image": str(path),
        "class": classes[first],
        "probabilities": dict(zip(classes, said, strict=True)),
    }
    return row if adjust is None else row | {"adjusted": adjust}


def _cells(classes: Sequence[str], path: Path, said: list[float]) -> list[str]:
    first, second = sorted(range(len(said)), key=lambda i: -said[i])[:2]
    return [
        plain(path),
        plain(classes[first]),
        percent(said[first]),
        plain(f"{classes[second]} {percent(said[second])}"),
    ]
