"""Networks of other libraries: ``hf:NAME_OR_FOLDER`` (image classifiers of transformers) and ``timm:NAME``.

The networks keep the names of their parameters, so their libraries can load our weights and we can load theirs. Only the call
is adapted: one tensor of images of any size in, logits out. :func:`preprocessing` says how they expect the pixels standardised.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from raysweep._paths import user_path
from raysweep._text import truncate
from raysweep.config import foreign
from raysweep.errors import ConfigError, did_you_mean

KINDS = ("hf", "timm")
# Whether builders load pretrained weights; without them only the shapes are right.
_with_weights: ContextVar[bool] = ContextVar("with_weights", default=True)


@dataclass(frozen=True)
class Preprocessing:
    """How a network expects its images: ``(pixel - mean) / std`` per channel (red, green, blue), pixels in [0, 255]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of(self, channels: int) -> tuple[list[float], list[float]]:
        """(mean, std) for images with that number of channels; other images get the average over the colours."""
        if channels == len(self.mean):
            return list(self.mean), list(self.std)
        return [sum(self.mean) / len(self.mean)] * channels, [sum(self.std) / len(self.std)] * channels


def with_weights() -> bool:
    """Whether a builder shall read the published weights."""
    return _with_weights.get()


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """In this context, networks are built without their pretrained weights."""
    token = _with_weights.set(False)
    try:
        yield
    finally:
        _with_weights.reset(token)


def split(name: str) -> tuple[str, str] | None:
    """``hf:x`` → ``("hf", "x")``; None for a name that this module does not build."""
    kind, _, rest = name.partition(":")
    return (kind, rest) if kind in KINDS and rest else None


def builder(kind: str, rest: str) -> Callable[..., nn.Module]:
    """The function that builds such a network; it is called as ``(num_classes=…, channels=…, **options)``.

    Raises:
        ConfigError: the library is not installed or has no such network.
    """
    return _hf(rest) if kind == "hf" else _timm(rest)


def labels(name: str) -> tuple[str, ...] | None:
    """The names that a pretrained network gives to its outputs, in their order; None where it gives none.

    Raises:
        ConfigError: as :func:`builder`.
    """
    found = split(name)
    if found is None or found[0] != "hf":
        return None
    names = _hf_config(found[1]).id2label or {}
    ordered = tuple(str(names[i]) for i in sorted(names))
    placeholders = tuple(f"LABEL_{i}" for i in range(len(ordered)))  # transformers' names for outputs without one
    return ordered if ordered and ordered != placeholders else None


def outputs(name: str) -> int | None:
    """How many outputs a pretrained network of transformers has; None for any other.

    Raises:
        ConfigError: as :func:`builder`.
    """
    found = split(name)
    return int(_hf_config(found[1]).num_labels) if found is not None and found[0] == "hf" else None


def preprocessing(name: str) -> Preprocessing | None:
    """How the network expects its images; None where it does not say.

    Raises:
        ConfigError: as :func:`builder`.
    """
    found = split(name)
    if found is None:
        return None
    return _hf_preprocessing(found[1]) if found[0] == "hf" else _timm_preprocessing(found[1])


def input_size(name: str) -> int | None:
    """Side in pixels of the images that the network was trained on; None where it does not say.

    Raises:
        ConfigError: as :func:`builder`.
    """
    found = split(name)
    if found is None:
        return None
    if found[0] == "hf":
        size = _hf_size(_hf_config(found[1]))
        return size[0] if size else _hf_side(found[1])
    config = timm_config(found[1])
    return int(config.input_size[1]) if config is not None else None


def _library(module: str, kind: str) -> Any:
    try:
        found = importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            f"model.name: '{kind}:…' needs {module}, which is not installed. Install it with: pip install 'raysweep[{kind}]'"
        ) from None
    if module == "transformers":  # its progress bars would break our display
        found.utils.logging.set_verbosity_error()
        found.utils.logging.disable_progress_bar()
    return found


