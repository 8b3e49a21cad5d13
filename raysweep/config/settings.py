"""Every option of an experiment: its default, its limits and its description. Unknown keys are errors.

:mod:`raysweep.config.load` reads files and overrides into :class:`Settings`.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from raysweep._text import Nested, check_name, short_repr
from raysweep.config import augmentation
from raysweep.config import multi_label as several
from raysweep.config.augmentation import AugmentSection
from raysweep.config.caching import Cache, CacheDir, Large
from raysweep.config.finetuning import ACCUMULATE, EMA, FEATURES, FREEZE, HEAD_LR, LAYER_DECAY, UNFREEZE, Freeze
from raysweep.config.geometry import BACKGROUND, FIT, Colour, Fit
from raysweep.config.own import METRICS, WordOrCode, check_metric, target_of
from raysweep.config.running import CheckpointSection, ScalingSection
from raysweep.config.tracking import TrackersSection
from raysweep.config.treatment import LossSection, SamplingSection
from raysweep.config.types import Float, Int, Moments, Name, Names, Positive, Section, Seed, Text, short_json

SOURCES = ("auto", "faces", "digits", "folder", "csv", "parquet", "tar")


def data_name(source: object, path: object) -> str:
    """What an experiment with these data is called if the user does not say: the name of the folder or file.

    >>> data_name("auto", "data/fer2013.csv"), data_name("digits", None), data_name("auto", "..")
    ('fer2013', 'digits', 'experiment')
    """
    found = PurePath(path.replace("\\", "/")) if isinstance(path, str) else PurePath(str(source))
    name = found.stem if found.suffix.lower() in (".csv", ".tsv", ".txt", ".jsonl", ".parquet", ".tar") else found.name
    try:
        return check_name("".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip("-. _")[:60])
    except ValueError:
        return "experiment"


class ExperimentSection(Section):
    name: str = Field(
        "experiment",
        description="The folder's name begins with it; the time is appended. Default: the name of the data.",
    )
    description: str = Field(
        "",
        max_length=10_000,
        description="Why you run this experiment; written to the experiment's log. Default: what the data are.",
    )

    @field_validator("name", mode="before")  # first: pydantic's own message about half a character helps nobody
    @classmethod
    def _name(cls, value: Any) -> Any:
        return check_name(value) if isinstance(value, str) else value


class Columns(Section):
    path: Name | None = Field(None, description="The column with the image's path, name or id.")
    label: Name | None = Field(None, description="The column with the image's class.")
    split: Name | None = Field(None, description="The column that says train, val or test.")


class DataSection(Section):
    source: Annotated[Text, WordOrCode(*SOURCES)] = Field(
        "auto",
        description="auto: detect the format of path (a folder, .csv, .parquet or .tar); folder, csv, parquet, tar. faces and digits are built in and "
        "need no path. Or your own: python:MODULE:NAME, which gives arrays, or anything with length, labels and items.",
    )
    path: Text | None = Field(
        None,
        description="A folder with one subfolder per class, or with a list of images, Parquet, tar, CIFAR or MNIST files; "
        "FER-2013's CSV file; a .tar file; or a .csv, .tsv, .txt, .jsonl or .parquet file that lists image paths and labels.",
    )
    level: Literal[1, 2] | None = Field(
        None,
        description="Which folders below the split are the classes: 1: the first ones; 2: those in them. Default: as it is plain.",
    )
    images: Text | None = Field(
        None,
        description="Folder in which the images of a list lie. Default: the list's own, or one beside it that has them.",
    )
    columns: Columns | None = Field(
        None,
        description="Names, or numbers from 1, of a list's columns: {path: NAME, label: NAME, split: NAME}. Default: by their usual "
        "names.",
    )
    multi_label: bool = several.MULTI_LABEL
    labels: list[Name] = several.LABELS
    rename: Names = Field(
        default_factory=dict, description="Other names for classes, such as {HAPPINESS: happiness}; two become one."
    )
    drop: list[Text] = Field(default_factory=list, description="Classes whose images are left out.")
    image_size: Annotated[Int, Field(ge=8, le=1024)] | None = Field(
        None,
        description="Width and height of the images in pixels. Default: the images' own size, if all have the same.",
    )
    channels: Literal[1, 3] | None = Field(
        None, description="1: grayscale; 3: color. Default: 1 if all images are grayscale, else 3."
    )
    fit: Fit = FIT
    background: Colour = BACKGROUND
    val: Literal["auto", "split", "test"] = Field(
        "auto",
        description="Which images are for validation. auto: those of the data, else a part of the training images; test images stay "
        "sealed. split: always a part of the training images. test: the test images, where there are no validation images of "
        "their own; results are then chosen on them.",
    )
    val_fraction: Annotated[Float, Field(gt=0, lt=1)] = Field(
        0.2, description="Fraction of each class used for validation, if the data has no validation split of its own."
    )
    min_val: Annotated[Int, Field(ge=0, le=1_000_000)] = Field(
        10,
        description="A split made here gives each class at least this many validation images, but at most half of its images.",
    )
    max_val: Positive | None = Field(
        None, description="Use at most this many validation images, the same part of each class. Default: all."
    )
    folds: Annotated[Int, Field(ge=2, le=100)] | None = Field(
        None,
        description="Set the training images aside in so many parts, of which fold is for validation and the others for training "
        "(k-fold cross-validation). In a grid file: a parent and all branches for each of them. Default: no folds.",
    )
    fold: Annotated[Int, Field(ge=1, le=100)] | None = Field(
        None, description="The part for validation, counted from 1; see folds."
    )
    group: Text | None = Field(
        None,
        description="What tells which images belong together (a patient, a film): a column of the list, groups or an attribute of your own data "
        "set, or a pattern of the file's name such as {group}_*. A group is never on both sides of a split.",
    )
    split_seed: Seed = Field(0, description="Seed of the validation split. All children use the same one.")
    views: augmentation.Views = augmentation.VIEWS
    on_bad_image: Literal["error", "skip"] = Field(
        "error", description="What to do with unreadable images. error: stop; skip: leave them out and record which."
    )
    duplicates: Literal["report", "drop_train", "drop_val"] = Field(
        "report",
        description="What to do with images that are, pixel for pixel, in training and in validation. report: say how many; "
        "drop_train, drop_val: take them out of that side.",
    )
    classes: list[Text] | None = Field(
        None,
        description="The classes to use, in the order of the network's output. Default: all, as in the trained model, else "
        "alphabetical (numbers by value).",
    )
    mean: Moments | None = Field(
        None,
        description="What is subtracted from pixels, for pixels from 0 to 1: one number, one per channel, or imagenet, dataset (of the "
        "training images), half (0.5) or none (0). Default: as the trained network expects, else dataset.",
    )
    std: Moments | None = Field(
        None,
        description="What pixels are then divided by, in the same form; half is 0.5, none is 1. Default: as mean.",
    )
    cache: Cache = "auto"
    large: Large = "shrink"
    cache_dir: CacheDir = None

    @model_validator(mode="before")
    @classmethod
    def _mean_and_std(cls, values: Any) -> Any:
        """A word for one of them is meant for both."""
        if not isinstance(values, dict):
            return values
        mean, std = values.get("mean"), values.get("std")
        if (mean is None) != (std is None):
            word = std if mean is None else mean
            if not isinstance(word, str):
                raise ValueError(f"{'mean' if mean is None else 'std'} is missing: give numbers for mean and for std")
            values = {**values, "mean": word, "std": word}
        return values

    @model_validator(mode="before")
    @classmethod
    def _folds_are_a_split(cls, values: Any) -> Any:
        """With folds the data's own validation images are no part of it."""
        if isinstance(values, dict) and values.get("folds") is not None and values.get("val", "auto") == "auto":
            return {**values, "val": "split"}
        return values

    @model_validator(mode="after")
    def _a_fold_of_folds(self) -> DataSection:
        if self.folds is None and self.fold is None:
            return self
        if self.folds is None or self.fold is None or self.fold > self.folds:
            raise ValueError(
                "folds and fold go together: a run takes one fold, such as data.folds=5 data.fold=1 (up to 5); `data: {folds: 5}` in a "
                "grid file trains a parent and all branches for each"
            )
        if self.val == "test" or self.max_val is not None:
            raise ValueError("with folds each training image is for validation once: remove max_val, and val: test")
        return self

    @model_validator(mode="before")
    @classmethod
    def _several_labels(cls, values: Any) -> Any:
        """Named columns mean several labels, of which a split keeps the shares as they are."""
        if not several.asked_for(values):
            return values
        return {"multi_label": True, "min_val": 0, **values}

    @model_validator(mode="after")
    def _labels_fit(self) -> DataSection:
        if self.multi_label:
            several.check_data(self)
        elif self.labels:
            raise ValueError("labels are columns of several labels for an image; remove multi_label: false")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> Nested:
        """Without the options of several labels where an image has one class: earlier versions know none of them."""
        written: Nested = write(self)
        return written if self.multi_label else {k: v for k, v in written.items() if k not in ("multi_label", "labels")}

    @field_validator("mean", "std")
    @classmethod
    def _of_pixels(cls, value: Any, info: ValidationInfo) -> Any:
        numbers = value if isinstance(value, list) else [value] if isinstance(value, (int, float)) else []
        if any(abs(n) > 1 for n in numbers):
            raise ValueError("these are numbers for pixels from 0 to 1; divide those for pixels from 0 to 255 by 255")
        if info.field_name == "std" and any(n <= 0 for n in numbers):
            raise ValueError("every number must be above zero")
        return value


