"""What can be refused before torch is loaded: names of networks and paths of images that cannot be right."""

from __future__ import annotations

import os
from pathlib import Path

from raysweep import _paths
from raysweep.config import model_names
from raysweep.config.settings import Settings
from raysweep.errors import ConfigError, Faults, InputError


def check(settings: Settings) -> None:
    """Raises InputError with everything that is wrong; planning checks it again, and all the rest."""
    found: list[InputError] = []
    for looks in (_model, _data):
        try:
            looks(settings)
        except InputError as error:
            found.append(error)
    if len(found) == 1:
        raise found[0]
    if found:
        raise ConfigError(Faults.of(f"{len(found)} errors", [str(error).rstrip(".") for error in found]))


def _model(settings: Settings) -> None:
    model_names.check(settings.model.name)


def _data(settings: Settings) -> None:
    if settings.data.path is not None:
        _paths.must_be_there(Path(os.path.expanduser(str(settings.data.path))))
