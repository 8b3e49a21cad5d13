"""What differs between two experiments or checkpoints: configuration, weights and shares, data, code and versions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raysweep._text import dotted
from raysweep.errors import WeightsError
from raysweep.store import resolve
from raysweep.store.experiment import Experiment
from raysweep.store.records_manifest import ManifestEntry
from raysweep.store.root import Root
from raysweep.weights import SamplingWeights

SECTIONS = ("parent", "checkpoint", "configuration", "weights", "shares", "data", "versions")
_IDENTITY = ("experiment.", "root")  # always another one: no difference that anybody asks for
_OLD_NAMES = {  # of folders without ``settings``
    "model_name": "model.name",
    "batch_size": "training.batch_size",
    "learning_rate": "training.learning_rate",
    "num_epochs": "training.epochs",
    "sample_per_class": "sampling.sample_per_class",
}


@dataclass(frozen=True)
class Difference:
    """One key of one section; None where one of the two does not have it."""

    section: str
    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Side:
    """What is compared: an experiment, or one of its checkpoints."""

    experiment: Experiment
    entry: ManifestEntry | None
    file: str | None = None  # of a checkpoint that no manifest knows

    @property
    def name(self) -> str:
        if self.file is not None:
            return f"{self.experiment.id}/{self.file}"
        if self.entry is None:
            return self.experiment.id
        batch = "" if self.entry.batch is None else f", batch {self.entry.batch}"
        return f"{self.experiment.id}@{self.entry.epoch}{batch}"


def find(root: Root, reference: str) -> Side:
    """Raises NotFoundError if there is no such experiment or checkpoint."""
    if resolve.split_reference(reference) is not None or reference.endswith(".pt"):
        experiment, entry, path = resolve.find_checkpoint(root, reference)
        return Side(experiment, entry, None if entry is not None else path.name)
    return Side(resolve.find_experiment(root, reference), None)


def differences(a: Side, b: Side) -> list[Difference]:
    """Everything that differs, by section; an empty list where nothing does.

    Raises:
        StoreError: a configuration cannot be read.
    """
    one, other = dict(_facts(a)), dict(_facts(b))
    found = [
        Difference(section, key, one.get((section, key)), other.get((section, key)))
        for section, key in {**one, **other}
        if one.get((section, key)) != other.get((section, key))
    ]
    return sorted(found, key=lambda d: SECTIONS.index(d.section))  # stable: within a section as they are written


def _facts(side: Side) -> Iterator[tuple[tuple[str, str], Any]]:
    """((section, key), value) of everything that can differ."""
    config = side.experiment.config()
    yield ("parent", "checkpoint"), config.parent.reference if config.parent else None
    yield ("parent", "SHA-256"), config.parent.sha256 if config.parent else None
    if side.entry is not None:
        yield ("checkpoint", "epoch"), side.entry.epoch
        yield ("checkpoint", "batch"), side.entry.batch
    if side.file is not None:
        yield ("checkpoint", "file"), side.file
    if config.settings:
        for key, value in dotted(config.settings):
            if not key.startswith((*_IDENTITY, "sampling.weights")):
                yield ("configuration", key), value
    else:
        for old, key in _OLD_NAMES.items():
            yield ("configuration", key), getattr(config, old)
    yield ("configuration", "threads"), config.threads  # what was chosen where the setting says auto
    yield ("configuration", "world_size"), config.world_size
    counts = config.class_counts or {}
    weights = {**dict.fromkeys(counts, 1.0), **config.sampling_weights}
    for name, weight in weights.items():
        yield ("weights", name), float(weight)
    try:
        known = SamplingWeights.complete({c: weights[c] for c in counts}, list(counts))
        for name, share in known.shares(counts).items():
            yield ("shares", name), round(share, 6)
    except WeightsError:
        pass  # no class, or none that can be drawn: there are no shares
    yield ("data", "SHA-256"), config.data_sha256
    yield ("data", "classes"), config.classes
    for name, count in counts.items():
        yield ("data", f"images of {name}"), count
    for name, version in config.versions.items():
        yield ("versions", name), version
