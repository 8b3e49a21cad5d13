"""Models by name: ``cnn`` (ours), ``torchvision:NAME``, ``hf:NAME_OR_FOLDER``, ``timm:NAME``, ``python:MODULE:FUNCTION``."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from raysweep._paths import user_path
from raysweep._text import short_repr, truncate
from raysweep.config.settings import ModelSection
from raysweep.errors import CheckpointError, ConfigError, NotFoundError, did_you_mean
from raysweep.store import checkpoint
from raysweep.training import hub


def _block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def cnn(
    num_classes: int, channels: int, widths: tuple[int, int, int, int] = (32, 32, 96, 224), dropout: float = 0.0
) -> nn.Module:
    """A small network for small images: a strided 5×5 stem (most of the cost of 48-pixel images is their first layers),
    then three stages of 3×3 convolutions, the deeper two with a residual block.

    Args:
        widths: channels of stem and stages.
        dropout: before the classifier. Dropout draws depend on the number of workers; 0 keeps runs comparable.
    """
    a, b, c, d = widths
    return nn.Sequential(
        _block(channels, a, 5, 2),
        _block(a, b),
        nn.MaxPool2d(2, ceil_mode=True),
        _block(b, c),
        _Residual(_block(c, c)),
        nn.MaxPool2d(2, ceil_mode=True),
        _block(c, d),
        _Residual(_block(d, d)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout) if dropout else nn.Identity(),
        nn.Linear(d, num_classes),
    )


class _RepeatGray(nn.Module):
    """Feed gray images to a network that wants three channels."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x.expand(-1, 3, -1, -1))


def _torchvision(name: str) -> Callable[..., nn.Module]:
    from torchvision import models  # 3.5 s to import: only when it is asked for

    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"model.name: torchvision has no classifier {name!r}.{did_you_mean(name, known)}")

    def build(num_classes: int, channels: int, **options: Any) -> nn.Module:
        model = models.get_model(name, num_classes=num_classes, **options)
        return _RepeatGray(model) if channels == 1 else model

    return build


def _python(target: str) -> Callable[..., nn.Module]:
    module_name, _, function = target.partition(":")
    if not module_name or not function:
        raise ConfigError(
            f"model.name: 'python:{target}' must be python:MODULE:FUNCTION, such as python:mynets.models:build."
        )
    try:
        found = getattr(importlib.import_module(module_name), function)
    except ImportError as error:
        raise ConfigError(
            f"model.name: the module {module_name!r} cannot be imported ({error}). Is it on PYTHONPATH?"
        ) from None
    except AttributeError:
        raise ConfigError(f"model.name: the module {module_name!r} has no function {function!r}.") from None
    if not callable(found):
        raise ConfigError(f"model.name: {target} is not a function.")
    return found


def build(name: str, options: dict[str, Any], num_classes: int, channels: int) -> nn.Module:
    """The network ``name``; it maps float (n, channels, H, W) to logits (n, num_classes).

    A Python function is called as ``function(num_classes=…, channels=…, **options)``.

    Raises:
        ConfigError: unknown name, options it does not take, or something that is no module.
    """
    kind, _, rest = name.partition(":")
    if name == "cnn":
        builder: Callable[..., nn.Module] = cnn
    elif kind == "torchvision" and rest:
        builder = _torchvision(rest)
    elif hub.split(name) is not None:
        builder = hub.builder(kind, rest)
    elif kind == "python" and rest:
        builder = _python(rest)
    else:
        raise ConfigError(
            f"model.name: {name!r} is not known. Use cnn, torchvision:NAME, hf:NAME_OR_FOLDER, timm:NAME or "
            "python:MODULE:FUNCTION."
        )
    try:
        model = builder(num_classes=num_classes, channels=channels, **options)
    except TypeError as error:
        takes = ", ".join(p for p in inspect.signature(builder).parameters if p not in ("num_classes", "channels"))
        raise ConfigError(
            f"model.options do not fit {name} ({truncate(error)}). It takes: {takes or 'none'}."
        ) from error
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"model.options do not fit {name} ({truncate(error)}).") from error
    except (ArithmeticError, LookupError, AttributeError, AssertionError, MemoryError) as error:
        raise ConfigError(f"model.options do not fit {name} ({type(error).__name__}: {truncate(error)}).") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.name: {name} returned {type(model).__name__}, not a torch.nn.Module.")
    return model


def moments(name: str, data: Any) -> tuple[list[float], list[float]]:
    """(mean, std) per channel by which pixels are standardised: what a trained network expects, else those of the data."""
    own = hub.preprocessing(name)
    return (list(data.mean), list(data.std)) if own is None else own.of(data.shape[2])


