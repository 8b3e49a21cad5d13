"""Read and verify the checkpoint that a child starts from."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raysweep.config import foreign
from raysweep.config import load as load_config
from raysweep.errors import CheckpointError
from raysweep.events import Note
from raysweep.label_sets import LabelCounts
from raysweep.plan.types import Parent
from raysweep.plan.upgrade import Upgraded, upgrade
from raysweep.store import checkpoint, files, resolve
from raysweep.store import trust as trusting
from raysweep.store.experiment import Experiment
from raysweep.store.records import CodeRef, ExperimentConfig, Json
from raysweep.store.records_manifest import ManifestEntry
from raysweep.store.root import Root
from raysweep.store.trust import NOBODY, Origin, Trust
from raysweep.training.patience import Waited
from raysweep.weights import SamplingWeights


def read_parent(
    root: Root,
    reference: str,
    overrides: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    trust: Trust | None = NOBODY,
) -> Parent:
    """The checkpoint that a reference means.

    Args:
        overrides: the user's nested settings. For a checkpoint of the old system they say where the images and the model are.
        classes: in the order of the network's outputs, where neither the checkpoint nor its model says it.
        trust: whether what the checkpoint names may run; None where only its tensors will be used.

    Raises:
        NotFoundError: there is none. CheckpointError: it is damaged or incomplete, or raysweep did not write it.
        UntrustedError: it names code that nobody has approved.
    """
    experiment, entry, path = _verified(root, reference)
    found = upgrade(checkpoint.read_checkpoint(path), experiment, path, overrides, classes, needs_images=True)
    _check_complete(found, path)
    saved, config = found.checkpoint, found.checkpoint["config"]
    origin = origin_of(root, experiment, path, saved)
    if trust is not None:
        trusting.settle(trust, origin, found.settings, overrides)
    committed = entry is not None and files.inside(root.path, experiment.folder)
    return Parent(
        path=path.resolve(),
        experiment=str(saved.get("experiment") or experiment.id),
        epoch=saved["epoch"],
        batch=saved.get("current_batch") or 0,
        sha256=entry.sha256 if entry else files.sha256_file(path),
        weights=SamplingWeights.complete(saved["sampling_weights"], saved["classes"]),
        decided=_decided(saved),
        settings=load_config.validate(found.settings, f"the settings in {path}"),
        counts=_counts(config, path),
        threads=saved.get("threads") or None,
        world_size=saved.get("world_size") or 1,
        data_sha256=saved.get("data_sha256"),
        last_epoch=max(saved["epoch"], ((config.get("parent") or {}).get("epoch") or 0) + config["num_epochs"]),
        rows=len(saved["history"].get("val_acc", [])),
        channels=len(saved["preprocessing"]["mean"]),
        filled_in=found.filled_in,
        notes=(*found.notes, *_stopped_early(saved, config)),
        trusted=trust is not None,
        own=committed and trusting.known(trust or NOBODY, origin, foreign.places(found.settings)),
    )


def _counts(config: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Class → images of the parent's pool; of several labels for an image with its sets."""
    counts = dict(config.get("class_counts") or {})
    try:
        sets = config.get("label_sets")
        return counts if sets is None else LabelCounts.from_json(list(counts), sets)
    except (TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path}: config.label_sets is not valid ({error}). Take another checkpoint.") from None


def _stopped_early(saved: Json, config: Json) -> tuple[Note, ...]:
    """What is to be said where the checkpoint is the last one of a run that its patience ended."""
    found = None if saved.get("current_batch") else Waited.of_checkpoint(saved)
    if found is None or not found.over:
        return ()
    last = ((config.get("parent") or {}).get("epoch") or 0) + config["num_epochs"]
    text = f"its run was stopped early after epoch {saved['epoch']} of {last} ({found.describe()}); a child's patience begins anew"
    return (Note(text),)


def _decided(saved: Json) -> SamplingWeights | None:
    """The weights that a policy has decided for the epoch after the checkpoint's."""
    found = saved.get("policy_decision") or {}
    if found.get("epoch") != saved["epoch"] + 1 or saved.get("current_batch"):
        return None
    return SamplingWeights.complete(found["weights"], saved["classes"])


def _verified(root: Root, reference: str) -> tuple[Experiment, ManifestEntry | None, Path]:
    """The checkpoint that a reference means, as :func:`resolve.find_checkpoint`; its size and hash are those of its manifest.

    Raises:
        CheckpointError: the file is not what was committed; the message names the newest one that is.
    """
    experiment, entry, path = resolve.find_checkpoint(root, reference)
    if entry is None:
        return experiment, None, path
    problem = entry.verify(experiment.folder)
    if problem is not None:
        good, _ = experiment.newest_good()
        advice = (
            f"The newest intact checkpoint is {experiment.id}@{good.epoch}." if good else "Take another checkpoint."
        )
        raise CheckpointError(f"{experiment.folder}: {problem}. {advice}")
    return experiment, entry, experiment.folder / entry.file


def _check_complete(found: Upgraded, path: Path) -> None:
    """Raises CheckpointError if a checkpoint lacks something that a child needs, naming all that it lacks."""
    lacking = [k for k in ("classes", "sampling_weights", "preprocessing") if not found.checkpoint.get(k)]
    lacking += [] if found.settings else ["config.settings"]
    lacking += [] if found.checkpoint["config"].get("num_epochs") else ["config.num_epochs"]
    if lacking:
        raise CheckpointError(
            f"{path} was not written by raysweep: it lacks {', '.join(lacking)}. Start from a checkpoint that raysweep wrote."
        )


def origin_of(root: Root, experiment: Experiment, path: Path, saved: Json) -> Origin:
    """Where a checkpoint comes from, for the question whether it may run what it names."""
    names = (saved.get("experiment"), experiment.id, (saved.get("config") or {}).get("sweep"))
    code: tuple[CodeRef, ...] = ()
    with contextlib.suppress(ValueError):  # of the old system
        code = tuple(ExperimentConfig.from_json(saved.get("config") or {}).all_code)
    return Origin(path, experiment.folder, root, tuple(dict.fromkeys(str(n) for n in names if n)), code)
