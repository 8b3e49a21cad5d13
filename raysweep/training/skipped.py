"""Networks of which a training pass does not use every parameter: layers skipped at random, auxiliary heads, layers that nothing calls.

One process leaves such parameters alone. Several processes must agree which ones those are, and DDP finds out only when told to look
(``find_unused_parameters``); otherwise it takes a step with gradients that were not summed. So a pass is made before, and DDP looks
wherever it may matter: in networks of the user, whose code may skip layers by chance, and where the pass left something unused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from raysweep._text import join_names
from raysweep.errors import ConfigError
from raysweep.training import outputs

_PASSES = 16  # to see batch normalisations that are skipped at random
_MOST_NAMED = 3


@dataclass(frozen=True)
class Passed:
    """What one pass forward and back has used."""

    unused: tuple[str, ...]  # parameters that got no gradient
    hidden: bool  # some got one although they are not in the graph that DDP can see, as in reentrant checkpointing
    normalised: tuple[str, ...]  # the batch normalisations, in the order in which they were called


def passed(model: nn.Module, backward: Callable[[], Any]) -> Passed:
    """Watch a pass.

    Args:
        backward: passes a batch forward and back, from gradients that are None; returns what the network returned.
    """
    called: list[str] = []
    with _watched(model, called):
        out = backward()
    logits, auxiliaries = outputs.parts(out)
    seen = _leaves([logits, *auxiliaries])
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return Passed(
        tuple(name for name, p in named if p.grad is None),
        any(p.grad is not None and id(p) not in seen for _, p in named),
        tuple(called),
    )


def check(passes: list[Passed], sync_batchnorm: bool) -> None:
    """
    Raises:
        ConfigError: several processes cannot train such a network alike.
    """
    unused = list(dict.fromkeys(name for one in passes for name in one.unused))
    remedy = "Train it in one process: scaling.num_workers=1 or 0"
    if unused and any(one.hidden for one in passes):
        raise ConfigError(
            f"The network does not use all of its parameters in every training pass ({_first(unused)}), and it uses reentrant "
            "checkpointing (torch.utils.checkpoint), which hides from several workers which ones it uses. Call checkpoint with "
            f"use_reentrant=False. Or t{remedy[1:]}."
        )
    if sync_batchnorm and len({one.normalised for one in passes}) > 1:
        raise ConfigError(
            "scaling.sync_batchnorm=true: the network does not call the same batch normalisations in every training pass, so that workers "
            f"would exchange the statistics of different layers. Set scaling.sync_batchnorm=false. Or t{remedy[1:]}."
        )


def count(model: nn.Module, sync_batchnorm: bool) -> int:
    """How many passes are to be watched: many where it matters whether batch normalisations are skipped at random."""
    return _PASSES if sync_batchnorm and any(isinstance(m, _BatchNorm) for m in model.modules()) else 2


def must_look(
    model: nn.Module, of_user: bool, shape: tuple[int, ...], device: torch.device, sync_batchnorm: bool
) -> tuple[bool, bool]:
    """(whether DDP must look for unused parameters, whether it cannot), as this process sees it. Buffers stay as they are.

    Args:
        of_user: the network is code of the user.
        shape: of an image, (channels, height, width).

    Raises:
        ConfigError: as :func:`check`.
    """
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    model.train()
    x = torch.zeros(2, *shape, device=device)
    times = count(model, sync_batchnorm) if of_user else 1
    found = [passed(model, lambda: _backward(model, x)) for _ in range(times)]
    model.train(was_training)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
    check(found, sync_batchnorm)
    return of_user or any(one.unused for one in found), any(one.hidden for one in found)


def _backward(model: nn.Module, x: torch.Tensor) -> Any:
    model.zero_grad(set_to_none=True)
    out = model(x)
    logits, auxiliaries = outputs.parts(out)
    torch.autograd.backward([torch.stack([part.float().sum() for part in (logits, *auxiliaries)]).sum()])
    return out


def _leaves(tensors: list[torch.Tensor]) -> set[int]:
    """The parameters in the graph of ``tensors``, by identity."""
    found: set[int] = set()
    seen: set[Any] = set()
    waiting: list[Any] = [t.grad_fn for t in tensors]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (variable := getattr(node, "variable", None)) is not None:
            found.add(id(variable))
        waiting += [following for following, _ in node.next_functions]
    return found


@contextlib.contextmanager
def _watched(model: nn.Module, called: list[str]) -> Iterator[None]:
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _first(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return join_names(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
