"""Bring a checkpoint into the shape of ours. Nothing else needs to know what the old system wrote into its checkpoints.

The old system saved weights, AdamW's state, epoch, best accuracy and history. It saved neither where the images were nor which
output of the network is which class. What is missing is taken from the user, the model or the rest of the checkpoint, and is
otherwise what the old system always did: it sampled with replacement, kept the learning rate constant and augmented nothing.
The order of the classes and the place of the images are never guessed.

Versions of our own format are the business of :mod:`raysweep.store.checkpoint_format`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from raysweep._text import Nested, check_name, differences, join_names, truncate
from raysweep.config import load as load_config
from raysweep.errors import CheckpointError, ConfigError
from raysweep.events import Note
from raysweep.store.experiment import Experiment
from raysweep.store.layout import Position
from raysweep.store.records import Json
from raysweep.weights import SamplingWeights

_NO_NAME = "old"
_ALWAYS = {  # how the old system trained, whatever its configuration said
    "data.channels": 3,
    "sampling.strategy": "multinomial",
    "training.optimizer": "adamw",
    "training.schedule": "constant",
    "training.warmup_epochs": 0.0,
    "training.label_smoothing": 0.0,
    "loss.kind": "cross_entropy",
    "training.augment": {"crop_padding": 0, "flip": False},
}
_ROLES = {"val": "test", "min_val": 0}  # before images had roles
_USERS = {"data": ("path", "source", "classes"), "model": ("name", "options")}  # what a user may say of a checkpoint
_DECAY = Note("a checkpoint of the old system: weight decay no longer applies to biases and normalisation")


class Source(StrEnum):
    """Where a value comes from that a checkpoint does not have."""

    USER = "the user"
    MODEL = "the model"
    CHECKPOINT = "the checkpoint"  # another part of it
    OLD_SYSTEM = "the old system's way of training"


@dataclass(frozen=True, slots=True)
class FilledIn:
    """A setting that was filled in."""

    key: str  # dotted
    value: Any
    source: Source


@dataclass(frozen=True)
class Upgraded:
    """A checkpoint in the shape of ours."""

    checkpoint: Json  # the documented keys
    settings: Json  # nested, as under ``config.settings``; empty where neither the checkpoint nor its origin tells them
    filled_in: tuple[FilledIn, ...] = ()
    notes: tuple[Note, ...] = ()  # what a child does differently because of its parent's origin, for the child's log

    @property
    def position(self) -> Position:
        """Where in the training it was saved."""
        batch = int(self.checkpoint.get("current_batch") or 0)
        return Position(int(self.checkpoint["epoch"]) + (batch > 0), batch or None)


def upgrade(
    saved: Json,
    experiment: Experiment,
    path: Path,
    overrides: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    needs_images: bool = False,
) -> Upgraded:
    """The checkpoint ``saved`` in the shape of ours; one of ours stays as it is.

    Args:
        experiment: the folder in which the checkpoint is.
        path: the checkpoint's file, for messages.
        overrides: the user's nested settings. Where the checkpoint does not know it, ``model.name``, ``model.options`` and
            the section ``data`` are taken from here.
        classes: in the order of the network's outputs; default: as the model's id2label says.
        needs_images: the settings must say where the images are.

    Raises:
        CheckpointError: the order of the classes is not known, or what the user says contradicts the checkpoint; with
            ``needs_images``, neither it nor the user says where the images are. ConfigError: there is no such model.
    """
    config, given = saved["config"], _given(overrides or {}, classes)
    if _is_old(saved):
        found = _from_the_old_system(saved, experiment, path, given)
    else:
        own = tuple(saved.get("classes") or ())
        if classes is not None and own and tuple(classes) != own:
            raise CheckpointError(f"{differences(own, classes, str(path), '--classes')}. Leave --classes out.")
        found = Upgraded(saved, completed(config.get("settings") or {}))
        if not config.get("imported_from"):
            return found
        found = Upgraded(saved, _with_images(found.settings, given), _from_user(given))
    data = found.settings.get("data") or {}
    if needs_images and data.get("source") == "auto" and not data.get("path"):
        raise CheckpointError(
            f"{truncate(path)} was written by the old system, which did not record where its images were. Add data.path=FOLDER."
        )
    return found


def completed(settings: Json) -> Json:
    """Settings of an earlier version of ours, with what it did where it had no such option.

    Class folders were always the first ones below a split. Pixels were standardised as the trained network expects, else by the
    training images: that is what no mean and no standard deviation say. Test images were used for validation where there were no
    others, and a split of our own gave small classes no more than their part.
    """
    data = settings.get("data")
    return {**settings, "data": {"level": 1, "mean": None, "std": None, **_ROLES, **data}} if data else settings


def _is_old(saved: Json) -> bool:
    """Whether the old system wrote a checkpoint (or somebody by hand): it has neither classes nor settings."""
    config = saved["config"]
    return not saved.get("classes") and not config.get("settings") and bool(config.get("model_name"))


def _given(overrides: Mapping[str, Any], classes: Sequence[str] | None) -> dict[str, Any]:
    """Dotted key → what the user says of a checkpoint that does not say it itself."""
    found = {
        f"{section}.{key}": value
        for section, keys in _USERS.items()
        for key, value in (overrides.get(section) or {}).items()
        if key in keys
    }
    return found | ({"data.classes": list(classes)} if classes else {})


def _from_user(given: Mapping[str, Any]) -> tuple[FilledIn, ...]:
    return tuple(FilledIn(key, value, Source.USER) for key, value in given.items())


def _with_images(settings: Json, given: Mapping[str, Any]) -> Json:
    """The settings with the place of the images that the user gives."""
    places = {key: given[f"data.{key}"] for key in ("path", "source") if f"data.{key}" in given}
    return {**settings, "data": {**(settings.get("data") or {}), **places}}


# --- the old system -----------------------------------------------------------------------------------------------------


def _from_the_old_system(saved: Json, experiment: Experiment, path: Path, given: Mapping[str, Any]) -> Upgraded:
    from raysweep.training import hub

    model = _model(saved["config"], experiment, given)
    order = _classes(saved, path, model.value, given)
    rows = (model, order, *_rest(saved, order.value, given))
    settings = _settings(rows, path, given)
    means = hub.preprocessing(model.value)
    mean, std = means.of(3) if means else ([127.5] * 3, [127.5] * 3)
    config = {**saved["config"], "settings": settings}
    full = {
        **saved,
        "classes": order.value,
        "sampling_weights": dict(settings["sampling"]["weights"]),
        "preprocessing": {"mean": mean, "std": std},
        "format_version": 1,
        # The order of the batches was drawn from generators that were not saved: the running epoch begins anew.
        "current_batch": int(saved.get("current_batch") or 0),
        "total_batches": int(saved.get("total_batches") or 0),
        "history": _numbered(saved["history"]),
        "config": config,
        "experiment": experiment.id,
        "world_size": 1,
        "rng_state": [],
        "sampler_state": {},
        "scheduler_state_dict": {},
        "scaler_state_dict": {},
        "versions": {},
        "parent": None,
    }
    others = tuple(row for row in rows if row.source is not Source.USER)
    return Upgraded(full, settings, (*_from_user(given), *others), (_DECAY,))


def _model(config: Json, experiment: Experiment, given: Mapping[str, Any]) -> FilledIn:
    """The model's folder where it is now, or its name on the hub.

    Raises:
        CheckpointError: the folder is gone.
    """
    if given.get("model.name"):
        return FilledIn("model.name", str(given["model.name"]), Source.USER)
    model, folder = str(config["model_name"]), experiment.folder.resolve()
    # The old program named it relative to the folder in which it ran.
    for base in (Path.cwd(), folder.parent, folder.parent.parent, folder):
        if not Path(model).is_absolute() and (base / model / "config.json").is_file():
            return FilledIn("model.name", f"hf:{base / model}", Source.CHECKPOINT)
    if model.startswith(("./", "../", "/")) and not Path(model).is_dir():
        raise CheckpointError(
            f"{folder} was trained from the model in {truncate(model)}, which is not there. Say where it is: model.name=hf:FOLDER"
        )
    return FilledIn("model.name", f"hf:{model}", Source.CHECKPOINT)


def _classes(saved: Json, path: Path, model: str, given: Mapping[str, Any]) -> FilledIn:
    """The classes in the order of the network's outputs, a list.

    Raises:
        CheckpointError: they are not known, or their number is not that of the network's outputs.
    """
    from raysweep.training import hub

    named = given.get("data.classes")
    wanted = named or hub.labels(model)
    if not wanted:
        raise CheckpointError(
            f"{truncate(path)} was written by the old system, which did not record the order of its classes, and {model} does not "
            "name them either (no id2label). Give them in the order of the network's outputs: --classes sad,disgust,angry"
        )
    order = [str(c) for c in wanted]
    outputs = _outputs(saved["model_state_dict"])
    if outputs is not None and outputs != len(order):
        raise CheckpointError(
            f"{truncate(path)} has a network of {outputs} outputs, but {len(order)} classes are named: {join_names(order)}. Give all of "
            "them, in the order of the outputs: --classes sad,disgust,angry"
        )
    return FilledIn("data.classes", order, Source.USER if named else Source.MODEL)


def _outputs(state: Json) -> int | None:
    """The number of outputs of the network: the length of the last vector among its weights."""
    last = next((t for t in reversed(list(state.values())) if t.ndim == 1), None)
    return None if last is None else int(last.shape[0])


def _rest(saved: Json, classes: Sequence[str], given: Mapping[str, Any]) -> list[FilledIn]:
    """All settings but the model's name and the data."""
    config = saved["config"]
    options = given.get("model.options")
    group: Json = next(iter(saved["optimizer_state_dict"].get("param_groups") or []), {})

    def found(key: str, value: Any) -> FilledIn:
        return FilledIn(key, value, Source.CHECKPOINT)

    def found_or(key: str, value: Any, default: float) -> FilledIn:
        return found(key, value) if value is not None else FilledIn(key, default, Source.OLD_SYSTEM)

    return [
        found("experiment.name", _name(config)),
        found("experiment.description", str(config.get("experiment_description") or "")),
        FilledIn("model.options", dict(options or {}), Source.USER if options else Source.OLD_SYSTEM),
        found("sampling.weights", SamplingWeights.complete(config.get("sampling_weights") or {}, classes).as_dict()),
        found("sampling.sample_per_class", _per_class(config)),
        found("training.epochs", max(1, int(config.get("num_epochs") or 1))),
        found_or("training.batch_size", config.get("batch_size") or None, 32),
        found_or("training.learning_rate", config.get("learning_rate") or group.get("lr") or None, 0.001),
        found_or("training.weight_decay", group.get("weight_decay"), 0.01),
        *(FilledIn(key, value, Source.OLD_SYSTEM) for key, value in _ALWAYS.items()),
    ]