def _adapted(
    model: nn.Module, logits: Callable[[torch.Tensor], torch.Tensor], size: tuple[int, int] | None
) -> nn.Module:
    """``model`` with another ``forward``: it takes images (n, channels, H, W) of any size and returns logits.

    Args:
        logits: computes them from images of the right size.
        size: (height, width) that ``logits`` needs; None where it takes any.
    """

    def forward(x: torch.Tensor) -> torch.Tensor:
        if size is not None and tuple(x.shape[-2:]) != size:
            x = functional.interpolate(x, size, mode="bilinear", antialias=True)
        return logits(x)

    model.forward = forward
    return model


# --- transformers -----------------------------------------------------------------------------------------------------


def _source(target: str) -> tuple[str, bool]:
    """(folder or name on the Hugging Face Hub, whether it is a folder, which is read without the network)."""
    folder = user_path(target)
    if folder.is_dir():
        return str(folder.resolve()), True
    if target.startswith((".", "/", "~")):
        raise ConfigError(
            f"model.name: there is no folder {truncate(target)}. Name the folder of a transformers image classifier."
        )
    return target, False


@lru_cache(maxsize=8)
def _hf_config(target: str) -> Any:
    transformers = _library("transformers", "hf")
    source, local = _source(target)
    try:
        return transformers.AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=local)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"model.name: hf:{truncate(target)} cannot be used ({_line(error)}). Name an image classifier on the Hugging Face "
            "Hub, or a folder that holds one."
        ) from None


def _hf(target: str) -> Callable[..., nn.Module]:
    config = _hf_config(target)

    def build(num_classes: int, channels: int, **options: Any) -> nn.Module:
        kind = _library("transformers", "hf").AutoModelForImageClassification
        source, local = _source(target)
        _check_nested(target, config, options)
        own = type(config).from_dict({**config.to_dict(), **options})
        if (
            own.num_labels != num_classes
        ):  # it gets a new head; setting the number also drops the names of the old outputs
            own.num_labels = num_classes
        try:
            if _with_weights.get():
                model = kind.from_pretrained(
                    source,
                    config=own,
                    ignore_mismatched_sizes=True,
                    trust_remote_code=False,
                    local_files_only=local,
                )
            else:
                model = kind.from_config(own, trust_remote_code=False)
        except OSError as error:
            raise ConfigError(
                f"model.name: hf:{truncate(target)} cannot be loaded ({_line(error)}). Check that its weights are complete, or "
                "name another model; without a network connection, hf:FOLDER names a copy."
            ) from None
        model = model.float()
        original = model.forward
        wanted = getattr(own, "num_channels", 3)

        def logits(x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = original(pixel_values=x.expand(-1, wanted, -1, -1) if x.shape[1] == 1 else x).logits
            return out

        return _adapted(model, logits, _hf_size(own))

    return build


def _check_nested(target: str, config: Any, options: Mapping[str, Any]) -> None:
    """Refuse a configuration file that hands timm, inside transformers, what could open a path or fetch an address.

    Raises:
        ConfigError: it does, and the user's options do not say the same.
    """
    told = {"model_args": getattr(config, "model_args", None), "architecture": getattr(config, "architecture", None)}
    told = {key: value for key, value in told.items() if value and key not in options}
    args = told.get("model_args")
    refused = foreign.refused_options("timm", args) if isinstance(args, Mapping) else []
    if ":" in str(told.get("architecture", "")):  # another repository or folder
        refused.append(f"architecture={truncate(told['architecture'], 100)}")
    if refused:
        raise ConfigError(
            f"model.name: the configuration of hf:{truncate(target)} sets options that can fetch an address, open a path or run code: "
            f"{', '.join(refused)}. If you trust it, repeat them in model.options, or name another model."
        )


def _hf_size(config: Any) -> tuple[int, int] | None:
    """The (height, width) that the images must have. A transformer has one; a convolutional network has none."""
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) and len(size) == 2 else None


