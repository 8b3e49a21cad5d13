"""What several labels for an image allow: the metrics, and which options make no sense or are not built."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from raysweep._text import Nested, join_names
from raysweep.config.treatment import LossSection, SamplingSection
from raysweep.errors import ConfigError
from raysweep.label_sets import MAP

MULTI_LABEL: bool = Field(
    False,
    description="true: an image has several labels, or none. A list's column of the class then holds a|b, a;b or a list; or there is a "
    "column of 0 and 1 for each label.",
)
LABELS: list[str] = Field(
    default_factory=list, description="The columns of 0 and 1 of a list, one for each label; means multi_label."
)
BEST = (MAP, "macro_f1", "val_acc")  # metrics that decide which epoch is the best
SELECT = (MAP, "macro_f1", "accuracy")  # by which a branch is chosen
NOT_WITH_DATA = ("folds", "level", "min_val")  # options of data that are for one class for each image
_BOOL = TypeAdapter(bool)
LOSSES = ("cross_entropy", "class_weights", "focal")  # that have a binary form


def check_data(data: Any) -> None:
    """Raises ValueError where options of one class for each image are set beside several labels; ``data`` is a DataSection, whose file
    imports this one."""
    labels, source = data.labels, data.source
    twice = ["data.columns.label"] if labels and data.columns is not None and data.columns.label else []
    if data.drop or data.rename:
        raise ValueError(
            f"{'drop' if data.drop else 'rename'} is for one class for each image, and not built for data.multi_label. Change the labels in the "
            "table; where one means that an image has none, such as No Finding, write an empty cell"
        )
    _refuse([f"data.{name}" for name in NOT_WITH_DATA if getattr(data, name)] + twice)
    if source in ("faces", "digits", "folder", "tar") or source.startswith("python:"):
        raise ValueError(
            f"source: {source} has one class for each image; several labels are read from a table (.csv, .tsv, .jsonl or .parquet)"
        )
    if len(set(labels)) != len(labels) or len(labels) == 1:
        raise ValueError(
            f"labels names {join_names(labels)}; give two columns or more, each once; a single yes or no is two classes, whose column "
            "data.columns.label names"
        )


def asked_for(data: Any) -> bool:
    """Whether the section ``data``, as it is written, says that an image has several labels: also by a text that stands for yes."""
    if not isinstance(data, dict):
        return False
    with contextlib.suppress(ValidationError):  # which is said where the section is checked
        return bool(data.get("labels")) or _BOOL.validate_python(data.get("multi_label", False))
    return False


def with_best_metric(values: Nested) -> Nested:
    """The configuration as it is written, with the metric of several labels where none is given."""
    data, training = values.get("data"), values.get("training", {})
    if not asked_for(data) or not isinstance(training, dict):
        return values
    return {**values, "training": {"best_metric": MAP, **training}}


def check(sampling: SamplingSection, loss: LossSection, given: Mapping[str, object]) -> None:
    """Raises ValueError where an option has no meaning for several labels, or none that is built.

    Args:
        given: other options that are refused → their values.
    """
    if loss.kind not in LOSSES:
        raise ValueError(
            f"loss.kind: {loss.kind} is for one class for each image. With data.multi_label give {', '.join(LOSSES)}: each label then has the "
            "binary form of it"
        )
    if isinstance(loss.weights, str) and loss.weights != "balanced":
        raise ValueError("loss.weights: with data.multi_label give balanced, or a number for each label")
    options = {
        "sampling.holdout": sampling.holdout,
        "sampling.policy": sampling.policy,
        "sampling.follow": sampling.follow,
        "sampling.sample_per_class": sampling.sample_per_class,
        "sampling.shares": sampling.wanted().shares or any(p.wanted().shares for p in sampling.schedule),
        "sampling.schedule with linear": any(p.linear for p in sampling.schedule),
        **given,
    }
    _refuse([option for option, value in options.items() if value])


def grid_of(grid: Any, several: bool) -> Any:
    """A Grid, whose file imports this one, for data with several labels for an image, or with one class.

    Raises:
        ConfigError: it asks for what such data do not have.
    """
    asked = {"metric": grid.metric, "select": grid.select}
    if not several:
        if MAP in asked.values():
            raise ConfigError(
                "mAP is a metric of several labels for an image (data.multi_label); this parent has one class for each."
            )
        return grid
    known = {"metric": BEST, "select": SELECT}
    new = {name: MAP for name in known if name not in grid.model_fields_set}
    wrong = [name for name, value in asked.items() if name not in new and value not in known[name]]
    if wrong:
        raise ConfigError(f"{wrong[0]}: {asked[wrong[0]]}: with data.multi_label give {', '.join(known[wrong[0]])}.")
    if grid.scheduler == "race":
        raise ConfigError("scheduler: race is not built for data.multi_label. Use scheduler: none, with seeds.")
    return grid.model_copy(update=new)


def _refuse(options: list[str]) -> None:
    if options:
        raise ValueError(
            f"{join_names(options)} {'is' if len(options) == 1 else 'are'} for one class for each image, and not built for data.multi_label; "
            "remove it"
        )
