"""What a network returns: the logits among tensors, tuples and mappings, and the outputs of auxiliary heads.

A tensor is taken as it is. Of GoogLeNetOutputs, InceptionOutputs and transformers' ModelOutput the field ``logits`` is taken, of
other mappings and tuples what has one column for each class. Nothing is guessed between two that could be meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from raysweep._text import counted, join_names
from raysweep.errors import ConfigError

# What an auxiliary head adds to the loss where there is one (Inception v3) and where there are two (GoogLeNet), as in
# torchvision's references and the papers: https://arxiv.org/abs/1512.00567, https://arxiv.org/abs/1409.4842
SHARES = {1: 0.4, 2: 0.3}
_NAMES = ("logits", "output", "outputs", "out", "pred", "preds", "prediction", "predictions")


def share(auxiliaries: int) -> float:
    """What each of so many auxiliary heads adds to the loss, as is usual."""
    return SHARES.get(auxiliaries, 0.3)


def adapt(model: nn.Module, num_classes: int) -> nn.Module:
    """``model``, which returns logits (n, num_classes); in training a tuple of them and of what its auxiliary heads give, if it
    has such heads."""
    model.register_forward_hook(_Chosen(num_classes))
    return model


def parts(out: Any) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """(the logits, the outputs of the auxiliary heads) of what an adapted network returns."""
    return (out[0], tuple(out[1:])) if isinstance(out, tuple) else (out, ())


def left_out(model: nn.Module) -> list[str]:
    """The auxiliary heads that were not trained when the network was called last, because they have other outputs."""
    return [name for hook in model._forward_hooks.values() if isinstance(hook, _Chosen) for name in hook.left_out]


class _Chosen:
    """A forward hook. It is no closure, so that a network can be copied."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.left_out: list[str] = []  # auxiliary heads with another number of outputs

    def __call__(self, model: nn.Module, given: Any, out: Any) -> Any:
        if isinstance(out, torch.Tensor):
            return None  # as it is
        logits, auxiliaries = _choose(out, self.num_classes, model.training)
        if model.training:
            heads = [(name, tensor) for name, tensor in _tensors(out) if "aux" in name.lower()]
            self.left_out = [name for name, tensor in heads if tensor.shape[1:] != logits.shape[1:]]
        return (logits, *auxiliaries) if auxiliaries else logits


def _choose(out: Any, num_classes: int, training: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Raises ConfigError where nobody can say which part are the logits."""
    found = _tensors(out)
    named = any(name for name, _ in found)
    fitting = [i for i, (_, tensor) in enumerate(found) if tensor.ndim == 2 and tensor.shape[1] == num_classes]
    known = [
        i
        for word in _NAMES
        for i, (name, _) in enumerate(found)
        if name.lower() == word and (i in fitting or word == "logits")
    ]
    main = [i for i in fitting if "aux" not in found[i][0].lower()]
    if known:
        chosen = known[0]
    elif len(main) == 1 or (main and training and not named):  # a tuple begins with what the network is for
        chosen = main[0]
    else:
        raise ConfigError(
            f"The model returns {_described(out, found)}, and {'none' if not main else counted(len(main), 'part')} of it could be the "
            f"logits of {num_classes} classes. Let it return the logits alone, or a dictionary in which they are called logits."
        )
    others = [i for i in fitting if i != chosen and (not named or "aux" in found[i][0].lower())]
    return found[chosen][1], [found[i][1] for i in others] if training else []


def _tensors(out: Any) -> list[tuple[str, torch.Tensor]]:
    """The tensors that a network returned, each with its name, which is empty in a plain tuple."""
    if isinstance(out, Mapping):
        items = [(str(name), value) for name, value in out.items()]
    elif isinstance(out, tuple) and hasattr(out, "_fields"):
        items = list(zip(out._fields, out, strict=True))
    elif isinstance(out, (tuple, list)):
        items = [("", value) for value in out]
    else:
        items = list(vars(out).items()) if hasattr(out, "__dict__") else []
    return [(name, value) for name, value in items if isinstance(value, torch.Tensor)]


def _described(out: Any, found: list[tuple[str, torch.Tensor]]) -> str:
    shapes = [f"{name} {tuple(tensor.shape)}".strip() for name, tensor in found]
    return f"a {type(out).__name__} with {join_names(shapes)}" if shapes else f"a {type(out).__name__}"
