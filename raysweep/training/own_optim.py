"""Optimizer and schedule of the user: ``training.optimizer=python:MODULE:NAME`` and ``training.schedule=python:MODULE:NAME``.

An optimizer is a class of torch, or a function that returns one. It is called with the groups of parameters, of which vectors
have no weight decay, and with ``lr``, ``weight_decay`` and ``momentum``, if it takes them.

A schedule is a function of the epochs that are done, a float counted with the parent's epochs. It gets ``epochs``, the length of
the schedule, if it takes it, and returns the part of ``training.learning_rate`` that is used. It depends on nothing else, so a
training that continues anywhere has the same rates.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from raysweep.config.settings import TrainingSection
from raysweep.store.checkpoint_format import State
from raysweep.training import own
from raysweep.training.own import Own

OPTIMIZER, SCHEDULE = "training.optimizer", "training.schedule"
_PLAIN = (bool, int, float, str, torch.Tensor, type(None))


def optimizer(code: Own, groups: Sequence[State], training: TrainingSection) -> torch.optim.Optimizer:
    """The optimizer of these groups of parameters.

    Raises:
        ConfigError: it is none, or leaves parameters out.
    """
    known = {"lr": training.learning_rate, "weight_decay": training.weight_decay, "momentum": training.momentum}
    if not callable(code.found):
        raise code.wrong("is no class or function that makes an optimizer.")
    made = code.found([dict(g) for g in groups], **{n: known[n] for n in own.takes(code.found, *known)})
    if not isinstance(made, torch.optim.Optimizer):
        raise code.wrong(f"returned {type(made).__name__}. Return a torch.optim.Optimizer.")
    if {id(p) for g in made.param_groups for p in g["params"]} != {id(p) for g in groups for p in g["params"]}:
        raise code.wrong("does not train the parameters that it was given. Hand all of them on to the optimizer.")
    return made


class _Tiny:
    """A matrix and a vector that an optimizer trains."""

    def __init__(self, code: Own, training: TrainingSection) -> None:
        draws = torch.Generator().manual_seed(1)
        self.net = nn.Linear(3, 2)
        with torch.no_grad():
            for p in self.net.parameters():
                p.copy_(torch.randn(p.shape, generator=draws))
        groups = [{"params": [self.net.weight], "weight_decay": training.weight_decay}]
        groups += [{"params": [self.net.bias], "weight_decay": 0.0}]
        self.optimizer = optimizer(code, groups, training)

    def step(self, number: int) -> None:
        draws = torch.Generator().manual_seed(number)
        for p in self.net.parameters():
            p.grad = torch.randn(p.shape, generator=draws)
        self.optimizer.step()


def tried(code: Own, training: TrainingSection) -> tuple[list[str], list[str]]:
    """Take three steps with a tiny network, once without and once with an interruption after the second one.

    Returns:
        What is to be said, and why a training that is interrupted would not have the same bits.

    Raises:
        ConfigError: it fails, or its state cannot be saved.
    """
    with code.tried():
        one, two = _Tiny(code, training), _Tiny(code, training)
        for number in (2, 3):
            one.step(number)
        state = copy.deepcopy(one.optimizer.state_dict())
        _check_plain(code, state)
        two.net.load_state_dict(one.net.state_dict())
        restore(code, two.optimizer, state, training)
        one.step(4)
        two.step(4)
    told, why = [], []
    if training.weight_decay and not own.takes(code.found, "weight_decay"):
        told.append(f"training.weight_decay is not given to python:{code.target}, which does not take weight_decay.")
    if not all(torch.equal(a, b) for a, b in zip(one.net.parameters(), two.net.parameters(), strict=True)):
        why = [f"python:{code.target} ({OPTIMIZER}) keeps more than its state_dict"]
        told.append(f"not bit-exact once it is interrupted: {why[0]}, so that no checkpoint holds it.")
    return told, why


def _check_plain(code: Own, state: Any) -> None:
    """Raises ConfigError where a checkpoint could not hold a state."""
    if isinstance(state, dict):
        for value in state.values():
            _check_plain(code, value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            _check_plain(code, value)
    elif not isinstance(state, _PLAIN):
        raise code.wrong(
            f"keeps {type(state).__name__} in its state_dict. A checkpoint holds tensors, numbers and texts; keep those."
        )


def restore(code: Own, optimizer: torch.optim.Optimizer, saved: State, training: TrainingSection) -> None:
    """Load an optimizer's state, also what it keeps in its groups; hyperparameters are those of this run.

    Raises:
        ValueError, LookupError, RuntimeError, TypeError: it does not fit.
    """
    moving = _moving(code, training)
    mine = [{k: v for k, v in g.items() if k != "params" and k not in moving} for g in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, values in zip(optimizer.param_groups, mine, strict=True):
        group.update(values)


def _moving(code: Own, training: TrainingSection) -> set[str]:
    """What an optimizer changes in its groups when it takes a step: this is state, and anything else a hyperparameter."""
    with code.tried():
        tiny = _Tiny(code, training)
        before = [copy.deepcopy({k: v for k, v in g.items() if k != "params"}) for g in tiny.optimizer.param_groups]
        tiny.step(2)
        groups = zip(before, tiny.optimizer.param_groups, strict=True)
        return {k for old, new in groups for k in new if k != "params" and not _same(old.get(k), new[k])}


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else bool(a == b)


# --- a schedule -------------------------------------------------------------------------------------------------------


def factor(code: Own, training: TrainingSection, progress: float) -> float:
    """The part of the learning rate after ``progress`` epochs.

    Raises:
        ConfigError: it is no number ≥ 0.
    """
    more = {"epochs": training.schedule_epochs or training.epochs} if own.takes(code.found, "epochs") else {}
    found = code.found(progress, **more)
    try:
        number = float(found)
    except (TypeError, ValueError):
        raise code.wrong(f"returned {type(found).__name__}. Return the part of the learning rate, a number.") from None
    if not 0 <= number < math.inf:
        raise code.wrong(
            f"returned {number} after {progress:g} epochs. Return the part of the learning rate, a number ≥ 0."
        )
    return number


def schedule_tried(code: Own, training: TrainingSection) -> None:
    """Ask for a few rates, twice each.

    Raises:
        ConfigError: it fails, or its rates depend on more than the position.
    """
    schedulers = (torch.optim.lr_scheduler.LRScheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    if (inspect.isclass(code.found) and issubclass(code.found, schedulers)) or not callable(code.found):
        raise code.wrong(
            "is no function of the epochs that are done. Schedulers of torch count steps; write what one computes as such a function."
        )
    with code.tried():
        places = [training.epochs * i / 8 for i in range(9)]
        first = [factor(code, training, p) for p in places]
        again = [factor(code, training, p) for p in reversed(places)]
        if first != again[::-1]:
            raise code.wrong(
                "returned two numbers for one position. Let them depend on the epochs that are done, and on nothing else."
            )
