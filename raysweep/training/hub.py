"""Networks of other libraries: ``hf:NAME_OR_FOLDER`` (transformers image classifiers) and ``timm:NAME``.

They keep their own names of parameters, so that their libraries read our checkpoints and we theirs; what is adapted is only
how they are called: uint8 images in, standardised as they were trained to expect, of any size; logits out.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from raysweep._paths import user_path
from raysweep._text import truncate
from raysweep.errors import ConfigError, did_you_mean

KINDS = ("hf", "timm")
# Whether builders load trained numbers, or make only shapes.
_with_weights: ContextVar[bool] = ContextVar("with_weights", default=True)


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects: ``(pixel - mean) / std`` per channel (red, green, blue), pixels in [0, 255]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of(self, channels: int) -> tuple[list[float], list[float]]:
        """(mean, std) for images of so many channels; gray ones get the average of the three."""
        if channels == len(self.mean):
            return list(self.mean), list(self.std)
        return [sum(self.mean) / len(self.mean)], [sum(self.std) / len(self.std)]


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Within this, networks are built without their trained numbers."""
    token = _with_weights.set(False)
    try:
        yield
    finally:
        _with_weights.reset(token)


def split(name: str) -> tuple[str, str] | None:
    """(kind, rest) of a name of this module, or None."""
    kind, _, rest = name.partition(":")
    return (kind, rest) if kind in KINDS and rest else None


def builder(kind: str, rest: str) -> Callable[..., nn.Module]:
    """What builds such a network: called as ``(num_classes=…, channels=…, **options)``.

    Raises:
        ConfigError: the library is not installed, or has no such network.
    """
    return _hf(rest) if kind == "hf" else _timm(rest)


def labels(name: str) -> tuple[str, ...] | None:
    """The classes that a trained network says its outputs are, in their order; None where it does not say.

    Raises:
        ConfigError: as :func:`builder`.
    """
    found = split(name)
    if found is None or found[0] != "hf":
        return None
    names = _hf_config(found[1]).id2label or {}
    ordered = tuple(str(names[i]) for i in sorted(names))
    return None if not ordered or all(n == f"LABEL_{i}" for i, n in enumerate(ordered)) else ordered


def preprocessing(name: str) -> Preprocessing | None:
    """What the network expects, where it says so.

    Raises:
        ConfigError: as :func:`builder`.
    """
    found = split(name)
    if found is None:
        return None
    return _hf_preprocessing(found[1]) if found[0] == "hf" else _timm_preprocessing(found[1])


def input_size(name: str) -> int | None:
    """Side in pixels of the images that a network was made for, where it says so."""
    found = split(name)
    if found is None:
        return None
    if found[0] == "hf":
        size = _hf_size(_hf_config(found[1]))
        return size and size[0]
    told = _library("timm", "timm").get_pretrained_cfg(found[1])
    return int(told.input_size[1]) if told is not None else None


def _library(module: str, kind: str) -> Any:
    try:
        found = importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            f"model.name: '{kind}:…' needs {module}, which is not installed. Install it with: pip install 'raysweep[{kind}]'"
        ) from None
    if module == "transformers":  # its bars and tables would tear our display
        found.utils.logging.set_verbosity_error()
        found.utils.logging.disable_progress_bar()
    return found