class _NoMemory(TorchFunctionMode):
    """Parameters are made without memory; the few numbers that a network computes while it is built stay numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def outline(name: str, options: dict[str, Any], num_classes: int, channels: int) -> nn.Module:
    """The network of :func:`build` with the shapes of its parameters and nothing in them, however large it is.

    A Python function is not to be trusted with that; what it returns is a whole network.
    """
    if name.startswith("python:"):
        return build(name, options, num_classes, channels)
    with hub.shapes_only(), _NoMemory(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is not there to be initialised
        return build(name, options, num_classes, channels)


def try_out(model: nn.Module, shape: tuple[int, int, int], num_classes: int) -> None:
    """Run one image through, so that a network that does not fit the data is found before anything is made.

    Raises:
        ConfigError: it fails, or its output is not (1, num_classes).
    """
    height, width, channels = shape
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            out = model(torch.zeros(1, channels, height, width))
    except Exception as error:
        raise ConfigError(
            f"The model cannot take images of {height}×{width} with {channels} channel{'s' * (channels > 1)}: "
            f"{str(error).splitlines()[0]}. Choose another model or data.image_size."
        ) from None
    finally:
        model.train(was_training)
    if not isinstance(out, torch.Tensor) or tuple(out.shape) != (1, num_classes):
        found = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise ConfigError(f"The model returns {found} for one image; logits of shape (1, {num_classes}) are needed.")


def load_weights(model: nn.Module, state: Any, source: str | Path) -> None:
    """Load a bare state_dict (or the ``model_state_dict`` of a checkpoint) strictly.

    Raises:
        CheckpointError: missing or unexpected keys, or other shapes, all of them named.
    """
    model.load_state_dict(fitting_weights(model, state, source))


def initialise(model: nn.Module, section: ModelSection) -> str | None:
    """Start the weights from the file that ``model.init_from`` names; returns what did not fit, where that is allowed.

    Raises:
        NotFoundError, CheckpointError: there is no such file, it is damaged, or it does not fit: missing or unexpected keys
            and other shapes are named; without ``init_strict`` only where nothing fits.
    """
    if not section.init_from:
        return None
    state = _state_dict(_read_init(section.init_from), section.init_from)
    if section.init_strict:
        load_weights(model, state, section.init_from)
        return None
    mine = model.state_dict()
    told = misfits(mine, state)
    fitting = {k: v for k, v in state.items() if k in mine and _kind(v) == _kind(mine[k])}
    if not fitting:
        raise CheckpointError(f"Nothing in {section.init_from} fits the model ({told}). Is it the same architecture?")
    model.load_state_dict(fitting, strict=False)
    return told and f"{len(fitting)} of {len(mine)} tensors were taken from {section.init_from}; {told}"


def fitting_weights(model: nn.Module, state: Any, source: str | Path) -> dict[str, torch.Tensor]:
    """The state_dict, if it fits the model, which may be an outline.

    Raises:
        CheckpointError: missing or unexpected keys, or other shapes, all of them named.
    """
    state = _state_dict(state, source)
    told = misfits(model.state_dict(), state)
    if told:
        raise CheckpointError(f"The weights in {source} do not fit the model ({told}). Is it the same architecture?")
    return state


def _state_dict(state: Any, source: str | Path) -> dict[str, torch.Tensor]:
    if isinstance(state, dict) and "model_state_dict" in state:
        state = state["model_state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise CheckpointError(f"{source} is not a state_dict: it must map names to tensors.")
    return state


def misfits(mine: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> str:
    """Missing and unexpected keys and other shapes, in words; empty where everything fits."""
    missing = [k for k in mine if k not in state]
    unexpected = [k if isinstance(k, str) else short_repr(k) for k in state if k not in mine]
    shapes = [
        f"{k} is {_kind(state[k])}, the model needs {_kind(v)}"
        for k, v in mine.items()
        if k in state and _kind(state[k]) != _kind(v)
    ]
    faults = []
    for title, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            faults.append(f"{len(names)} {title}: {', '.join(truncate(n, 200) for n in names[:5])}{more}")
    return "; ".join(faults)


def _kind(tensor: torch.Tensor) -> str:
    return f"{'complex ' if tensor.is_complex() else ''}{tuple(tensor.shape)}"


def _read_init(path: str) -> Any:
    if path.endswith(".safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(user_path(path))
        except FileNotFoundError:
            raise NotFoundError(f"model.init_from: there is no file {truncate(path)}.") from None
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{truncate(path)} is damaged or no safetensors file ({truncate(error, 200)})."
            ) from None
    return checkpoint.read(user_path(path))