class ModelSection(Section):
    name: Text = Field(
        "cnn", description="cnn, torchvision:NAME, hf:NAME_OR_FOLDER, timm:NAME or python:MODULE:FUNCTION."
    )
    path: Text | None = Field(
        None,
        description="Folder with the module of a python: name. Default: the one in which it is found: on PYTHONPATH, else in the "
        "working directory.",
    )
    options: Annotated[Nested, AfterValidator(short_json)] = Field(
        default_factory=dict, description="Keyword arguments for the function that builds the model."
    )
    pretrained: bool | None = Field(
        None,
        description="true: start from the weights that the library of a torchvision:, timm: or hf: name publishes, with their "
        "normalisation, and their image size unless data.image_size is set; the last layer is new where there are other classes. "
        "init_from then names a file that has them already. Default: true for hf:, else false.",
    )
    init_from: Text | None = Field(
        None,
        description="File with trained weights (state_dict, checkpoint of another program, safetensors) or folder of a trainer, from "
        "which the model starts.",
    )
    init_key: Text | None = Field(
        None,
        description="Which of several networks in init_from is meant: its keys, and the beginning of its names, such as model_ema or "
        "state_dict.encoder_q.",
    )
    init_strict: bool = Field(
        True,
        description="true: every tensor in init_from must fit the model; false: load those that fit, and list the others.",
    )
    init_classes: list[Text] | None = Field(
        None,
        description="The classes of a trained network in the order of its outputs, where init_from does not name them, such as "
        "[angry, disgust, fear].",
    )
    head: Literal["keep", "replace"] | None = Field(
        None,
        description="The last layer. replace: it begins anew, whatever was loaded; keep: it stays. Default: it is replaced where a "
        "network was not told the number of classes and has another one.",
    )
    freeze: Freeze = FREEZE
    unfreeze: Positive | None = UNFREEZE
    features: Literal["auto", "float32", "float16", "off"] = FEATURES
    auxiliary_share: Annotated[Float, Field(ge=0)] | None = Field(
        None,
        description="What each auxiliary head of the network adds to the loss, a factor; 0: nothing. Default: 0.4 for one head, as for "
        "Inception v3, and 0.3 for two, as for GoogLeNet.",
    )