@lru_cache(maxsize=8)
def _hf_form(target: str) -> Mapping[str, Any] | None:
    """How transformers prepares the images of a network; None where it does not say."""
    transformers = _library("transformers", "hf")
    source, local = _source(target)
    reader = transformers.image_processing_base.ImageProcessingMixin
    try:
        values: Mapping[str, Any] = reader.get_image_processor_dict(source, local_files_only=local)[0]
    except (OSError, ValueError):
        return None
    return values


def _hf_side(target: str) -> int | None:
    """The side to which transformers cuts images, in pixels."""
    values = _hf_form(target) or {}
    for key in ("crop_size", "size"):
        size = values.get(key)
        side = size.get("height", size.get("shortest_edge")) if isinstance(size, Mapping) else size
        if type(side) is int:
            return side
    return None


def _hf_preprocessing(target: str) -> Preprocessing | None:
    values = _hf_form(target)
    if values is None:
        return None  # the caller then uses the mean and deviation of the data
    factor = float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 1.0
    mean, std = values.get("image_mean"), values.get("image_std")
    if not values.get("do_normalize", True) or mean is None or std is None:
        mean, std = 0.0, 1.0
    return Preprocessing(_per_channel(mean, factor), _per_channel(std, factor))


def _per_channel(value: Any, factor: float) -> tuple[float, ...]:
    """One number, or one for each channel, in units of pixels in [0, 255]; ``factor`` is what transformers scales pixels by."""
    numbers = [value] * 3 if isinstance(value, (int, float)) else value
    return tuple(float(n) / factor for n in numbers)


def names_in_files(model: nn.Module) -> dict[str, str]:
    """Name of a tensor in the files of transformers → name in the network, where they differ: since version 5 transformers renames
    the tensors of many networks while it reads and writes them."""
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return {}
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # an earlier version
        return {}
    mine = model.state_dict()
    owner = {id(tensor): name for name, tensor in mine.items()}
    found = {name: owner.get(id(tensor)) for name, tensor in revert_weight_conversion(model, dict(mine)).items()}
    return {theirs: own for theirs, own in found.items() if own is not None and own != theirs}


# --- timm -------------------------------------------------------------------------------------------------------------


def _timm(name: str) -> Callable[..., nn.Module]:
    timm = _library("timm", "timm")
    architecture = name.partition(".")[0]
    if architecture not in _timm_names():
        raise ConfigError(
            f"model.name: timm has no network {truncate(name)!r}.{did_you_mean(architecture, _timm_names())} "
            "timm.list_models() returns all names."
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
                f"model.name: the weights of timm:{truncate(name)} cannot be fetched ({_line(error)}). Download them from "
                f"{_timm_address(name)} on another machine; then set model.pretrained=true and model.init_from=FILE."
            ) from None
        config = model.pretrained_cfg
        fixed = config.get("fixed_input_size") and "img_size" not in options
        return _adapted(model, model.forward, tuple(config["input_size"][1:]) if fixed else None)

    return build


@lru_cache(maxsize=1)  # it sorts more than a thousand names, and each branch builds a network
def _timm_names() -> tuple[str, ...]:
    return tuple(_library("timm", "timm").list_models())


def _timm_address(name: str) -> str:
    """Where the weights of a network are published."""
    config = timm_config(name)
    return f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else str(config.url)


def timm_config(name: str) -> Any:
    """What timm says of the published weights of a network; None where it says nothing.

    Raises:
        ConfigError: timm is not installed, or has no such weights.
    """
    try:
        return _library("timm", "timm").get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ConfigError(
            f"model.name: timm has no weights timm:{truncate(name)} ({_line(error)}). timm.list_pretrained() returns all names."
        ) from None


@lru_cache(maxsize=8)
def _timm_preprocessing(name: str) -> Preprocessing | None:
    config = timm_config(name)
    if config is None or config.mean is None or config.std is None:
        return None
    return Preprocessing(tuple(255.0 * m for m in config.mean), tuple(255.0 * s for s in config.std))


def _line(error: Exception) -> str:
    """The first line of a library's message, or the kind of error where there is no message."""
    return truncate(str(error).strip().partition("\n")[0] or type(error).__name__, 300)
