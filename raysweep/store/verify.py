"""Check that a checkpoint is intact, can be loaded and is complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raysweep._text import differences
from raysweep.errors import RaysweepError
from raysweep.store import checkpoint, layout
from raysweep.store.experiment import Experiment
from raysweep.store.records_manifest import ManifestEntry

NEEDED = ("classes", "sampling_weights", "rng_state", "sampler_state", "current_batch", "total_batches", "world_size")


def problems(experiment: Experiment, entry: ManifestEntry) -> list[str]:
    """What is wrong with one committed checkpoint; empty if nothing is."""
    wrong = entry.verify(experiment.folder)
    if wrong is not None:
        return [wrong]
    try:
        saved = checkpoint.read_checkpoint(experiment.folder / entry.file)
    except RaysweepError as error:
        return [str(error)]
    found = [f"{entry.file} lacks {key}" for key in NEEDED if key not in saved]
    if found:
        return found
    classes = experiment.config().classes
    if classes is not None and list(saved["classes"]) != list(classes):
        found.append(differences(saved["classes"], classes, entry.file, "the experiment"))
    if len(saved["rng_state"]) != int(saved["world_size"]):
        found.append(
            f"{entry.file} has the generators of {len(saved['rng_state'])} ranks, not of {saved['world_size']}"
        )
    place = (int(saved["epoch"]) + (entry.batch is not None), int(saved["current_batch"]) or None)
    if place != (entry.epoch, entry.batch):
        found.append(
            f"{entry.file} stands at epoch {place[0]}, batch {place[1]}, the manifest says {entry.epoch}, {entry.batch}"
        )
    return [*found, *_other_metrics(entry, saved["history"])]


def _other_metrics(entry: ManifestEntry, history: Mapping[str, Sequence[Any]]) -> list[str]:
    """Metrics of the manifest, which `list` and `compare` show, that are not those of the checkpoint's last row."""
    rows = max((len(values) for values in history.values()), default=0)
    return [
        f"{layout.MANIFEST} says that {name} of {entry.file} is {value}, the checkpoint says {history[name][-1]}"
        for name, value in entry.metrics.items()
        if name in history and rows and len(history[name]) == rows and history[name][-1] != value
    ]