class ForkSection(Section):
    """What becomes of the learning rate where a child starts. Planning writes the place and the rate into it."""

    schedule: Literal["inherit", "restart", "constant", "cooldown"] = Field(
        "inherit",
        description="inherit: go on as the parent would; restart: warm up and decay anew, within the child's epochs; constant: keep the "
        "rate of the fork; cooldown: from that rate in a straight line to zero.",
    )
    start: Annotated[Float, Field(ge=0)] | None = Field(None, description="Set by planning: epochs at the fork.")
    end: Annotated[Float, Field(ge=0)] | None = Field(None, description="Set by planning: epochs at the child's end.")
    rate: Annotated[Float, Field(ge=0)] | None = Field(None, description="Set by planning: the rate at the fork.")


class TrainingSection(Section):
    epochs: Positive = Field(5, description="Epochs to train; in a child, additional epochs.")
    batch_size: Positive = Field(64, description="Global batch size, divided among the workers.")
    learning_rate: Annotated[Float, Field(gt=0)] = Field(0.003, description="Peak learning rate.")
    optimizer: Annotated[Text, WordOrCode("adamw", "sgd")] = Field(
        "adamw",
        description="adamw, sgd with momentum, or your own: python:MODULE:NAME, called with the groups of parameters and, if it takes them, "
        "lr, weight_decay, momentum.",
    )
    momentum: Annotated[Float, Field(ge=0, lt=1)] = Field(0.9, description="Momentum of sgd.")
    weight_decay: Annotated[Float, Field(ge=0)] = Field(
        0.02, description="Weight decay; not applied to biases and normalization layers."
    )
    schedule: Annotated[Text, WordOrCode("constant", "cosine", "step")] = Field(
        "cosine",
        description="How the learning rate changes after the warm-up: constant, cosine, step, or your own: python:MODULE:NAME, a function of "
        "the epochs that are done.",
    )
    schedule_epochs: Positive | None = Field(
        None, description="cosine and python: epoch at which the decay ends. Default: epochs. Children inherit it."
    )
    warmup_epochs: Annotated[Float, Field(ge=0)] = Field(
        1.0, description="The learning rate rises linearly for this many epochs."
    )
    min_lr_ratio: Annotated[Float, Field(ge=0, le=1)] = Field(
        0.01, description="cosine: the decay ends at this fraction of learning_rate, which stays from then on."
    )
    step_epochs: Positive = Field(
        10, description="step: multiply the learning rate by step_gamma every step_epochs epochs."
    )
    step_gamma: Annotated[Float, Field(gt=0, le=1)] = Field(0.1, description="step: factor of each step.")
    fork: ForkSection | None = Field(
        None,
        description="In a child: another schedule of the learning rate from the fork on, such as {schedule: cooldown}. Children inherit it.",
    )
    head_lr: Annotated[Float, Field(gt=0)] | None = HEAD_LR
    layer_decay: Annotated[Float, Field(gt=0, le=1)] | None = LAYER_DECAY
    ema: Annotated[Float, Field(gt=0, lt=1)] | None = EMA
    accumulate: Positive = ACCUMULATE
    label_smoothing: Annotated[Float, Field(ge=0, lt=1)] = Field(
        0.1, description="Label smoothing of the cross-entropy loss; 0: none."
    )
    grad_clip: Annotated[Float, Field(gt=0)] | None = Field(
        None, description="Clip the norm of the gradient to this value. Default: no clipping."
    )
    augment: AugmentSection = Field(
        default_factory=AugmentSection,  # type: ignore[arg-type]
        description="Random changes to the training images.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="bf16: mixed precision (autocast); auto: bf16 on GPU, fp32 on CPU."
    )
    channels_last: bool = Field(True, description="Use PyTorch's channels_last memory format.")
    compile: bool = Field(False, description="Use torch.compile. It takes time at the start and pays off in long runs.")
    best_metric: Text = Field(
        "val_acc",
        description="Validation metric that decides which epoch is the best: val_acc, macro_f1, balanced_accuracy, or one of metrics; of several "
        "labels for an image mAP, the default there, macro_f1 or val_acc.",
    )
    patience: Positive | None = Field(
        None,
        description="Stop after this many epochs without a better best_metric; epochs is then the most. In a sweep the controls "
        "train first, and all branches train as long as the longest control. Default: train all epochs.",
    )


