"""Read and verify the checkpoint that a child starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raysweep._text import short_repr
from raysweep.config import load as load_config
from raysweep.errors import CheckpointError
from raysweep.plan import legacy
from raysweep.plan.types import Parent
from raysweep.store import checkpoint, files, resolve
from raysweep.store.experiment import Experiment
from raysweep.store.records_manifest import ManifestEntry
from raysweep.store.root import Root
from raysweep.weights import SamplingWeights


def read_parent(
    root: Root, reference: str, overrides: Mapping[str, Any] | None = None, classes: Sequence[str] | None = None
) -> Parent:
    """The checkpoint that a reference means.

    Args:
        overrides: the user's nested settings, of which one of the old system needs the model's and the images' place.
        classes: in the order of the network's outputs, where the checkpoint and its model do not say it.

    Raises:
        NotFoundError: there is none. CheckpointError: it is damaged, incomplete, or not one of ours.
    """
    experiment, entry, path = _verified(root, reference)
    saved = checkpoint.read_checkpoint(path)
    old = legacy.is_old(saved)
    saved, written, given = _completed(saved, experiment, path, overrides or {}, classes)
    config = saved["config"]
    return Parent(
        path=path.resolve(),
        experiment=str(saved.get("experiment") or experiment.id),
        epoch=saved["epoch"],
        batch=saved.get("current_batch") or 0,
        sha256=entry.sha256 if entry else files.sha256_file(path),
        weights=SamplingWeights.complete(saved["sampling_weights"], saved["classes"]),
        settings=load_config.validate(written, f"the settings in {path}"),
        counts=dict(config.get("class_counts") or {}),
        threads=saved.get("threads") or None,
        world_size=saved.get("world_size") or 1,
        data_sha256=saved.get("data_sha256"),
        last_epoch=max(saved["epoch"], ((config.get("parent") or {}).get("epoch") or 0) + config["num_epochs"]),
        rows=len(saved["history"].get("val_acc", [])),
        channels=len(saved["preprocessing"]["mean"]),
        old=old,
        given=given,
        own=entry is not None and files.inside(root.path, experiment.folder),
    )


def _verified(root: Root, reference: str) -> tuple[Experiment, ManifestEntry | None, Path]:
    """The checkpoint that a reference means, as :func:`catalog.find_checkpoint`; what its manifest says of it holds.

    Raises:
        CheckpointError: the file is not what was committed; the message names one that is.
    """
    experiment, entry, path = resolve.find_checkpoint(root, reference)
    if entry is None:
        return experiment, None, path
    problem = entry.verify(experiment.folder)
    if problem is not None:
        good, _ = experiment.newest_good()
        advice = f"The newest whole checkpoint is {experiment.id}@{good.epoch}." if good else "Take another checkpoint."
        raise CheckpointError(f"{experiment.folder}: {problem}. {advice}")
    return experiment, entry, experiment.folder / entry.file


def _completed(
    saved: dict[str, Any],
    experiment: Experiment,
    path: Path,
    overrides: Mapping[str, Any],
    classes: Sequence[str] | None,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(the checkpoint with all that a child needs, the settings it was trained with, what the user had to say of it).

    Raises:
        CheckpointError: it lacks something that the user did not say either, or contradicts what was said.
    """
    config, old = saved["config"], legacy.is_old(saved)
    written = config.get("settings") or {}
    if old:
        saved, written = legacy.completed(saved, experiment, path, overrides, classes)
    elif classes is not None and tuple(classes) != tuple(saved.get("classes") or ()):
        raise CheckpointError(
            f"{path} has the classes {', '.join(saved.get('classes') or ['-'])}. Leave --classes out."
        )
    lacking = [k for k in ("classes", "sampling_weights", "preprocessing") if not saved.get(k)]
    lacking += [] if written else ["config.settings"]
    lacking += [] if config.get("num_epochs") else ["config.num_epochs"]
    if lacking:
        raise CheckpointError(
            f"{path} was not written by raysweep (it lacks {', '.join(lacking)}), so it cannot be resumed yet."
        )
    if not (old or config.get("imported_from")):
        return saved, written, {}
    return saved, legacy.with_data(written, path, overrides), legacy.given(overrides, classes)


def same_function(path: Path, own: bool, model: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """A Python function that a checkpoint of unknown origin names is run only if the user names it, too.

    Args:
        own: the checkpoint is a committed one of an experiment under the root.
        model: the section of its settings.

    Raises:
        CheckpointError: the user does not name it.
    """
    section = overrides.get("model")
    named = isinstance(section, Mapping) and section.get("name")
    if own or not str(model["name"]).startswith("python:") or named:
        return
    raise CheckpointError(
        f"{path} wants to run the Python function {model['name']} with the options {short_repr(model['options'])}, and is "
        f"no checkpoint of an experiment under this root. If you trust it, repeat the name: model.name={model['name']}"
    )
