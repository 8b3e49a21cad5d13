"""Build a model from its name, and load weights into it.

A name is ``cnn`` (our own network), ``torchvision:NAME``, ``hf:NAME_OR_FOLDER``, ``timm:NAME`` or ``python:MODULE:FUNCTION``.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from raysweep._text import Nested, short_repr, truncate
from raysweep.config import foreign
from raysweep.config.settings import ModelSection
from raysweep.errors import CheckpointError, ConfigError, UntrustedError, did_you_mean
from raysweep.training import guest, guest_network, hub, origin, outputs
from raysweep.training import head as heads
from raysweep.training.cnn import cnn

Builder = Callable[..., nn.Module]  # called as ``builder(num_classes=…, channels=…, **options)``
MAX_NAMED = 5  # tensors of a kind that an error names
_OF_ANY_OUTPUT = ("python", "torchvision")  # other libraries' networks are adapted where they are built


class _RepeatGray(nn.Module):
    """Repeats the one channel of gray images for a network that takes three channels."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(x.expand(-1, 3, -1, -1))
        return logits


def own(model: nn.Module) -> nn.Module:
    """The network with the names of parameters that its own code gives them."""
    return model.body if isinstance(model, _RepeatGray) else model


def _torchvision(name: str) -> Builder:
    from torchvision import models  # the import takes 3.5 s

    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"model.name: torchvision has no classifier {name!r}.{did_you_mean(name, known)}")

    def build(num_classes: int, channels: int, **options: Any) -> nn.Module:
        model = models.get_model(name, num_classes=num_classes, **options)
        return _RepeatGray(model) if channels == 1 else model

    return build


def _builder(name: str) -> Builder:
    kind, _, rest = name.partition(":")
    if name == "cnn":
        return cnn
    if kind == "torchvision" and rest:
        return _torchvision(rest)
    if hub.split(name) is not None:
        return hub.builder(kind, rest)
    raise ConfigError(
        f"model.name: {name!r} is not known. Use cnn, torchvision:NAME, hf:NAME_OR_FOLDER, timm:NAME or python:MODULE:FUNCTION."
    )


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


def initialise(model: nn.Module, section: ModelSection) -> str | None:
    """Load the file that ``model.init_from`` names, if it names one.

    Returns:
        A note on the tensors that did not fit, or None where all did. Only ``init_strict: false`` allows misfits.

    Raises:
        NotFoundError: there is no such file.
        CheckpointError: the file is damaged or does not fit; without ``init_strict``, nothing in it fits.
    """
    if not section.init_from:
        return None
    state = _state_dict(origin.weights(section.init_from), section.init_from)
    if section.head == "replace":
        state = heads.without(model, state)
    if section.init_strict:
        load_weights(model, state, section.init_from)
        return None
    mine = model.state_dict()
    problems = misfits(mine, state)
    fitting = {k: v for k, v in state.items() if k in mine and _kind(v) == _kind(mine[k])}
    if not fitting:
        raise CheckpointError(
            f"Nothing in {section.init_from} fits the model ({problems}). Set model.init_from to weights of the same architecture."
        )
    model.load_state_dict(fitting, strict=False)
    return problems and f"{len(fitting)} of {len(mine)} tensors were taken from {section.init_from}; {problems}"


def keeps_head(model: nn.Module, section: ModelSection, num_classes: int) -> bool:
    """Whether the last layer of a new experiment's network is one that was trained: of a file, or of a pretrained network."""
    if section.head == "replace":
        return False
    if section.init_from:
        names, state = heads.keys(model), _state_dict(origin.weights(section.init_from), section.init_from)
        mine = model.state_dict()
        return bool(names) and all(n in state and _kind(state[n]) == _kind(mine[n]) for n in names)
    return hub.keeps_head(section.name, section.options, num_classes)


def fitting_weights(model: nn.Module, state: Any, source: str | Path) -> dict[str, torch.Tensor]:
    """The state_dict in ``state``, which must fit ``model``; an :func:`outline` is enough of a model.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape; the message names them.
    """
    weights = _state_dict(state, source)
    if problems := misfits(model.state_dict(), weights):
        raise CheckpointError(
            f"The weights in {source} do not fit the model ({problems}). Use weights of the same architecture, or change "
            "model.name and model.options."
        )
    return weights


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


def misfits(mine: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> str:
    """Which tensors are missing, unexpected or of another shape, as a text; empty where all fit.

    Args:
        mine: the model's own state_dict.
        state: the one to load.
    """
    missing = [k for k in mine if k not in state]
    unexpected = [k if isinstance(k, str) else short_repr(k) for k in state if k not in mine]
    both = {k: (_kind(state[k]), _kind(mine[k])) for k in mine if k in state}
    shapes = [f"{k} is {given}, the model needs {needed}" for k, (given, needed) in both.items() if given != needed]
    groups = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return "; ".join(f"{len(names)} {title}: {_first(names)}" for title, names in groups.items() if names)


def _first(names: list[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(truncate(n, 200) for n in names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _kind(tensor: torch.Tensor) -> str:
    return f"{'complex ' if tensor.is_complex() else ''}{tuple(tensor.shape)}"
