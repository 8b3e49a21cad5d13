"""Which images a checkpoint was trained on: what its experiment recorded, else what its data still say."""

from __future__ import annotations

from pathlib import Path

from raysweep.config.settings import Settings
from raysweep.data import cache
from raysweep.data.roles import record
from raysweep.data.roles.record import Before, ImageRoles
from raysweep.errors import DataError
from raysweep.events import Decoding, Note, Progress
from raysweep.plan.types import Parent
from raysweep.store.experiment import Experiment
from raysweep.store.records import ExperimentConfig


def of_parent(parent: Parent, settings: Settings, caches: Path, progress: Progress) -> Before | None:
    """The roles that a child of ``parent`` inherits; None where they are not known any more.

    Args:
        settings: of the child.
        caches: folder of the decoded images.

    Raises:
        StoreError: the file that records them is damaged.
    """
    roles = record.read(parent.path.parent)
    if roles is None:  # an earlier version recorded its split only by its hash
        data = None if parent.data_sha256 is None else cache.find(caches, parent.data_sha256)
        data = data or _read_again(parent, settings, caches, progress)
        roles = None if data is None else ImageRoles.of(data)
    return None if roles is None else Before(parent.data_sha256, roles, f"{parent.experiment}@{parent.epoch}")


def _read_again(parent: Parent, settings: Settings, caches: Path, progress: Progress) -> cache.Dataset | None:
    """The parent's data, where the child has others; None if they are not what they were, or somebody else's settings name them."""
    if settings.data == parent.settings.data or not parent.own:
        return None
    try:
        data = cache.load(parent.settings.data, caches, lambda done, total: progress(Decoding(done, total)))
    except DataError:
        return None
    return data if parent.data_sha256 in (None, data.sha256) else None


def of_experiment(experiment: Experiment, config: ExperimentConfig) -> Before | None:
    """The roles that an experiment began with; None if an earlier version made it.

    Raises:
        StoreError: the file that records them is damaged.
    """
    roles = record.read(experiment.folder)
    return None if roles is None else Before(config.data_sha256, roles, experiment.id)


def unknown(before: Before | None, parent: Parent, sha256: str) -> tuple[Note, ...]:
    """What is to be said where the roles are not known, of a child's data with this hash."""
    if before is not None or parent.data_sha256 in (None, sha256):
        return ()
    text = f"not checked: which of these images {parent.experiment} was trained on, since its data are gone or have changed"
    return (Note(text),)
