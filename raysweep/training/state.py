"""What a checkpoint holds: everything that decides the next step, as tensors, numbers, texts, lists and dicts."""

from __future__ import annotations

import copy
import functools
import math
import platform
import random
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from raysweep._text import truncate
from raysweep.errors import CheckpointError
from raysweep.training import models, optim


def seed_everything(seed: int, rank: int, epoch: int = 0) -> None:
    """Start the global generators (dropout, random calls of foreign models); each rank has its own stream."""
    mixed = int(np.random.SeedSequence([seed, 99, rank, epoch]).generate_state(1, np.uint64)[0])
    random.seed(mixed)
    np.random.seed(mixed % 2**32)
    torch.manual_seed(mixed % 2**63)


def rng_state() -> dict[str, Any]:
    """The state of every generator of this process, in plain types."""
    version, numbers, gauss = random.getstate()
    name, keys, pos, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(pos),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() and torch.cuda.is_initialized() else [],
    }


def set_rng_state(state: Mapping[str, Any], source: str | Path = "the checkpoint", gpu: bool = True) -> None:
    """Restore what :func:`rng_state` returned.

    Args:
        gpu: also the GPU's generator.

    Raises:
        CheckpointError: it is something else.
    """
    try:
        if not isinstance(state, Mapping):
            raise TypeError(f"a mapping is needed, not {type(state).__name__}")
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        name, keys, pos, has_gauss, cached = state["numpy"]
        if not 0 <= pos <= 624:  # numpy would read beyond the 624 numbers
            raise ValueError(f"numpy's generator cannot stand at {pos}")
        np.random.set_state((name, keys.numpy().astype(np.uint32), pos, has_gauss, cached))
        torch.set_rng_state(state["torch"].cpu())
        of_gpus = [s.cpu() for s in list(state["cuda"])]
        if gpu and of_gpus and torch.cuda.is_available():
            torch.cuda.set_rng_state(of_gpus[0])
    except Exception as error:  # each generator has its own way to refuse a state
        raise CheckpointError(
            f"The states of the random generators in {source} cannot be restored ({type(error).__name__}: {truncate(error)}). "
            "Take another checkpoint."
        ) from None


def try_rng_states(ranks: Sequence[Mapping[str, Any]], source: str | Path) -> None:
    """Look whether the generators' states of all ranks can be restored; this process keeps its own.

    Raises:
        CheckpointError: one cannot.
    """
    mine = rng_state()
    try:
        for state in ranks:
            set_rng_state(state, source, gpu=False)
    finally:
        set_rng_state(mine)


def versions() -> dict[str, str]:
    """The versions that can change bits or formats."""
    return dict(_versions())


@functools.cache  # it reads files; an actor asks for every branch
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("raysweep", "torch", "numpy", "ray"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def restore_model(model: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Raises CheckpointError if the weights are of another model."""
    models.load_weights(model, state["model_state_dict"], source)


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], source: str
) -> None:
    """Load the optimizer's state but keep this run's hyperparameters: an override of weight_decay or momentum counts.

    Raises:
        CheckpointError: it belongs to another optimizer or model.
    """
    mine = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    saved = copy.deepcopy(state["optimizer_state_dict"])  # torch keeps the tensors it is given and steps in place
    expected = {"momentum_buffer"} if isinstance(optimizer, torch.optim.SGD) else {"exp_avg", "exp_avg_sq", "step"}
    try:
        slots = {k for row in saved.get("state", {}).values() for k in row}
        if slots and not slots & expected:
            raise CheckpointError(
                f"The optimizer state in {source} is of another optimizer. Keep training.optimizer as it was, or start it afresh "
                "with --weights-only."
            )
        fitting = optim.regrouped(model, optimizer, saved)
        for group, own in zip(fitting["param_groups"], mine, strict=True):  # torch looks at them while it loads
            group.update(own)
        optimizer.load_state_dict(fitting)
        for parameter, row in optimizer.state.items():
            _check_slots(parameter, row, expected)
    except (ValueError, LookupError, RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"The optimizer state in {source} does not fit ({truncate(error)}). Start it afresh with --weights-only."
        ) from None


def _check_slots(parameter: torch.Tensor, row: Mapping[str, Any], expected: set[str]) -> None:
    """Raises ValueError if what an optimizer keeps for a parameter is not of its shape; torch would see it at a step only."""
    if row and not row.keys() >= expected:
        raise ValueError(f"it lacks {', '.join(sorted(expected - row.keys()))}")
    for name, value in row.items():
        if value is None and name == "momentum_buffer":
            continue
        shape = () if name == "step" else tuple(parameter.shape)
        if not isinstance(value, torch.Tensor) or tuple(value.shape) != shape or not value.is_floating_point():
            found = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ValueError(f"{name} is {found}, a parameter has {shape}")
        if name == "step" and not 0 <= float(value) < math.inf:
            raise ValueError(f"{name} is {float(value)}")


def without_data(value: Any) -> Any:
    """A copy of nested dicts and lists with every tensor's shape and none of its numbers, but for single ones."""
    if isinstance(value, torch.Tensor):
        return value if value.numel() == 1 else torch.empty_like(value, device="meta")
    if isinstance(value, Mapping):
        return {k: without_data(v) for k, v in value.items()}
    return [without_data(v) for v in value] if isinstance(value, (list, tuple)) else value
