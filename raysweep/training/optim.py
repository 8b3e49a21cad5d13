"""Optimizers, and the learning rate as a pure function of the position in the training."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import nn

from raysweep.config.own import target_of
from raysweep.config.settings import ForkSection, TrainingSection
from raysweep.store.checkpoint_format import State
from raysweep.training import groups, own_optim
from raysweep.training.freezing import Freezing
from raysweep.training.own import Own

_schedules: dict[str, Own] = {}  # MODULE:NAME → the user's schedule, once it was tried


def _plain(method: Any) -> Any:
    """``method`` without torch's decorators.

    torch wraps the methods of its optimizers so that torch.compile skips them. The wrapper imports torch._dynamo at the first
    step, which takes 4 s on two cores, also where nothing is compiled. We never compile the optimizer.
    """
    return inspect.unwrap(method)


def _unhooked(step: Any) -> Any:
    """``step`` without what torch puts around it for profilers and hooks, which takes as long as the step of a last layer."""
    step.hooked = True  # as torch marks those that have it already
    return step


class _Undecorated(torch.optim.Optimizer):
    """torch's own methods without its decorators."""

    add_param_group = _plain(torch.optim.Optimizer.add_param_group)
    state_dict = _plain(torch.optim.Optimizer.state_dict)
    load_state_dict = _plain(torch.optim.Optimizer.load_state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients; ``set_to_none`` is true."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


class AdamW(_Undecorated, torch.optim.AdamW):
    """torch's AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101)."""

    _torchs = staticmethod(_plain(torch.optim.AdamW.step))

    @_unhooked
    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return self._torchs(self, closure)


class SGD(_Undecorated, torch.optim.SGD):
    """torch's SGD with momentum."""

    _torchs = staticmethod(_plain(torch.optim.SGD.step))

    @_unhooked
    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups if self.defaults["fused"] else ():
            self._complete([p for p in group["params"] if p.grad is not None])
        return self._torchs(self, closure)

    def _complete(self, trained: list[torch.Tensor]) -> None:
        """Give those that have their first gradient late, as in networks with stochastic depth, a momentum of zero: torch's fused
        kernel needs a momentum for all or for none."""
        lacking = [p for p in trained if self.state.get(p, {}).get("momentum_buffer") is None]
        for parameter in lacking if len(lacking) < len(trained) else ():
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def optimizer(
    model: nn.Module, training: TrainingSection, code: Own | None = None, freezing: Freezing | None = None
) -> torch.optim.Optimizer:
    """AdamW, SGD, or that of the user, ``code``. Weight decay does not apply to vectors (biases, normalisation).

    torch's fused kernels take half the time of its loop over the parameters, and their bits do not depend on the number of
    threads. They support neither complex parameters nor parameters on the meta device.

    Args:
        freezing: what is trained; default: all that can be.
    """
    parameters = dict(model.named_parameters())
    freezing = freezing or Freezing.nothing(model)
    made: list[State] = []
    for group in groups.of(model, freezing, training):
        scaled = {} if group.scale == 1.0 else {groups.SCALE: group.scale}
        decay = training.weight_decay if group.decays else 0.0
        made.append({"params": [parameters[name] for name in group.names], "weight_decay": decay, **scaled})
    fused = all(p.is_floating_point() and not p.is_meta for g in made for p in g["params"])
    if code is not None:
        return own_optim.optimizer(code, made, training)
    if training.optimizer == "sgd":
        return SGD(made, lr=training.learning_rate, momentum=training.momentum, fused=fused)
    return AdamW(made, lr=training.learning_rate, fused=fused)


def learning_rate(training: TrainingSection, progress: float) -> float:
    """The learning rate after ``progress`` epochs, counted from the start of the training and including the parent's epochs.

    A linear warm-up, then a constant rate, one cycle of a cosine (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983)
    steps, or a function of the user. After the cosine the rate stays at ``min_lr_ratio``. The rate depends on the position alone, so a
    training that continues from any checkpoint has the same bits. From a fork on, ``training.fork`` may set another one.
    """
    fork = training.fork
    if fork is not None and fork.schedule != "inherit" and fork.start is not None and progress >= fork.start:
        return _after_fork(training, fork, progress)
    return _scheduled(training, progress, float(training.schedule_epochs or training.epochs))


def _after_fork(training: TrainingSection, fork: ForkSection, progress: float) -> float:
    assert fork.start is not None, "planning has filled it in"
    assert fork.end is not None
    assert fork.rate is not None
    if fork.schedule == "restart":
        return _scheduled(training, progress - fork.start, fork.end - fork.start)
    if fork.schedule == "constant":
        return fork.rate
    return fork.rate * max(0.0, (fork.end - progress) / (fork.end - fork.start))


def _scheduled(training: TrainingSection, progress: float, horizon: float) -> float:
    warm = training.warmup_epochs
    if progress < warm:
        # at least 2 %, so that the first batch is not trained with rate 0
        return training.learning_rate * max(progress / warm, 0.02)
    if (target := target_of(training.schedule)) is not None:
        return training.learning_rate * own_optim.factor(_schedules[target], progress, horizon)
    if training.schedule == "step":
        return training.learning_rate * training.step_gamma ** int(progress // training.step_epochs)
    if training.schedule == "cosine":
        done = 1.0 if horizon <= warm else min(1.0, (progress - warm) / (horizon - warm))
        low = training.min_lr_ratio
        return training.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))
    return training.learning_rate


def use_schedule(code: Own) -> None:
    """Let :func:`learning_rate` know a schedule of the user, which was tried."""
    _schedules[code.target] = code


def set_learning_rate(opt: torch.optim.Optimizer, rate: float) -> None:
    """Use ``rate`` from the next step on, times the factor of each group."""
    for group in opt.param_groups:
        group["lr"] = rate * group.get(groups.SCALE, 1.0)
