"""Every option of an experiment, its default and its check.

A YAML file (``raysweep run FILE key=value …``) becomes a :class:`Settings`. Unknown keys are errors; all errors of a
file are reported at once with their dotted path and line.
"""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from raysweep import weights as weights_module
from raysweep._text import check_name, short_repr, truncate
from raysweep.errors import ConfigError, WeightsError, did_you_mean


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


def _one_line(value: str) -> str:
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in value):
        raise ValueError(f"{short_repr(value)} contains control characters; it must be one line of text")
    return value


def _short_json(options: dict[str, Any]) -> dict[str, Any]:
    """Options are saved as JSON, and a few lists that share others may be a billion values when they are written out."""
    size = 0
    try:
        for part in json.JSONEncoder(allow_nan=False).iterencode(options):
            size += len(part)
            if size > MAX_OPTIONS:
                raise ValueError(f"the options are longer than {MAX_OPTIONS:,} characters of JSON")
    except (TypeError, RecursionError) as error:
        raise ValueError(f"the options cannot be saved as JSON ({truncate(error, 120)})") from None
    level: list[Any] = [options]
    for _ in range(MAX_DEPTH):
        inner = (x.values() if isinstance(x, dict) else x for x in level if isinstance(x, (dict, list, tuple)))
        level = list(itertools.chain.from_iterable(inner))
    if level:
        raise ValueError(f"the options are nested deeper than {MAX_DEPTH}")
    return options


Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, BeforeValidator(_no_bool)]
Positive = Annotated[Int, Field(ge=1, le=10**9)]
Seed = Annotated[Int, Field(ge=0, lt=2**63)]
Text = Annotated[str, Field(max_length=4096), AfterValidator(_one_line)]
MAX_WORKERS = 100_000
MAX_DRAWS = 10**8  # an epoch's order takes 8 bytes for each image shown
MAX_OPTIONS = 10_000  # characters of JSON
MAX_DEPTH = 20
MAX_FAULTS = 10  # told at once


def check_range(value: Sequence[Any]) -> list[int]:
    """The least and the most of a number of workers.

    Raises:
        ValueError: they are not two whole numbers in this order, the first from 1.
    """
    whole = [n for n in value if type(n) is int]
    if len(value) != 2 or len(whole) != 2 or not 1 <= whole[0] <= whole[1] <= MAX_WORKERS:
        raise ValueError(
            f"the least and the most workers are needed, such as [2, 8]: two whole numbers from 1 to {MAX_WORKERS:,}, the "
            f"smaller one first, not {short_repr(list(value))}"
        )
    return whole


def _kind_of_workers(value: Any) -> str:
    """Which of the three was meant, so that a fault is told once and not for each of them."""
    if isinstance(value, (list, tuple)):
        return "range"
    return "auto" if isinstance(value, str) and not value.strip().lstrip("+-").isdigit() else "number"


_Least = Annotated[int, Field(ge=1, le=MAX_WORKERS)]
Workers = Annotated[
    Annotated[Literal["auto"], Tag("auto")]
    | Annotated[Int, Field(ge=0, le=MAX_WORKERS), Tag("number")]
    | Annotated[list[_Least], Field(min_length=2, max_length=2), BeforeValidator(check_range), Tag("range")],
    Discriminator(_kind_of_workers),
]


def parse_workers(text: str | None) -> int | list[int] | None:
    """What ``--workers`` says: a number, or the least and the most, ``2-8``."""
    least, dash, most = (text or "").partition("-")
    if text is None:
        return None
    if not least.isdecimal() or (dash and not most.isdecimal()) or len(text) > 20:
        raise ConfigError(
            f"--workers {short_repr(text)} is neither a number from 0 nor the least and the most, such as 2-8. Give one of them."
        )
    try:
        return check_range([int(least), int(most)]) if dash else int(least)
    except ValueError as error:
        raise ConfigError(f"--workers: {error}.") from None


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=False)


class ExperimentSection(Section):
    name: str = Field("experiment", description="Start of the folder's name; the time is appended.")
    description: str = Field("", max_length=10_000, description="Why this experiment was made; stands in its log.")

    @field_validator("name", mode="before")  # before pydantic, whose words for half a character help nobody
    @classmethod
    def _name(cls, value: Any) -> Any:
        return check_name(value) if isinstance(value, str) else value


