"""Find the decoded images of an experiment again: by the hash of the data that it recorded, wherever they came from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from raysweep._paths import user_path
from raysweep.config import foreign
from raysweep.data import cache
from raysweep.data.cache import Dataset
from raysweep.store import layout, trust
from raysweep.store.experiment import Experiment
from raysweep.store.root import Root
from raysweep.store.trust import NOBODY, Origin


def cache_dir(named: str | None, root: Root) -> Path:
    """Where decoded images are kept: the configuration's folder, RAYSWEEP_CACHE, or .raysweep/cache under the root."""
    chosen = named or os.environ.get("RAYSWEEP_CACHE")
    return user_path(chosen) if chosen else root.path / layout.CACHES / layout.IMAGE_CACHE


def data_of(experiment: Experiment) -> Dataset | None:
    """The images of an experiment as they were decoded; None where they are not on this machine any more. Nothing is decoded."""
    wanted = experiment.config().data_sha256
    if wanted is None:
        return None
    for folder in _folders(experiment):
        if (found := cache.find(folder, wanted)) is not None:
            return found
    return None


def _folders(experiment: Experiment) -> Iterator[Path]:
    """Where the cache may lie. A folder that the configuration names counts only if this user made the experiment."""
    config, root = experiment.config(), experiment.root
    asks = [ask for ask in foreign.places(config.settings or {}) if ask.key == "data.cache_dir"]
    ids = (experiment.id, *([config.sweep] if config.sweep else []))
    if asks and trust.known(NOBODY, Origin(experiment.folder, experiment.folder, root, ids), asks):
        yield user_path(str(asks[0].value))
    yield cache_dir(None, root)
