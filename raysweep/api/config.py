"""The flat configuration of the specification, and what functions of the Python interface take in common.

>>> config = create_experiment_config("my_experiment", sampling_weights={"disgust": 3.0}, num_epochs=2)
>>> config["experiment_name"], config["sampling_weights"]
('my_experiment', {'disgust': 3.0})
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from raysweep._text import Nested
from raysweep.api.given import Reference, text, usual
from raysweep.config import load as load_config
from raysweep.config.settings import Settings, written_out
from raysweep.errors import ConfigError, did_you_mean

# Flat keyword → its dotted key in the settings.
_FLAT = {
    "experiment_name": "experiment.name",
    "experiment_description": "experiment.description",
    "model_name": "model.name",
    "batch_size": "training.batch_size",
    "learning_rate": "training.learning_rate",
    "num_epochs": "training.epochs",
    "sample_per_class": "sampling.sample_per_class",
    "batch_checkpoint_frequency": "checkpoint.every_n_batches",
    "seed": "seed",
    "root": "root",
}
_OTHERS = (
    "sampling_weights",
    "use_full_dataset",
    "resume_from_checkpoint",
    "data",
    "settings",
    "timestamp",
    "auto_checkpoint_on_interrupt",
    "max_batch_checkpoints",
)


def create_experiment_config(
    experiment_name: str, sampling_weights: str | Mapping[str, float | str] | None = None, **kwargs: Any
) -> dict[str, Any]:
    """A configuration for :func:`run_experiment`, as a flat dictionary.

    Args:
        experiment_name: start of the folder's name.
        sampling_weights: class → number ≥ 0, or a share such as "35%"; classes not named get 1.0, in a child the parent's
            weight. Or a rule: "balanced", "sqrt", {"power": 0.5}, {"effective": 0.9999}.
        **kwargs: ``num_epochs`` (in a child: additional), ``batch_size``, ``learning_rate``, ``model_name``,
            ``sample_per_class``, ``use_full_dataset`` (True ignores sample_per_class), ``resume_from_checkpoint``,
            ``experiment_description``, ``seed``, ``root``; ``data``: a path or a mapping of data options (default: the
            built-in faces); ``settings``: a nested mapping of any other options.

    Raises:
        ConfigError: an unknown keyword.
    """
    _known(kwargs, "create_experiment_config has no keyword")
    return {"experiment_name": experiment_name, "sampling_weights": copied(sampling_weights), **kwargs}


def _known(keys: Iterable[str], what: str) -> None:
    """Raises ConfigError for a key that is not one of the flat configuration."""
    for key in keys:
        if key not in _FLAT and key not in _OTHERS:
            raise ConfigError(
                f"{what} {key!r}.{did_you_mean(str(key), [*_FLAT, *_OTHERS])} Options without a keyword go into settings={{'training': {{...}}}}."
            )


def copied(weights: str | Mapping[str, Any] | None) -> str | Nested:
    """Weights or a rule, which later changes of the given mapping do not reach."""
    return weights if isinstance(weights, str) else dict(weights or {})


def nested(config: Mapping[str, Any]) -> Nested:
    """The flat configuration as nested settings, without the sampling weights.

    Raises:
        ConfigError: it has an unknown key.
    """
    _known(config, "The configuration has an unknown key")
    result = named(config.get("settings") or {})
    for flat, dotted in _FLAT.items():
        if config.get(flat) is not None:
            value: Any = config[flat]
            for part in reversed(dotted.split(".")):
                value = {part: value}
            result = load_config.merge(result, value)
    if config.get("use_full_dataset"):
        result = load_config.merge(result, {"sampling": {"sample_per_class": None}})
    return load_config.merge(result, _of_data(config.get("data")))


def _of_data(data: Reference | Mapping[str, Any] | None) -> Nested:
    if data is None:
        return {}
    return {"data": dict(data) if isinstance(data, Mapping) else {"path": str(data)}}


def named(settings: Mapping[str, Any]) -> Nested:
    """Nested settings, in which the name of a class or a function stands in its place: ``{"model": Net}`` in a notebook means
    ``{"model": {"name": "python:__main__:Net"}}``.

    Raises:
        ConfigError: it has no name that can be found again.
    """
    return written_out({key: _named(value, key) for key, value in settings.items()})


def _named(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return {k: _named(v, f"{key}.{k}") for k, v in value.items()}
    if not callable(value):
        return os.fspath(value) if isinstance(value, os.PathLike) else value
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "<")
    if module is None or "<" in name:
        raise ConfigError(
            f"{key}: {type(value).__name__} without a name that other processes could find. Give a class or a function that is defined at "
            "the top level of a module or of a notebook's cell, or its name: 'python:MODULE:NAME'."
        )
    return f"python:{module}:{name}"


def settings_of(
    config: Reference | Mapping[str, Any] | None, data: Reference | Mapping[str, Any] | None, more: Mapping[str, Any]
) -> Settings:
    """Checked settings of a run.

    Args:
        config: a YAML file, the name of an example, or nested settings; None: the defaults, and the built-in faces.
        data: a folder or a list of images, or the options of ``data``.
        more: nested settings that override the others.

    Raises:
        ConfigError: lists every mistake.
    """
    over = load_config.merge(_of_data(data), more)
    usual_root = {"root": usual()} if os.environ.get("RAYSWEEP_ROOT") else {}
    if isinstance(config, (str, os.PathLike)):
        return load_config.load(text(config), (), {**usual_root, **over})
    values = {**usual_root, **load_config.merge(named(config or {}), over)}
    values.setdefault("data", {"source": "faces"})
    return load_config.validate(values, "the settings given")