class DataSection(Section):
    source: Literal["auto", "faces", "digits", "folder", "csv", "parquet"] = Field(
        "auto", description="auto: by what path is (a folder, a .csv or .parquet file); faces and digits are built in."
    )
    path: Text | None = Field(
        None,
        description="Folder of class folders, imagefolder metadata, Parquet, CIFAR or MNIST files; FER-2013's CSV; or a list of "
        "paths and labels (.csv, .jsonl, .parquet).",
    )
    image_size: Annotated[Int, Field(ge=8, le=1024)] | None = Field(
        None, description="Side of the square images in pixels; default: the images' own size, if all have one."
    )
    channels: Literal[1, 3] | None = Field(None, description="1 gray, 3 colour; default: 1 if all images are gray.")
    val_fraction: Annotated[Float, Field(gt=0, lt=1)] = Field(
        0.2, description="Share of each class set aside for validation, where the data bring no split of their own."
    )
    split_seed: Seed = Field(0, description="Seed of that split; the same in every child.")
    on_bad_image: Literal["error", "skip"] = Field("error", description="skip: leave unreadable images out, recorded.")
    classes: list[Text] | None = Field(
        None,
        description="Order of the classes in the network's output; default: alphabetical (numbers by value), or as a trained model has them.",
    )
    cache_dir: Text | None = Field(None, description="Decoded images; default: <root>/.raysweep/cache.")


class SamplingSection(Section):
    strategy: Literal["quota", "multinomial"] = Field("quota", description="quota: exact counts; multinomial: random.")
    weights: dict[str, Any] = Field(default_factory=dict, description="Class → number ≥ 0; not named means 1.0.")
    samples_per_epoch: Annotated[Int, Field(ge=1, le=MAX_DRAWS)] | None = Field(
        None, description="Images shown per epoch; default: the pool's size. Each takes 8 bytes of memory."
    )
    sample_per_class: Positive | None = Field(None, description="At most so many different images of each class.")

    @field_validator("weights")
    @classmethod
    def _weights(cls, value: dict[str, Any]) -> dict[str, float]:
        try:
            return {name: weights_module.check_number(name, number) for name, number in value.items()}
        except WeightsError as error:
            raise ValueError(str(error)) from None


class ModelSection(Section):
    name: Text = Field(
        "cnn", description="cnn, torchvision:NAME, hf:NAME_OR_FOLDER, timm:NAME or python:MODULE:FUNCTION."
    )
    options: Annotated[dict[str, Any], AfterValidator(_short_json)] = Field(
        default_factory=dict, description="Keyword arguments of the model's builder."
    )
    init_from: Text | None = Field(
        None, description="A bare state_dict file (.pt, .safetensors) to start the weights from."
    )
    init_strict: bool = Field(True, description="false: take from init_from what fits, and say what does not.")


class AugmentSection(Section):
    crop_padding: Annotated[Int, Field(ge=0, le=128)] = Field(4, description="Shift by up to so many pixels.")
    flip: bool = Field(True, description="Mirror half of the images left to right.")


class TrainingSection(Section):
    epochs: Positive = Field(5, description="Epochs to train; in a child, additional ones.")
    batch_size: Positive = Field(64, description="The global batch: split among the workers.")
    learning_rate: Annotated[Float, Field(gt=0)] = 0.003
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: Annotated[Float, Field(ge=0, lt=1)] = Field(0.9, description="Of sgd.")
    weight_decay: Annotated[Float, Field(ge=0)] = Field(0.02, description="Not applied to biases and norms.")
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    schedule_epochs: Positive | None = Field(
        None, description="Epochs over which cosine falls; default: epochs. Children inherit it."
    )
    warmup_epochs: Annotated[Float, Field(ge=0)] = Field(1.0, description="The rate rises linearly for so long.")
    min_lr_ratio: Annotated[Float, Field(ge=0, le=1)] = Field(
        0.01, description="Cosine ends, and stays, at this share."
    )
    step_epochs: Positive = Field(10, description="step: multiply the rate by step_gamma every so many epochs.")
    step_gamma: Annotated[Float, Field(gt=0, le=1)] = 0.1
    label_smoothing: Annotated[Float, Field(ge=0, lt=1)] = 0.1
    grad_clip: Annotated[Float, Field(gt=0)] | None = Field(None, description="Largest norm of the gradient.")
    augment: AugmentSection = Field(default_factory=AugmentSection)  # type: ignore[arg-type]
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 autocast on GPU, fp32 on CPU.")
    channels_last: bool = True
    compile: bool = Field(False, description="torch.compile; pays only in long runs.")
    best_metric: Literal["val_acc", "macro_f1", "balanced_accuracy"] = "val_acc"


class KeepSection(Section):
    last: Positive = 3
    every: Positive | None = None


class CheckpointSection(Section):
    every_n_batches: Positive | None = Field(None, description="Also save within an epoch, every so many batches.")
    keep: Literal["all"] | KeepSection = Field("all", description="all, or {last: 3, every: 5}.")


