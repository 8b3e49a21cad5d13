"""What a trained network says of itself besides its weights: its classes, and how its pixels were standardised.

Checkpoints and exported safetensors of raysweep say both; networks of transformers and timm say it in their configuration; a bare
state_dict says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raysweep._text import join_names, truncate
from raysweep.config.settings import Settings
from raysweep.data.cache import Dataset
from raysweep.errors import ConfigError
from raysweep.training import hub, others, published
from raysweep.training.hub import Preprocessing

# For pixels in [0, 255], red, green, blue.
_KNOWN = {
    "imagenet": Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "none": Preprocessing((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),  # only scaled to [0, 1]
    "half": Preprocessing((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),  # scaled to [-1, 1]
}


@dataclass(frozen=True)
class Origin:
    """What the file or the network that training starts from says of itself."""

    source: str = ""  # what it is called in messages; empty where training starts from random weights
    classes: tuple[str, ...] | None = None  # in the order of its outputs
    pixels: Preprocessing | None = None
    of_pixels: str = ""  # who says how pixels are standardised


def read(settings: Settings) -> Origin:
    """What the origin of an experiment's first weights says.

    Raises:
        NotFoundError, CheckpointError: ``model.init_from`` cannot be read. ConfigError: the library has no such weights.
    """
    model = settings.model
    known = published.of(model.name, model.options) if published.is_asked(model) else None
    if not model.init_from:
        if known is None:
            return Origin("", _classes(model.init_classes))
        return Origin(known.title, _classes(model.init_classes) or known.classes, known.pixels, known.title)
    said = others.said(model.init_from)
    pixels, of_pixels = _pixels(said.pixels), model.init_from
    classes = _classes(model.init_classes) or _classes(said.classes)
    if known is not None and model.pretrained:
        classes = classes or known.classes
        if pixels is None:
            pixels, of_pixels = known.pixels, known.title
    return Origin(model.init_from, classes, pixels, of_pixels)


def _classes(value: Any) -> tuple[str, ...] | None:
    return (
        tuple(value) if isinstance(value, (list, tuple)) and value and all(isinstance(c, str) for c in value) else None
    )


def _pixels(value: Any) -> Preprocessing | None:
    if not isinstance(value, Mapping):
        return None
    mean, std = ([*numbers] if isinstance(numbers := value.get(key), list) else [] for key in ("mean", "std"))
    for numbers in (mean, std):
        if len(numbers) not in (1, 3) or not all(type(n) in (int, float) for n in numbers):
            return None
    if len(mean) != len(std) or min(std) <= 0:
        return None
    return Preprocessing(tuple(map(float, mean)), tuple(map(float, std)))


def moments(settings: Settings, data: Dataset, origin: Origin) -> tuple[list[float], list[float]]:
    """(mean, std) per channel for standardising pixels in [0, 255]: as the user says, else as the trained network does, else
    those of the training images.

    Raises:
        ConfigError: the numbers are not one for each channel.
    """
    channels = data.shape[2]
    known = origin.pixels or hub.preprocessing(settings.model.name)
    default = (list(data.mean), list(data.std)) if known is None else known.of(channels)
    return (
        _said("mean", settings.data.mean, list(data.mean), default[0], channels),
        _said("std", settings.data.std, list(data.std), default[1], channels),
    )


def _said(key: str, value: Any, of_data: list[float], default: list[float], channels: int) -> list[float]:
    """What the user says of ``data.mean`` or ``data.std``, for each channel and for pixels in [0, 255]."""
    if value is None:
        return default
    if value == "dataset":
        return of_data
    if isinstance(value, str):
        return _KNOWN[value].of(channels)[key == "std"]
    numbers = [value] * channels if isinstance(value, (int, float)) else list(value)
    if len(numbers) == 1:
        numbers *= channels
    if channels == 1:
        numbers = [sum(numbers) / len(numbers)]
    if len(numbers) != channels:
        raise ConfigError(
            f"data.{key} has {len(numbers)} numbers, but the images have {channels} channels. Give one number for each."
        )
    return [255.0 * n for n in numbers]


def of_pixels(settings: Settings, origin: Origin, mean: list[float], std: list[float]) -> str | None:
    """What is to be said of the standardisation; None where training starts from random weights, or the user says it all."""
    if not (settings.model.init_from or settings.model.pretrained) or settings.data.mean is not None:
        return None
    numbers = f"mean {_numbers(mean)}, standard deviation {_numbers(std)}, for pixels from 0 to 1"
    if origin.pixels is not None:
        return f"pixels are standardised as {origin.of_pixels} says ({numbers})"
    whose = "the training images" if hub.preprocessing(settings.model.name) is None else settings.model.name
    return (
        f"{origin.source} does not say how its network's pixels were standardised; used are the values of {whose} ({numbers}). "
        "If it was trained otherwise, set data.mean to imagenet, half, none or numbers"
    )


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{v / 255:.3f}" for v in values)


def of_outputs(origin: Origin, classes: tuple[str, ...]) -> str | None:
    """What is to be said of the order of the outputs of a last layer that is taken over; None where there is no doubt."""
    mine = truncate(join_names(classes), 500)
    if origin.classes is None:
        return (
            f"{origin.source} does not name its outputs; they are taken in this order: {mine}. If it was trained with another "
            "order, name it with model.init_classes=[...]; with model.head=replace the last layer begins anew"
        )
    if origin.classes == classes:
        return None
    theirs = truncate(join_names(origin.classes), 500)
    from raysweep.data.order import matched

    if matched(origin.classes, classes) == classes:
        return f"the outputs of {origin.source} are {theirs}; they are taken for {mine}"
    return (
        f"the outputs of {origin.source} are {theirs}, but the classes are {mine}: its last layer is taken over, in this order. "
        "If that is not meant, model.head=replace lets it begin anew"
    )
