"""The example files that come with raysweep, so that they can be named where there is no checkout."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from raysweep._paths import is_no_folder
from raysweep._text import truncate
from raysweep.errors import ConfigError

FOLDER = Path(__file__).parents[1] / "examples"
NAMES = ("base", "fer2013", "grid", "rules")
DATA = (".csv", ".tsv", ".parquet", ".jsonl", ".npz")  # files that hold images or name them


def find(name: str | Path) -> Path:
    """The file of this name, or, if there is none, the example that it means: ``base``, ``base.yaml`` or ``configs/base.yaml``.

    A folder of that name is no such file: people call their data so. ``base/`` names the folder.
    """
    path = Path(name)
    if is_no_folder(path) or str(name).endswith(os.sep) or path.stem not in NAMES or path.suffix not in ("", ".yaml"):
        return path
    return FOLDER / f"{path.stem}.yaml" if str(path.parent) in (".", "configs") else path


def configuration(name: str | Path) -> Path:
    """The configuration file that a name means.

    Raises:
        ConfigError: it is a folder or a table, so probably the data that shall be trained on.
    """
    path = find(name)
    kind = "folder" if path.is_dir() else "table" if path.suffix.lower() in DATA and path.is_file() else None
    if kind is not None:
        data = shlex.quote(str(name))
        raise ConfigError(
            f"{truncate(name)} is a {kind}, no configuration. To train on its images, type `raysweep run data.path={data}`; "
            f"`raysweep init {data}` writes a configuration and a grid that fit it."
        )
    return path


def grid(name: str | Path) -> Path:
    """The grid file that a name means.

    Raises:
        ConfigError: it is a folder.
    """
    path = find(name)
    if path.is_dir():
        raise ConfigError(
            f"{truncate(name)} is a folder, no grid file. Name a file in it, or an example: grid (for the built-in faces), rules "
            f"(for any classes). `raysweep init FOLDER` writes a grid that fits a folder of images."
        )
    return path
