"""The moving average of a network's weights, ``training.ema``: what is validated, kept and exported. Training goes on with the weights
themselves.

After each step every tensor a of the average moves towards the weights w: a ← d·a + (1 - d)·w. The decay d is the one asked for, but
(1 + n) / (10 + n) at most after n steps, so that the first weights are soon forgotten
(https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage). It depends on the position alone, so a training that
goes on from a checkpoint has the same bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from raysweep.training.world import World


class Average:
    """The average of some tensors of a network: those that training changes.

    Attributes:
        tensors: name → the average, for tensors of real numbers; others, such as counters, are the network's own.
    """

    def __init__(self, model: nn.Module, decay: float, names: Sequence[str]) -> None:
        self.decay = decay
        self.tensors: dict[str, torch.Tensor] = {}
        self._mine: list[torch.Tensor] = []  # of the network, in the same order
        self.follow(model, names)

    def follow(self, model: nn.Module, names: Sequence[str]) -> None:
        """Average more tensors from now on; they begin as they are in the network."""
        state = model.state_dict()
        for name in names:
            if name not in self.tensors and state[name].is_floating_point():
                self.tensors[name] = state[name].clone()
        self._mine = [state[name] for name in self.tensors]

    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Begin with an average that a checkpoint holds; tensors that it lacks begin as they are in the network."""
        for name, tensor in self.tensors.items():
            if name in saved:
                tensor.copy_(saved[name])

    @torch.no_grad()
    def step(self, steps: int) -> None:
        """Move towards the weights, after so many steps in all."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(list(self.tensors.values()), self._mine, 1.0 - decay)

    @contextlib.contextmanager
    def in_place(self, model: nn.Module, world: World) -> Iterator[None]:
        """In this context the network has the average instead of its weights. Collective: the ranks then have the same one."""
        world.share(list(self.tensors.values()))
        mine = [tensor.clone() for tensor in self._mine]
        with torch.no_grad():
            torch._foreach_copy_(self._mine, list(self.tensors.values()))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._mine, mine)

    def weights(self) -> dict[str, torch.Tensor]:
        """The tensors of the network itself, from which training goes on."""
        return dict(zip(self.tensors, self._mine, strict=True))


def steps(epoch: int, batches: int, total_batches: int) -> int:
    """The steps of a training after so many batches of an epoch, those of its parents included."""
    return (epoch - 1) * total_batches + batches
