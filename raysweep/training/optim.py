"""Optimizers, and the learning rate as a pure function of the position in the training."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import nn

from raysweep.config.settings import TrainingSection


def _plain(method: Any) -> Any:
    """The function inside torch's decorators.

    torch wraps the methods of its optimizers so that a compiler leaves them alone, and for that imports torch._dynamo
    (4 s at the first step on two cores), also where nothing is compiled. We never compile the optimizer.
    """
    return inspect.unwrap(method)


class _Quick(torch.optim.Optimizer):
    """What is common to the optimizers below: the same code as torch's, without its decorators."""

    add_param_group = _plain(torch.optim.Optimizer.add_param_group)
    zero_grad = _plain(torch.optim.Optimizer.zero_grad)
    state_dict = _plain(torch.optim.Optimizer.state_dict)
    load_state_dict = _plain(torch.optim.Optimizer.load_state_dict)


class AdamW(_Quick, torch.optim.AdamW):
    """torch's AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101)."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return _plain(torch.optim.AdamW.step)(self, closure)


class SGD(_Quick, torch.optim.SGD):
    """torch's SGD with momentum."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return _plain(torch.optim.SGD.step)(self, closure)


def optimizer(model: nn.Module, training: TrainingSection) -> torch.optim.Optimizer:
    """AdamW or SGD; weight decay is not applied to vectors (biases, normalisation).

    Torch's fused kernels take half the time of its loop over the parameters, and give the same bits whatever the number of
    threads; complex parameters, and those of an outline, they do not take.
    """
    fused = all(p.is_floating_point() and not p.is_meta for p in model.parameters() if p.requires_grad)
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if training.optimizer == "sgd":
        return SGD(groups, lr=training.learning_rate, momentum=training.momentum, fused=fused)
    return AdamW(groups, lr=training.learning_rate, fused=fused)


def regrouped(model: nn.Module, opt: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's saved state in the groups of :func:`optimizer`, where it was saved as one group of ``model.parameters()``
    in their order, as most programs have it; else as it is."""
    groups = saved.get("param_groups") or []
    parameters = [p for p in model.parameters() if p.requires_grad]
    if len(groups) != 1 or len(opt.param_groups) < 2 or len(groups[0].get("params") or ()) != len(parameters):
        return saved
    old = {id(p): key for p, key in zip(parameters, groups[0]["params"], strict=True)}
    mine = [p for g in opt.param_groups for p in g["params"]]
    state = {i: saved["state"][old[id(p)]] for i, p in enumerate(mine) if old[id(p)] in saved["state"]}
    return {"state": state, "param_groups": opt.state_dict()["param_groups"]}


def learning_rate(training: TrainingSection, progress: float) -> float:
    """The rate at ``progress`` epochs from the very start of the training (the parent's epochs included).

    Linear warm-up, then constant, cosine (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, one cycle) or
    steps. A function of the position and not of a counter: any checkpoint continues with the same bits, and a cosine
    that has ended stays at ``min_lr_ratio``.
    """
    warm = training.warmup_epochs
    if progress < warm:
        # never zero: the first batch must learn, too
        return training.learning_rate * max(progress / warm, 0.02)
    if training.schedule == "step":
        return training.learning_rate * training.step_gamma ** int(progress // training.step_epochs)
    if training.schedule == "cosine":
        horizon = float(training.schedule_epochs or training.epochs)
        done = 1.0 if horizon <= warm else min(1.0, (progress - warm) / (horizon - warm))
        low = training.min_lr_ratio
        return training.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))
    return training.learning_rate


def set_learning_rate(opt: torch.optim.Optimizer, rate: float) -> None:
    for group in opt.param_groups:
        group["lr"] = rate
