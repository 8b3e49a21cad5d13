"""The last layer of a network: which one it is, and a new one for another number of classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

Head = nn.Linear | nn.Conv2d


def find(model: nn.Module) -> tuple[str, Head] | None:
    """(name, layer) of the last layer with weights of its own, if it is a Linear or a 1×1 convolution; else None."""
    layers = [(name, m) for name, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None]
    while layers and isinstance(layers[-1][1], (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)):
        layers.pop()  # some networks register a norm after their last layer
    if not layers:
        return None
    name, layer = layers[-1]
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
    """The names of the last layer's tensors; none where there is no such layer."""
    found = find(model)
    if found is None:
        return ()
    name, layer = found
    return tuple(f"{name}.{key}" if name else key for key in layer.state_dict())


def without(model: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``state`` with the last layer's tensors as the model has them now."""
    mine = model.state_dict()
    return {**state, **{key: mine[key] for key in keys(model)}}
