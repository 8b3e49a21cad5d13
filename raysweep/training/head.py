"""The last layer of a network: which one it is, and a new one for another number of classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from raysweep.errors import ConfigError

Head = nn.Linear | nn.Conv2d


def last(model: nn.Module) -> tuple[str, nn.Module] | None:
    """(name, layer) of the last layer with weights of its own; None where there is none."""
    layers = [(name, m) for name, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None]
    while layers and isinstance(layers[-1][1], (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)):
        layers.pop()  # some networks register a norm after their last layer
    return layers[-1] if layers else None


def find(model: nn.Module) -> tuple[str, Head] | None:
    """The :func:`last` layer, if it is a Linear or a 1×1 convolution; else None."""
    found = last(model)
    if found is None:
        return None
    name, layer = found
    if isinstance(layer, nn.Linear) and not isinstance(layer, nn.LazyLinear):
        return name, layer
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1:
        return name, layer
    return None


def width(layer: Head) -> int:
    """The number of outputs."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def replace(model: nn.Module, name: str, layer: Head, outputs: int) -> nn.Module:
    """``model`` with a new last layer of so many outputs, with random weights; the layer itself where it is the whole model."""
    bias = layer.bias is not None
    new: Head
    if isinstance(layer, nn.Linear):
        new = nn.Linear(layer.in_features, outputs, bias)
    else:
        new = nn.Conv2d(layer.in_channels, outputs, 1, bias=bias)
    new.to(layer.weight.device, layer.weight.dtype)
    if not name:
        return new
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, new)
    return model


def keys(model: nn.Module) -> tuple[str, ...]:
    """The names of the last layer's tensors; none where it is not one that :func:`find` finds."""
    found = find(model)
    return () if found is None else _under(found[0], model.state_dict())


def name_of(model: nn.Module, outputs: int) -> str | None:
    """The name of the :func:`last` layer, whatever its kind; None where it does not have so many outputs."""
    found = last(model)
    layer = "" if found is None else found[0].partition(".parametrizations.")[0]  # of weight_norm and the like
    state = model.state_dict()
    tensors = [] if found is None else [state[key] for key in _under(layer, state)]
    return layer if any(outputs in tensor.shape for tensor in tensors) else None


def restarted(model: nn.Module, outputs: int, name: str) -> str:
    """The name of the layer that begins anew where a head is reset: the last one, whatever its kind, with so many outputs.

    Raises:
        ConfigError: the last layer has another number of outputs; ``name`` is that of the network.
    """
    layer = name_of(model, outputs)
    if layer is None:
        found = last(model)
        raise ConfigError(
            f"--reset head: the last layer of {name}{f', {found[0]},' if found else ''} does not have {outputs} outputs, so it cannot be "
            "the head. Let the network create the layer that gives its output last."
        )
    return layer


def is_of(name: str, layer: str) -> bool:
    """Whether a tensor belongs to a layer; the layer without a name is the whole network."""
    return not layer or name.startswith(f"{layer}.")


def _under(layer: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if is_of(name, layer))


def anew(model: nn.Module, state: Mapping[str, torch.Tensor], outputs: int, name: str) -> dict[str, torch.Tensor]:
    """``state`` with the tensors of the layer that :func:`restarted` names as the model has them now.

    Raises:
        ConfigError: as :func:`restarted`.
    """
    mine, layer = model.state_dict(), restarted(model, outputs, name)
    others = {key: tensor for key, tensor in state.items() if key not in _under(layer, state)}
    return {**others, **{key: mine[key] for key in _under(layer, mine)}}


def forget(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    fresh: Mapping[torch.Tensor, Mapping[str, Any]],
    outputs: int,
    name: str,
) -> None:
    """Let the optimizer's state of that layer be as before its first step.

    Args:
        fresh: parameter → the state that a new optimizer has for it.
    """
    inside = _under(restarted(model, outputs, name), [key for key, _ in model.named_parameters()])
    for key, parameter in model.named_parameters():
        if key not in inside or parameter not in optimizer.state:
            continue
        if isinstance(optimizer, torch.optim.SGD):  # its fused kernel needs a momentum for all parameters or for none
            for value in optimizer.state[parameter].values():
                if isinstance(value, torch.Tensor):
                    value.zero_()
            continue
        del optimizer.state[parameter]
        if parameter in fresh:
            optimizer.state[parameter] = dict(fresh[parameter])
