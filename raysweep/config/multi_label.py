"""What several labels for an image allow: the metrics, and which options make no sense or are not built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raysweep._text import Nested, join_names

if TYPE_CHECKING:
    from raysweep.config.settings import DataSection, Settings

MAP = "mAP"  # the mean over the labels of average precision
BEST = (MAP, "macro_f1", "val_acc")  # metrics that decide which epoch is the best
SELECT = (MAP, "macro_f1", "accuracy")  # by which a branch is chosen
LOSSES = ("cross_entropy", "class_weights", "focal")  # that have a binary form


def check_data(data: DataSection) -> None:
    """Raises ValueError where options of one class for each image are set beside several labels."""
    if not data.multi_label:
        if data.labels:
            raise ValueError("labels are columns of several labels for an image; remove multi_label: false")
        return
    given = {
        "folds": data.folds,
        "rename": data.rename,
        "drop": data.drop,
        "level": data.level,
        "min_val": data.min_val,
        "columns.label": data.columns is not None and data.labels and data.columns.label,
    }
    _refuse([f"data.{k}" for k, value in given.items() if value])
    if data.source in ("faces", "digits", "folder", "tar") or data.source.startswith("python:"):
        raise ValueError(
            f"source: {data.source} has one class for each image; several labels are read from a table (.csv, .tsv, .jsonl or .parquet)"
        )
    if len(set(data.labels)) != len(data.labels) or len(data.labels) == 1:
        raise ValueError(f"labels names {join_names(data.labels)}; give two columns or more, each once")


def with_best_metric(values: Nested) -> Nested:
    """The configuration as it is written, with the metric of several labels where none is given."""
    data, training = values.get("data"), values.get("training", {})
    several = isinstance(data, dict) and (data.get("labels") or data.get("multi_label") is True)
    if not several or not isinstance(training, dict):
        return values
    return {**values, "training": {"best_metric": MAP, **training}}


def check(settings: Settings) -> None:
    """Raises ValueError where an option has no meaning for several labels, or none that is built."""
    s, t, loss = settings.sampling, settings.training, settings.loss
    if not settings.data.multi_label:
        return
    if loss.kind not in LOSSES:
        raise ValueError(
            f"loss.kind: {loss.kind} is for one class for each image. With data.multi_label give {', '.join(LOSSES)}: each label then has the "
            "binary form of it"
        )
    if isinstance(loss.weights, str) and loss.weights != "balanced":
        raise ValueError("loss.weights: with data.multi_label give balanced, or a number for each label")
    given = {
        "sampling.holdout": s.holdout,
        "sampling.policy": s.policy,
        "sampling.follow": s.follow,
        "sampling.sample_per_class": s.sample_per_class,
        "sampling.shares": s.wanted().shares or any(p.wanted().shares for p in s.schedule),
        "sampling.schedule with linear": any(p.linear for p in s.schedule),
        "training.augment.classes": t.augment.classes,
        "metrics": settings.metrics,
        "model.init_classes": settings.model.init_classes,
    }
    _refuse([option for option, value in given.items() if value])


def _refuse(options: list[str]) -> None:
    if options:
        raise ValueError(
            f"{join_names(options)} {'is' if len(options) == 1 else 'are'} for one class for each image, and not built for data.multi_label; "
            "remove it"
        )