def _settings(rows: Sequence[FilledIn], path: Path, given: Mapping[str, Any]) -> Nested:
    """Nested settings of these rows; the section ``data`` says where the images are only if the user does.

    Raises:
        CheckpointError: a value of the checkpoint cannot be a setting.
    """
    values: dict[str, dict[str, Any]] = {"data": {"source": "faces"}}  # valid without a path; it is replaced below
    for row in rows:
        section, _, key = row.key.partition(".")
        values.setdefault(section, {})[key] = row.value
    try:
        settings = load_config.validate(values, f"what {truncate(path)} says").model_dump(mode="json")
    except ConfigError as error:
        raise CheckpointError(
            f"{error} The checkpoint was written by the old system; name what differs as key=value."
        ) from None
    settings["data"] |= {**_ROLES, "source": given.get("data.source") or "auto", "path": given.get("data.path")}
    return settings


def _numbered(history: Json) -> dict[str, list[Any]]:
    """The old system's four columns, and the number of each epoch."""
    columns = {name: list(values) for name, values in history.items()}
    rows = max((len(values) for values in columns.values()), default=0)
    return {**columns, "epoch": columns.get("epoch", list(range(1, rows + 1)))}


def _name(config: Json) -> str:
    try:
        return check_name(str(config.get("experiment_name") or _NO_NAME))
    except ValueError:
        return _NO_NAME


def _per_class(config: Json) -> int | None:
    count = config.get("sample_per_class")
    return int(count) if count and not config.get("use_full_dataset") else None
