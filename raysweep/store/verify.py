"""Check that a checkpoint is intact, can be loaded and is complete."""

from __future__ import annotations

from raysweep._text import differences
from raysweep.errors import RaysweepError
from raysweep.store import checkpoint
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
    return found