def _adapted(
    model: nn.Module, logits: Callable[[torch.Tensor], torch.Tensor], size: tuple[int, int] | None
) -> nn.Module:
    """The network, called with one tensor (n, channels, H, W) of any size, returning logits."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        if size is not None and tuple(x.shape[-2:]) != size:
            x = functional.interpolate(x, size, mode="bilinear", antialias=True)
        return logits(x)

    model.forward = forward
    return model


# --- transformers -----------------------------------------------------------------------------------------------------


def _place(target: str) -> tuple[str, dict[str, Any]]:
    """A local folder is read without any network."""
    folder = user_path(target)
    if folder.is_dir():
        return str(folder.resolve()), {"local_files_only": True}
    if target.startswith((".", "/", "~")):
        raise ConfigError(
            f"model.name: there is no folder {truncate(target)}. Name the folder of a transformers image classifier."
        )
    return target, {}


@lru_cache(maxsize=8)
def _hf_config(target: str) -> Any:
    transformers = _library("transformers", "hf")
    where, more = _place(target)
    try:
        return transformers.AutoConfig.from_pretrained(where, trust_remote_code=False, **more)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"model.name: hf:{truncate(target)} cannot be used ({_line(error)}).") from None


def _hf(target: str) -> Callable[..., nn.Module]:
    config = _hf_config(target)

    def build(num_classes: int, channels: int, **options: Any) -> nn.Module:
        kind = _library("transformers", "hf").AutoModelForImageClassification
        where, more = _place(target)
        own = type(config).from_dict({**config.to_dict(), **options})
        if own.num_labels != num_classes:  # another head; its names are not those of the data
            own.num_labels = num_classes
        try:
            if _with_weights.get():
                model = kind.from_pretrained(
                    where, config=own, ignore_mismatched_sizes=True, trust_remote_code=False, **more
                ).float()
            else:
                model = kind.from_config(own)
        except OSError as error:
            raise ConfigError(f"model.name: hf:{truncate(target)} cannot be loaded ({_line(error)}).") from None
        bare = model.forward
        wanted = getattr(own, "num_channels", 3)

        def logits(x: torch.Tensor) -> torch.Tensor:
            return bare(pixel_values=x.expand(-1, wanted, -1, -1) if x.shape[1] == 1 else x).logits

        return _adapted(model, logits, _hf_size(own))

    return build


def _hf_size(config: Any) -> tuple[int, int] | None:
    """The size that the images must have: of a transformer its own, of a convolutional network none."""
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) and len(size) == 2 else None


@lru_cache(maxsize=8)
def _hf_preprocessing(target: str) -> Preprocessing | None:
    transformers = _library("transformers", "hf")
    where, more = _place(target)
    try:
        values, _ = transformers.image_processing_base.ImageProcessingMixin.get_image_processor_dict(where, **more)
    except (OSError, ValueError, json.JSONDecodeError):
        return None  # it does not say: the data's own mean and deviation are used
    factor = float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 1.0
    mean, std = values.get("image_mean"), values.get("image_std")
    if not values.get("do_normalize", True) or mean is None or std is None:
        mean, std = [0.0] * 3, [1.0] * 3
    mean, std = ([float(v)] * 3 if isinstance(v, (int, float)) else [float(x) for x in v] for v in (mean, std))
    return Preprocessing(tuple(m / factor for m in mean), tuple(s / factor for s in std))


# --- timm -------------------------------------------------------------------------------------------------------------


def _timm(name: str) -> Callable[..., nn.Module]:
    timm = _library("timm", "timm")
    architecture = name.partition(".")[0]
    if architecture not in timm.list_models():
        raise ConfigError(
            f"model.name: timm has no network {truncate(name)!r}.{did_you_mean(architecture, timm.list_models())}"
        )

    def build(num_classes: int, channels: int, pretrained: bool = False, **options: Any) -> nn.Module:
        try:
            model = timm.create_model(
                name,
                pretrained=pretrained and _with_weights.get(),
                num_classes=num_classes,
                in_chans=channels,
                **options,
            )
        except OSError as error:
            raise ConfigError(
                f"model.name: the weights of timm:{truncate(name)} cannot be loaded ({_line(error)})."
            ) from None
        told = model.pretrained_cfg
        fixed = told.get("fixed_input_size") and "img_size" not in options
        return _adapted(model, model.forward, tuple(told["input_size"][1:]) if fixed else None)

    return build


@lru_cache(maxsize=8)
def _timm_preprocessing(name: str) -> Preprocessing | None:
    timm = _library("timm", "timm")
    told = timm.get_pretrained_cfg(name)
    if told is None or told.mean is None or told.std is None:
        return None
    return Preprocessing(tuple(255.0 * m for m in told.mean), tuple(255.0 * s for s in told.std))


def _line(error: Exception) -> str:
    return truncate(str(error).strip().partition("\n")[0] or type(error).__name__, 300)
