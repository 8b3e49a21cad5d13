"""``raysweep init``: a configuration and a grid that fit a folder of images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from raysweep._paths import user_path
from raysweep._text import counted, plain
from raysweep.cli.options import RootOption
from raysweep.display.terminal import put, say, say_next
from raysweep.store.root import Root

if TYPE_CHECKING:
    from raysweep.config.starter import Seen


def register(app: typer.Typer) -> None:
    app.command("init")(init)


def init(
    data: str = typer.Argument(".", metavar="[FOLDER]", help="Folder or list of images. Default: the current folder."),
    overrides: list[str] | None = typer.Argument(
        None, metavar="[data.key=value]...", help="How to read it, such as data.image_size=48."
    ),
    output: str = typer.Option(".", "--output", "-o", metavar="FOLDER", help="Where the two files are written."),
    root: RootOption = "experiments",
) -> None:
    """Write a configuration and a grid that fit a folder of images. Looks at the images, and keeps them decoded for the training."""
    from raysweep.config import starter
    from raysweep.store import files

    folder = user_path(output)
    targets = [folder / starter.CONFIG_FILE, folder / starter.GRID_FILE]
    _check(folder, targets)
    seen = _look(data, overrides or [], root)
    if folder.resolve() != Path.cwd():  # a path in a configuration is relative to where `run` is typed
        seen = replace(seen, path=str(Path(data).expanduser().absolute()))
    for target, text in zip(targets, (starter.config_text(seen), starter.grid_text(seen)), strict=True):
        files.write_atomic(target, text.encode(errors="backslashreplace"))
        put(plain(target))
    say(
        f"{counted(seen.images, 'training image')} and {counted(sum(seen.validation.values()), 'validation image')} of "
        f"{counted(len(seen.counts), 'class', 'classes')}. Read the comments in both files; then train."
    )
    say_next(Root.open(root, look=False), "run", str(targets[0]))


def _check(folder: Path, targets: list[Path]) -> None:
    """
    Raises:
        InputError: the folder is not there, or one of the files is.
    """
    from raysweep.errors import InputError

    if not folder.is_dir():
        raise InputError(f"-o {plain(folder)}: there is no such folder. Make it, or name another one.")
    for target in targets:
        if target.exists():
            raise InputError(f"{plain(target)} exists. Name another folder with -o, or delete the file.")


def _look(data: str, overrides: list[str], root: str) -> Seen:
    """Read all images, as a training would.

    Raises:
        InputError: they cannot be used.
    """
    import numpy as np

    from raysweep import _paths
    from raysweep.config import load as load_config
    from raysweep.config.starter import Seen
    from raysweep.data import cache, sizes
    from raysweep.data.listing import SeveralLabelsError
    from raysweep.display.run import RunDisplay
    from raysweep.events import Decoding
    from raysweep.label_sets import not_built
    from raysweep.plan.experiment import cache_dir

    path = Path(data).expanduser()
    _paths.must_be_there(path)
    given = load_config.parse_overrides(overrides).get("data", {})
    side = sizes.advised(sizes.images_in(path)) if "image_size" not in given and path.is_dir() else None
    values = {"data": {"path": data, **({} if side is None else {"image_size": side}), **given}}
    settings = load_config.validate(values, "the command line")
    if settings.data.multi_label:
        raise not_built("`raysweep init`", "Train with `raysweep run data.path=LIST data.multi_label=true`.")
    try:
        with RunDisplay() as display:
            place = cache_dir(settings, Root.open(root, look=False))
            found = cache.load(settings.data, place, lambda done, total: display(Decoding(done, total)), say)
    except SeveralLabelsError as error:
        raise SeveralLabelsError(
            f"{error} `raysweep init` knows one class for each image; with several labels begin with `raysweep run`."
        ) from None

    def of_each(labels: np.ndarray) -> dict[str, int]:
        return dict(zip(found.classes, np.bincount(labels, minlength=len(found.classes)).tolist(), strict=True))

    name = "".join(c if c.isalnum() or c in "_-" else "-" for c in path.resolve().stem).strip("-_")[:40] or "mine"
    height, _, channels = found.shape
    sized = settings.data.image_size is not None
    return Seen(data, name, of_each(found.train.labels), of_each(found.val.labels), height, channels, sized)
