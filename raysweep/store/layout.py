"""All names of files and folders on disk. No other module spells the name of a file of an experiment."""

from __future__ import annotations

import re
from datetime import datetime
from typing import NamedTuple

CONFIG = "experiment_config.json"
CHANGES = "experiment_changes.log"
LINEAGE = "lineage.jsonl"
DAMAGED_LINES = "lineage_damaged.txt"  # lines that were no events, as they stood in the file before
MANIFEST = "manifest.json"
BEST = "best_checkpoint.pt"
FROZEN = "frozen.pt"  # the tensors of the network that its checkpoints do not hold, because they stay as they are
REPORT = "classification_report.txt"
CONFUSION = "confusion_matrix_benchmark.png"
HISTORY_CSV = "training_history.csv"
PROFILE = "profile.json"  # what the time was spent on, where that was asked for
HISTORY_PNG = "training_history.png"
PREDICTIONS = "val_predictions.parquet"
VAL_IMAGES = "val_images.parquet"  # which images these are, in the same order
ROLES = "image_roles.parquet"  # what it and its ancestors were trained on, is validated on, and what is sealed
TENSORBOARD = "tensorboard"  # a folder of event files
TRACKER_PREFIX = "tracker_"
CODE = "code"  # a folder of the source files of the model's python: name
FOLDERS = (TENSORBOARD, CODE)  # all of them are flat
WANDB = "wandb"  # W&B's folder; what is in it is named by W&B
LOCK = ".writer.lock"
FENCE = ".writer.fence"  # what the kernel's locks are on; it stays
TEMP_PREFIX = ".tmp-"

EVALUATIONS = "evaluations"
EVALUATION = "evaluation.json"
EVALUATION_CSV = "evaluation.csv"
EVALUATION_CONFUSION = "confusion_matrix.png"
CONTROL_CONFUSION = "confusion_matrix_control.png"
RELIABILITY = "reliability.png"

SWEEPS = "sweeps"
GROUPS = (SWEEPS, EVALUATIONS)  # folders of a root that hold folders; every other folder is an experiment's
SWEEP = "sweep.json"
FOLDS = "folds.json"
HUNT = "hunt.json"
HUNT_PAGE, HUNT_HTML = "hunt.md", "hunt.html"
RESULTS = "results.csv"
EFFECTS_CSV = "effects.csv"
EFFECTS_PNG = "effects.png"
VERDICT = "verdict.json"
PAGE = "report.html"
TRACEBACKS = "tracebacks"  # a folder of one text file per branch that failed
CACHES = ".raysweep"
IMAGE_CACHE = "cache"
INDEX = "index.sqlite"

TIME_FORMAT = "%Y%m%d_%H%M%S"
_EPOCH = re.compile(r"checkpoint_epoch_([0-9]{1,9})(?:_batch_([0-9]{1,9}))?\.pt")
_MODEL = re.compile(r"epoch_([0-9]{1,9})_model\.pt")
_ID = re.compile(r"(?P<name>.+)_(?P<time>\d{8}_\d{6})(?:_(?P<n>\d+))?")


class Position(NamedTuple):
    """Where in the training a checkpoint was taken: in running epoch ``epoch`` after ``batch`` batches, or, with
    ``batch`` None, at that epoch's end."""

    epoch: int
    batch: int | None

    @property
    def order(self) -> tuple[int, float]:
        """Sorts positions by time: a batch of epoch 3 comes before epoch 3's end."""
        return (self.epoch, float("inf") if self.batch is None else self.batch)


def checkpoint_name(position: Position) -> str:
    """The file name of a checkpoint.

    >>> checkpoint_name(Position(3, None)), checkpoint_name(Position(3, 200))
    ('checkpoint_epoch_3.pt', 'checkpoint_epoch_3_batch_200.pt')
    """
    batch = "" if position.batch is None else f"_batch_{position.batch}"
    return f"checkpoint_epoch_{position.epoch}{batch}.pt"


def model_name(epoch: int) -> str:
    """The bare state_dict of an epoch."""
    return f"epoch_{epoch}_model.pt"


def parse_model_name(name: str) -> int | None:
    """The epoch of a bare state_dict's file name, or None for any other name.

    >>> parse_model_name("epoch_3_model.pt"), parse_model_name("best_checkpoint.pt")
    (3, None)
    """
    match = _MODEL.fullmatch(name)
    return int(match[1]) if match else None


def tracker_name(tracker: str) -> str:
    """``tracker_mlflow.json``: the experiment's name in a tracker, and how much of the history the tracker has."""
    return f"{TRACKER_PREFIX}{tracker}.json"


def code_name(path: str, sha256: str) -> str:
    """The name, within the folder of code, of one state of a source file; another state of it gets another name.

    >>> code_name("models/resnet.py", "3f2a9c81d0e4b7")
    'models.resnet.3f2a9c81d0e4.py'
    """
    stem = path.removesuffix(".py").replace("/", ".")
    return f"{stem[-200:]}.{sha256[:12]}.py"


def parse_checkpoint_name(name: str) -> Position | None:
    """The position that a checkpoint's file name states, or None for any other name.

    >>> parse_checkpoint_name("checkpoint_epoch_3_batch_200.pt")
    Position(epoch=3, batch=200)
    >>> parse_checkpoint_name("best_checkpoint.pt")
    """
    match = _EPOCH.fullmatch(name)
    return Position(int(match[1]), int(match[2]) if match[2] else None) if match else None


def split_id(experiment_id: str) -> tuple[str, str | None]:
    """(name, time as YYYYMMDD_HHMMSS) of an id; the time is None if the id has none.

    >>> split_id("base_20261124_233215_2"), split_id("base")
    (('base', '20261124_233215'), ('base', None))
    """
    match = _ID.fullmatch(experiment_id)
    return (match["name"], match["time"]) if match else (experiment_id, None)


def make_id(name: str, when: datetime, attempt: int = 1) -> str:
    """``<name>_<YYYYMMDD_HHMMSS>``, with ``_2``, ``_3`` … for later attempts in the same second.

    >>> make_id("base", datetime(2026, 11, 24, 23, 32, 15), attempt=2)
    'base_20261124_233215_2'
    """
    base = f"{name}_{when.strftime(TIME_FORMAT)}"
    return base if attempt == 1 else f"{base}_{attempt}"