class ScalingSection(Section):
    num_workers: Workers = Field(
        "auto",
        description="0: in this process; n: Ray workers; [2, 8]: at each attempt as many as fit, at least 2 and at most 8; auto: "
        "one per GPU, else in this process.",
    )
    threads: Literal["auto"] | Positive = Field("auto", description="CPU threads per worker; auto: the CPUs it has.")
    use_gpu: Literal["auto"] | bool = "auto"
    address: Text | None = Field(None, description="Address of an existing Ray cluster, or 'auto'.")
    sync_batchnorm: bool = Field(
        True, description="Batch statistics over all workers, so their number changes nothing."
    )
    timeout_s: Annotated[Float, Field(gt=0)] = Field(600.0, description="A hung worker is given up after so long.")
    max_failures: Annotated[Int, Field(ge=0, le=1_000_000)] = Field(
        3, description="How often lost processes (killed, hung, out of memory, node gone) are started again."
    )
    wait_for_nodes_s: Literal["auto"] | Annotated[Float, Field(ge=0)] = Field(
        "auto",
        description="How long to wait for nodes that are missing; auto: 900 on a cluster that grows by itself, else 60 for nodes "
        "that were lost, and at the start not at all.",
    )


class MlflowSection(Section):
    uri: Text | None = Field(
        None,
        description="A server, or sqlite:///FILE; default: MLFLOW_TRACKING_URI. Passwords belong into MLflow's variables.",
    )
    experiment: Text = Field("raysweep", min_length=1, description="MLflow's experiment; each of ours is a run in it.")


class WandbSection(Section):
    project: Text = Field("raysweep", min_length=1)
    entity: Text | None = Field(None, description="User or team; default: your own.")
    mode: Literal["online", "offline"] = Field("online", description="WANDB_MODE, where it is set, goes before this.")


class TrackioSection(Section):
    project: Text = Field("raysweep", min_length=1, description="TRACKIO_DIR and TRACKIO_SPACE_ID say where it lies.")


class TrackersSection(Section):
    tensorboard: bool = Field(True, description="An event file in the experiment's folder.")
    mlflow: MlflowSection | None = Field(None, description="{} takes the defaults; pip install 'raysweep[mlflow]'.")
    wandb: WandbSection | None = Field(None, description="Weights & Biases; pip install 'raysweep[wandb]'.")
    trackio: TrackioSection | None = Field(None, description="pip install 'raysweep[trackio]'.")


class Settings(Section):
    """The whole validated configuration of one experiment."""

    experiment: ExperimentSection = Field(default_factory=ExperimentSection)  # type: ignore[arg-type]
    seed: Seed = Field(0, description="Of order, augmentation, weights and dropout.")
    data: DataSection = Field(default_factory=DataSection)  # type: ignore[arg-type]
    sampling: SamplingSection = Field(default_factory=SamplingSection)  # type: ignore[arg-type]
    model: ModelSection = Field(default_factory=ModelSection)  # type: ignore[arg-type]
    training: TrainingSection = Field(default_factory=TrainingSection)  # type: ignore[arg-type]
    checkpoint: CheckpointSection = Field(default_factory=CheckpointSection)  # type: ignore[arg-type]
    scaling: ScalingSection = Field(default_factory=ScalingSection)  # type: ignore[arg-type]
    trackers: TrackersSection = Field(default_factory=TrackersSection)  # type: ignore[arg-type]
    root: Text = Field("experiments", description="Where the experiments' folders are made.")

    @model_validator(mode="after")
    def _data_has_a_path(self) -> Settings:
        built_in = self.data.source in ("faces", "digits")
        if not built_in and self.data.path is None:
            raise ValueError("data.path is missing: name a folder or file, or use data.source: faces (built in)")
        if built_in and self.data.path is not None:
            raise ValueError(f"data.path is set, but data.source: {self.data.source} is built in and reads no file")
        return self

    def flat(self, **more: Any) -> dict[str, Any]:
        """The specification's flat names, in its order, then ``settings`` with everything."""
        return {
            "experiment_name": self.experiment.name,
            "timestamp": more.pop("timestamp", None),
            "sampling_weights": dict(self.sampling.weights),
            "model_name": self.model.name,
            "batch_size": self.training.batch_size,
            "learning_rate": self.training.learning_rate,
            "num_epochs": self.training.epochs,
            "sample_per_class": self.sampling.sample_per_class,
            "use_full_dataset": self.sampling.sample_per_class is None,
            "resume_from_checkpoint": more.pop("resume_from_checkpoint", None),
            "experiment_description": self.experiment.description,
            **more,
            "settings": self.model_dump(mode="json"),
        }


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on top, mappings merged key by key."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """``["training.learning_rate=1e-4"]`` as a nested mapping (OmegaConf's dotlist)."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    for item in overrides:
        key, sep, _ = item.partition("=")
        if not sep or not key.strip():
            raise ConfigError(
                f"The override {short_repr(item)} is not of the form key=value, such as training.epochs=10."
            )
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)), resolve=False)
    except (OmegaConfBaseException, YAMLError, ValueError, AttributeError, RecursionError) as error:
        reason = truncate(" ".join(str(error).split()), 200)
        raise ConfigError(f"The overrides {truncate(' '.join(overrides), 200)!r} cannot be read: {reason}.") from None
    assert isinstance(value, dict)
    return {str(k): v for k, v in value.items()}