FIRST = {"model": "name", "data": "path", "loss": "kind"}


def written_out(values: Nested) -> Nested:
    """``values`` with the short forms written out: ``model=cnn``, ``data=FOLDER`` and ``loss=focal`` mean the main option, and
    ``training.augment=python:MODULE:NAME`` that alone; ``none`` and ``trivial_augment`` work there, too.

    >>> written_out({"model": "cnn", "seed": 3})
    {'model': {'name': 'cnn'}, 'seed': 3}
    """
    written = {k: {FIRST[k]: v} if k in FIRST and isinstance(v, str) else v for k, v in values.items()}
    training = written.get("training")
    if isinstance(training, dict) and isinstance(word := training.get("augment"), str):
        written["training"] = {**training, "augment": augmentation.written_out(word)}
    return written


class Settings(Section):
    """The whole validated configuration of one experiment."""

    experiment: ExperimentSection = Field(default_factory=ExperimentSection)  # type: ignore[arg-type]
    seed: Seed = Field(0, description="Seed of the order of images, augmentation, initial weights and dropout.")
    data: DataSection = Field(default_factory=DataSection)  # type: ignore[arg-type]
    sampling: SamplingSection = Field(default_factory=SamplingSection)  # type: ignore[arg-type]
    model: ModelSection = Field(default_factory=ModelSection)  # type: ignore[arg-type]
    training: TrainingSection = Field(default_factory=TrainingSection)  # type: ignore[arg-type]
    loss: LossSection = Field(default_factory=LossSection)  # type: ignore[arg-type]
    metrics: dict[Annotated[Text, AfterValidator(check_metric)], Annotated[Text, WordOrCode()]] = Field(
        default_factory=dict,
        description="Your own metrics by name, each python:MODULE:NAME, a function of labels and probabilities that returns a number: "
        "{g_mean: python:MODULE:NAME}.",
    )
    checkpoint: CheckpointSection = Field(default_factory=CheckpointSection)  # type: ignore[arg-type]
    scaling: ScalingSection = Field(default_factory=ScalingSection)  # type: ignore[arg-type]
    trackers: TrackersSection = Field(default_factory=TrackersSection)  # type: ignore[arg-type]
    code_path: Text | None = Field(
        None,
        description="Folder with your code of python: names, apart from the model's (model.path). Default: the one in which it is found: "
        "on PYTHONPATH, else in the working directory.",
    )
    root: Text = Field("experiments", description="Folder in which experiments are created, or s3://BUCKET/PREFIX.")

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        return several.with_best_metric(written_out(values)) if isinstance(values, dict) else values

    @model_validator(mode="before")
    @classmethod
    def _called_after_its_data(cls, values: Any) -> Any:
        """Name and description come from the data where the user gives none."""
        if not isinstance(values, dict):
            return values
        data, own = values.get("data"), values.get("experiment", {})
        if not isinstance(data, dict) or not isinstance(own, dict):
            return values
        known = {"name": data_name(data.get("source"), data.get("path"))}
        known["description"] = (
            f"The built-in {data.get('source')}" if data.get("path") is None else f"Images of {data['path']}"
        )
        given = {key: value for key, value in own.items() if value is not None}
        return {**values, "experiment": {**known, **given}}

    @model_validator(mode="after")
    def _best_metric_is_known(self) -> Settings:
        if self.data.multi_label:
            given = {
                "training.augment.classes": self.training.augment.classes,
                "metrics": self.metrics,
                "model.init_classes": self.model.init_classes,
            }
            several.check(self.sampling, self.loss, given)
        known = [*(several.BEST if self.data.multi_label else METRICS), *self.metrics]
        if self.training.best_metric not in known:
            raise ValueError(
                f"training.best_metric is {short_repr(self.training.best_metric)}, not one of {', '.join(known)}"
            )
        return self

    @model_validator(mode="after")
    def _augmentation_fits(self) -> Settings:
        self.training.augment.check_loss(self.loss.kind)
        self.training.augment.check_views(self.data.views)
        return self

    @model_validator(mode="after")
    def _data_has_a_path(self) -> Settings:
        built_in = self.data.source in ("faces", "digits")
        if not built_in and self.data.path is None and target_of(self.data.source) is None:
            raise ValueError("data.path is missing: give a folder or file, or use data.source: faces (built in)")
        if built_in and self.data.path is not None:
            raise ValueError(
                f"data.path is set, but data.source: {self.data.source} is built in and reads no file. Remove one "
                "(on the command line: data.path= with nothing after it)"
            )
        return self

    def own_code(self) -> dict[str, str]:
        """Option → ``MODULE:NAME`` of the user's code, apart from the model."""
        training = self.training
        named = {
            "training.optimizer": training.optimizer,
            "training.schedule": training.schedule,
            "loss.kind": self.loss.kind,
        }
        policy = self.sampling.policy
        named |= {"data.source": self.data.source}
        named |= {
            "sampling.policy.kind": policy.kind if policy else "",
            "training.augment.own": training.augment.own or "",
        }
        named |= {f"metrics.{name}": value for name, value in self.metrics.items()}
        return {option: target for option, value in named.items() if (target := target_of(value)) is not None}

    def flat(self, **more: Any) -> dict[str, Any]:
        """The flat names of the specification, in its order, then ``settings`` with all options."""
        return {
            "experiment_name": self.experiment.name,
            "timestamp": more.pop("timestamp", None),
            "sampling_weights": self.sampling.weights,
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
