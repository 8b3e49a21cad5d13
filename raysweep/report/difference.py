"""What differs between two experiments or checkpoints: configuration, weights and shares, data, code and versions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raysweep._text import dotted, hide_credentials
from raysweep.errors import WeightsError
from raysweep.store import resolve
from raysweep.store.experiment import Experiment
from raysweep.store.records import ExperimentConfig
from raysweep.store.records_manifest import ManifestEntry
from raysweep.store.root import Root
from raysweep.weights import SamplingWeights

SECTIONS = ("parent", "checkpoint", "configuration", "weights", "shares", "data", "code", "versions")
_IDENTITY = ("experiment.", "root")  # settings that always differ, so they are not reported
_OLD_NAMES = {  # name in the folders of the old system → dotted key
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
    file: str | None = None  # of a checkpoint that is in no manifest

    @property
    def name(self) -> str:
        if self.file is not None:
            return f"{self.experiment.id}/{self.file}"
        if self.entry is None:
            return self.experiment.id
        batch = "" if self.entry.batch is None else f", batch {self.entry.batch}"
        return f"{self.experiment.id}@{self.entry.epoch}{batch}"


def find(root: Root, reference: str) -> Side:
    """The experiment or checkpoint that a reference names.

    Raises:
        NotFoundError: there is no such experiment or checkpoint.
    """
    if resolve.split_reference(reference) is not None or reference.endswith(".pt"):
        experiment, entry, path = resolve.find_checkpoint(root, reference)
        return Side(experiment, entry, None if entry is not None else path.name)
    return Side(resolve.find_experiment(root, reference), None)


def differences(a: Side, b: Side) -> list[Difference]:
    """Everything that differs, ordered by section; an empty list if nothing does.

    Raises:
        StoreError: a configuration cannot be read.
    """
    one, other = dict(_facts(a)), dict(_facts(b))
    found = [
        Difference(section, key, one.get((section, key)), other.get((section, key)))
        for section, key in {**one, **other}
        if one.get((section, key)) != other.get((section, key))
    ]
    return sorted(found, key=lambda d: SECTIONS.index(d.section))  # stable, so keys keep their order within a section


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
    for key, value in _configuration(config):
        yield ("configuration", key), value
    yield from _weights(config)
    yield ("data", "SHA-256"), config.data_sha256
    yield ("data", "classes"), config.classes
    for name, count in (config.class_counts or {}).items():
        yield ("data", f"images of {name}"), count
    for code in config.all_code:
        for path, digest in code.files.items():
            yield ("code", path), digest
    for name, version in config.versions.items():
        yield ("versions", name), version


def _configuration(config: ExperimentConfig) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every setting."""
    if config.settings:
        for key, value in dotted(config.settings):
            if not key.startswith((*_IDENTITY, "sampling.weights")):
                yield key, hide_credentials(value) if isinstance(value, str) else value
    else:
        for old, key in _OLD_NAMES.items():
            yield key, getattr(config, old)
    yield "threads", config.threads  # the number that was chosen where the setting is auto
    yield "world_size", config.world_size


def _weights(config: ExperimentConfig) -> Iterator[tuple[tuple[str, str], float]]:
    counts = config.class_counts or {}
    weights = {**dict.fromkeys(counts, 1.0), **config.sampling_weights}
    for name, weight in weights.items():
        yield ("weights", name), float(weight)
    try:
        known = SamplingWeights.complete({c: weights[c] for c in counts}, list(counts))
        for name, share in known.shares(config.pool).items():
            yield ("shares", name), round(share, 6)
    except (WeightsError, TypeError, ValueError, IndexError):
        pass  # no class, or only empty ones, so there are no shares