def _place(model: Any, loc: tuple[Any, ...]) -> tuple[list[str], list[str]]:
    """A fault's keys as the user wrote them, and the keys there are where the last one stands.

    Pydantic also tells which member of a union it tried; these parts are left out.
    """
    keys: list[str] = []
    known: list[str] = []
    for part in loc:
        while get_origin(model) is Annotated or len(members := _members(model)) == 1:
            model = get_args(model)[0] if get_origin(model) is Annotated else members[0]
        if members:
            model = next((m for m in members if getattr(m, "__name__", None) == part), None)
            continue
        keys.append(str(part))
        fields = getattr(model, "model_fields", None)
        known = list(fields or {})
        if fields is not None:
            model = fields[part].annotation if part in fields else None
        else:  # of a list or a mapping: what its values are
            model = (get_args(model) or (None,))[-1]
    return keys, known


def _members(annotation: Any) -> list[Any]:
    """What a union consists of, None apart; empty if it is no union."""
    if get_origin(annotation) not in (Union, UnionType):
        return []
    return [m for m in get_args(annotation) if m is not type(None)]


def _told(fault: Mapping[str, Any], last: str, known: list[str]) -> str:
    """What is wrong, in words."""
    if fault["type"] == "extra_forbidden":
        return f"there is no such option.{did_you_mean(truncate(last, 80), known)}"
    if fault["type"] in ("value_error", "missing"):
        return str(fault["msg"]).removeprefix("Value error, ")
    text = fault["msg"]
    if fault["type"] == "less_than_equal":
        text = f"at most {fault['ctx']['le']:,} is allowed"
    return f"{text}, not {short_repr(fault['input'])}"


def explain(error: ValidationError, model: type[BaseModel], source: str, lines: Mapping[str, int] | None = None) -> str:
    """The first faults that a validation found, in one sentence each, with its dotted key and its line."""
    found: dict[tuple[str, str, str], tuple[Mapping[str, Any], list[str]]] = {}
    for fault in error.errors(include_url=False):
        keys, known = _place(model, fault["loc"])
        found.setdefault((".".join(keys), fault["type"], fault["msg"]), (dict(fault), known))
    told = []
    for (dotted, _, _), (first, known) in itertools.islice(found.items(), MAX_FAULTS):
        line = (lines or {}).get(dotted)
        where = truncate(dotted, 200) + (f" (line {line})" if line else "")
        message = _told(first, dotted.rpartition(".")[2], known).rstrip(".")
        told.append(f"{where}: {message}" if where else message)
    more = f"; and {len(found) - len(told):,} more" if len(found) > len(told) else ""
    many = f"{len(found):,} thing{'s' * (len(found) > 1)}"
    return f"In {truncate(source)}, {many} to mend: {'; '.join(told)}{more}."


def validate(
    values: Mapping[str, Any], source: str = "the configuration", lines: Mapping[str, int] | None = None
) -> Settings:
    """Checked settings.

    Raises:
        ConfigError: every fault found, each with its dotted key, and its line where ``lines`` knows it.
    """
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(explain(error, Settings, source, lines)) from None


def load(path: str | Path, overrides: Sequence[str] = (), more: Mapping[str, Any] | None = None) -> Settings:
    """Settings from a YAML file, ``key=value`` overrides on top, and ``more`` (from flags) on top of these."""
    from raysweep.config.yaml import read_yaml_lines

    values, lines = read_yaml_lines(path)
    changed = merge(parse_overrides(overrides), more or {})
    source = str(path) if not changed else f"{path} with the overrides given"
    return validate(merge(values, changed), source, lines)


def json_schema(model: type[BaseModel], title: str) -> str:
    """The JSON Schema of a file that ``model`` checks, as text."""
    schema = model.model_json_schema()
    schema["title"] = title
    return json.dumps(schema, indent=2) + "\n"
