"""Checkpoints of the old system: what they leave unsaid is taken from the model they were trained from, never guessed.

They hold weights, AdamW's state, epoch, best accuracy and history, but neither where the images were nor which output of the
network is which class. The old system sampled with replacement, kept the learning rate constant and augmented nothing;
a child goes on like that unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raysweep._text import check_name, join_names, truncate
from raysweep.config import load as load_config
from raysweep.errors import CheckpointError, ConfigError
from raysweep.store import layout
from raysweep.store.experiment import Experiment
from raysweep.weights import SamplingWeights

_NO_NAME = "old"


def is_old(saved: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was written by the old system (or by hand): it says nothing of classes and settings."""
    config = saved["config"]
    return not saved.get("classes") and not config.get("settings") and bool(config.get("model_name"))


def completed(
    saved: Mapping[str, Any],
    experiment: Experiment,
    path: Path,
    overrides: Mapping[str, Any],
    classes: Sequence[str] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the checkpoint with what ours have besides, the settings it was trained with).

    Args:
        overrides: nested settings of the user; of these ``model.name`` and ``data`` are looked at.
        classes: in the order of the network's outputs; default: as the model's id2label says.

    Raises:
        CheckpointError: the order of the classes is not known, or contradicts the weights. ConfigError: there is no such model.
    """
    from raysweep.training import hub

    config = saved["config"]
    given = overrides.get("model") or {}
    model = str(given.get("name") or f"hf:{_place(str(config['model_name']), experiment)}")
    data = overrides.get("data") or {}
    wanted = classes or data.get("classes") or hub.labels(model)
    if not wanted:
        raise CheckpointError(
            f"{truncate(path)} was written by the old system, which did not record the order of its classes, and {model} does not "
            "name them either (no id2label). Give them in the order of the network's outputs: --classes sad,disgust,angry"
        )
    order = tuple(str(c) for c in wanted)
    outputs = _outputs(saved["model_state_dict"])
    if outputs is not None and outputs != len(order):
        raise CheckpointError(
            f"{truncate(path)} has a network of {outputs} outputs, but {len(order)} classes are named: {join_names(order)}. Give all of "
            "them, in the order of the outputs: --classes sad,disgust,angry"
        )
    weights = SamplingWeights.complete(config.get("sampling_weights") or {}, order).as_dict()
    group: Mapping[str, Any] = next(iter(saved["optimizer_state_dict"].get("param_groups") or []), {})
    values: dict[str, Any] = {
        "experiment": {"name": _name(config), "description": str(config.get("experiment_description") or "")},
        "data": {"source": "faces", "classes": list(order), "channels": 3},  # its place is filled in below
        "model": {"name": model, "options": dict(given.get("options") or {})},
        "sampling": {"strategy": "multinomial", "weights": weights, "sample_per_class": _per_class(config)},
        "training": {
            "epochs": max(1, int(config.get("num_epochs") or 1)),
            "batch_size": config.get("batch_size") or 32,
            "learning_rate": config.get("learning_rate") or group.get("lr") or 0.001,
            "weight_decay": group.get("weight_decay", 0.01),
            "optimizer": "adamw",
            "schedule": "constant",
            "warmup_epochs": 0.0,
            "label_smoothing": 0.0,
            "augment": {"crop_padding": 0, "flip": False},
        },
    }
    try:
        settings = load_config.validate(values, f"what {truncate(path)} says").model_dump(mode="json")
    except ConfigError as error:
        raise CheckpointError(
            f"{error} The checkpoint was written by the old system; name what differs as key=value."
        ) from None
    settings["data"] |= {"source": data.get("source") or "auto", "path": data.get("path")}
    means = hub.preprocessing(model)
    mean, std = means.of(3) if means else ([127.5] * 3, [127.5] * 3)
    more = {"classes": list(order), "sampling_weights": weights, "preprocessing": {"mean": mean, "std": std}}
    # The file's batches are of an order that nobody can draw again: the running epoch begins anew.
    return {**saved, **more}, settings


def with_data(settings: dict[str, Any], path: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that say where the images are.

    Raises:
        CheckpointError: neither they nor the user says it.
    """
    data = {k: v for k, v in (overrides.get("data") or {}).items() if k in ("path", "source")}
    settings = {**settings, "data": {**settings["data"], **data}}
    if settings["data"]["source"] == "auto" and not settings["data"]["path"]:
        raise CheckpointError(
            f"{truncate(path)} was written by the old system, which did not record where its images were. Add data.path=FOLDER."
        )
    return settings


def given(overrides: Mapping[str, Any], classes: Sequence[str] | None) -> dict[str, Any]:
    """Dotted key → what a user said of an old or imported checkpoint, so that a child's log tells how it was made."""
    found = {f"data.{k}": v for k, v in (overrides.get("data") or {}).items() if k in ("path", "source", "classes")}
    found |= {f"model.{k}": v for k, v in (overrides.get("model") or {}).items() if k in ("name", "options")}
    return found | ({"data.classes": list(classes)} if classes else {})


def _name(config: Mapping[str, Any]) -> str:
    try:
        return check_name(str(config.get("experiment_name") or _NO_NAME))
    except ValueError:
        return _NO_NAME


def _per_class(config: Mapping[str, Any]) -> int | None:
    count = config.get("sample_per_class")
    return int(count) if count and not config.get("use_full_dataset") else None


def _place(model: str, experiment: Experiment) -> str:
    """The model's folder where it lies now, or its name on the hub. The old program named it relative to where it ran."""
    folder = experiment.folder.resolve()
    for base in (Path.cwd(), folder.parent, folder.parent.parent, folder):
        if not Path(model).is_absolute() and (base / model / "config.json").is_file():
            return str(base / model)
    if model.startswith(("./", "../", "/")) and not Path(model).is_dir():
        raise CheckpointError(
            f"{folder} was trained from the model in {truncate(model)}, which is not there. Say where it is: model.name=hf:FOLDER"
        )
    return model


def _outputs(state: Mapping[str, Any]) -> int | None:
    """Outputs of the last layer: the length of the last vector."""
    last = next((t for t in reversed(list(state.values())) if t.ndim == 1), None)
    return None if last is None else int(last.shape[0])


def epoch_of(saved: Mapping[str, Any]) -> layout.Position:
    """Where in the training an old checkpoint stands: its file name counts from 0 where it was taken within an epoch."""
    batch = int(saved.get("current_batch") or 0)
    return layout.Position(int(saved["epoch"]) + (batch > 0), batch or None)
