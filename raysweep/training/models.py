"""Build a model from its name, and load weights into it.

A name is ``cnn`` (our own network), ``torchvision:NAME``, ``hf:NAME_OR_FOLDER``, ``timm:NAME`` or ``python:MODULE:FUNCTION``.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from raysweep._text import Nested, short_repr, truncate
from raysweep.config import foreign, model_names
from raysweep.errors import CheckpointError, ConfigError, UntrustedError
from raysweep.training import candidates, guest, guest_network, hub, hub_torchvision, outputs
from raysweep.training import head as heads
from raysweep.training.cnn import cnn

Builder = Callable[..., nn.Module]  # called as ``builder(num_classes=…, channels=…, **options)``
MAX_NAMED = 5  # tensors of a kind that an error names
_OF_GRAY = "body."  # before the names of torchvision's networks for gray images, in earlier versions
_OF_ANY_OUTPUT = ("python", "torchvision")  # other libraries' networks are adapted where they are built


def _builder(name: str) -> Builder:
    kind, _, rest = name.partition(":")
    if name == "cnn":
        return cnn
    if kind == "torchvision" and rest:
        return hub_torchvision.builder(rest)
    if hub.split(name) is not None:
        return hub.builder(kind, rest)
    raise model_names.unknown(name)


def build(
    name: str,
    options: Nested,
    num_classes: int,
    channels: int,
    *,
    pretrained: bool = True,
    trusted: bool = False,
    path: str | None = None,
    head: str | None = None,
    size: tuple[int, int] | None = None,
) -> nn.Module:
    """The network ``name``; it maps float (n, channels, H, W) to logits (n, num_classes), as :func:`outputs.adapt` says.

    Code of the user is called as :func:`guest_network.build` says.

    Args:
        options: ``model.options``, passed on as keyword arguments.
        pretrained: whether the weights of a pretrained network are read; False where others will be loaded into it.
        path: ``model.path``.
        head: ``model.head``; ``replace``: the last layer is a new one, whatever the network is.
        size: (height, width) of the images, by which lazy layers of the user's network get their shapes.
        trusted: name and options are the user's, or were approved (:mod:`raysweep.store.trust`). Otherwise nothing is imported,
            fetched or opened that they name.

    Raises:
        UntrustedError: without ``trusted``, they ask for more. ConfigError: the name is unknown, the options do not fit, or the builder returns no ``torch.nn.Module``.
    """
    asks = [] if trusted else foreign.code({"model": {"name": name, "options": options, "path": path}})
    if asks:
        raise UntrustedError(f"The configuration wants to {asks[0].text}, which nobody has approved.")
    target = guest.target_of(name)
    if target is not None:
        model = guest_network.build(target, path, options, num_classes, channels, head, size)
    else:
        model = _of_library(name, options, num_classes, channels, pretrained)
    model = _with_new_head(model, name, num_classes) if head == "replace" else model
    return outputs.adapt(model, num_classes) if name.partition(":")[0] in _OF_ANY_OUTPUT else model


def _with_new_head(model: nn.Module, name: str, num_classes: int) -> nn.Module:
    """Raises ConfigError where the last layer is none that can be replaced."""
    found = heads.find(model)
    if found is None:
        raise ConfigError(
            f"model.head=replace: the last layer of {name} is neither a Linear layer nor a 1×1 convolution. Omit it, and let "
            "model.name and model.options build a classifier of that many classes."
        )
    return heads.replace(model, *found, num_classes)


def _of_library(name: str, options: Nested, num_classes: int, channels: int, pretrained: bool) -> nn.Module:
    builder = _builder(name)
    try:
        with contextlib.nullcontext() if pretrained else hub.shapes_only():
            model = builder(num_classes=num_classes, channels=channels, **options)
    except TypeError as error:
        takes = ", ".join(p for p in inspect.signature(builder).parameters if p not in ("num_classes", "channels"))
        raise ConfigError(
            f"model.options do not fit {name} ({truncate(error)}). It takes: {takes or 'no options'}."
        ) from error
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"model.options do not fit {name} ({truncate(error)}). Change or remove them.") from error
    except (ArithmeticError, LookupError, AttributeError, AssertionError, MemoryError) as error:
        raise ConfigError(
            f"model.options do not fit {name} ({type(error).__name__}: {truncate(error)}). Change or remove them."
        ) from error
    return model


class _NoMemory(TorchFunctionMode):
    """Puts new parameters on the meta device. Other tensors keep their values: some networks compute with them while they
    are built."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def outline(
    name: str,
    options: Nested,
    num_classes: int,
    channels: int,
    *,
    trusted: bool = False,
    path: str | None = None,
    head: str | None = None,
    size: tuple[int, int] | None = None,
) -> nn.Module:
    """The network of :func:`build` on the meta device: its parameters have shapes but no memory, however large it is.

    A function of the user may not work on the meta device, so ``python:`` models are built in full.
    """
    if guest.target_of(name) is not None:
        return build(name, options, num_classes, channels, trusted=trusted, path=path, head=head, size=size)
    with hub.shapes_only(), _NoMemory(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that there is no memory to initialise
        return build(name, options, num_classes, channels, trusted=trusted, head=head)


def load_weights(model: nn.Module, state: Any, source: str | Path) -> None:
    """Load a bare state_dict, or the ``model_state_dict`` of a checkpoint. Every tensor must fit.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape; the message names them.
    """
    model.load_state_dict(fitting_weights(model, state, source))


def fitting_weights(model: nn.Module, state: Any, source: str | Path) -> dict[str, torch.Tensor]:
    """The state_dict in ``state``, which must fit ``model``; an :func:`outline` is enough of a model.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape; the message names them.
    """
    weights, mine = as_named(model, _state_dict(state, source)), model.state_dict()
    if problems := misfits(mine, weights):
        raise CheckpointError(
            f"The weights in {source} do not fit the model ({problems}). Use weights of the same architecture, or change "
            "model.name and model.options."
        )
    return weights


def as_named(model: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of an earlier version under the names that ``model`` has for them today."""
    mine = model.state_dict()
    if all(k not in mine and k.startswith(_OF_GRAY) for k in weights):
        return {k.removeprefix(_OF_GRAY): v for k, v in weights.items()}
    return weights  # the same object: it carries torch's versions of the modules


def _state_dict(state: Any, source: str | Path) -> dict[str, torch.Tensor]:
    if isinstance(state, dict) and "model_state_dict" in state:
        state = state["model_state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise CheckpointError(
            f"{source} is not a state_dict. Name a file that maps names to tensors, as torch.save(model.state_dict(), FILE) "
            "writes it."
        )
    weights: dict[str, torch.Tensor] = state  # the same object: it carries torch's versions of the modules
    return weights


def misfits(mine: Mapping[str, Any], state: Mapping[str, Any], most: int = MAX_NAMED) -> str:
    """Which tensors are missing, unexpected or of another shape, as a text; empty where all fit.

    Args:
        mine: the model's own state_dict.
        state: the one to load, or the places of its tensors.
        most: so many of each kind are named.
    """
    missing = [k for k in mine if k not in state]
    unexpected = [k if isinstance(k, str) else short_repr(k) for k in state if k not in mine]
    both = {k: (_kind(state[k]), _kind(mine[k])) for k in mine if k in state}
    shapes = [f"{k} is {given}, the model needs {needed}" for k, (given, needed) in both.items() if given != needed]
    groups = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return "; ".join(f"{len(names)} {title}: {_first(names, most)}" for title, names in groups.items() if names)


def _first(names: list[str], most: int) -> str:
    more = len(names) - most
    return ", ".join(truncate(n, 200) for n in names[:most]) + (f" and {more} more" if more > 0 else "")


def _kind(tensor: Any) -> str:
    is_complex, shape = candidates.kind(tensor)
    return f"{'complex ' if is_complex else ''}{shape}"
