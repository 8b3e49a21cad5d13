"""Save and restore what decides the next step: random generators, model, optimizer. All as tensors and plain values."""

from __future__ import annotations

import copy
import functools
import math
import platform
import random
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import nn

from raysweep._text import truncate
from raysweep.config.own import target_of
from raysweep.config.settings import TrainingSection
from raysweep.errors import CheckpointError
from raysweep.store.checkpoint_format import State
from raysweep.training import device, groups, models, own_optim
from raysweep.training.freezing import Freezing
from raysweep.training.own import Own


def seed_everything(seed: int, rank: int, epoch: int = 0) -> None:
    """Seed the global generators, which dropout and the user's models draw from. Each rank has its own stream."""
    mixed = int(np.random.SeedSequence([seed, 99, rank, epoch]).generate_state(1, np.uint64)[0])
    random.seed(mixed)
    np.random.seed(mixed % 2**32)
    torch.manual_seed(mixed % 2**63)


_cuda_started: Callable[[], bool] = torch.cuda.is_initialized


class RngState(TypedDict):
    """The state of every generator of a process, as a checkpoint holds it."""

    python: list[Any]  # version, numbers, gauss
    numpy: list[Any]  # name, keys, position, has_gauss, cached_gaussian
    torch: torch.Tensor
    cuda: list[torch.Tensor]  # of the GPU in use, if there is one
    accelerator: NotRequired[dict[str, torch.Tensor]]  # of another kind of accelerator


def rng_state() -> RngState:
    """The state of every generator of this process."""
    version, numbers, gauss = random.getstate()
    name, keys, pos, has_gauss, cached = np.random.get_state(legacy=True)
    found: RngState = {
        "python": [version, list(numbers), gauss],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(pos),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() and _cuda_started() else [],
    }
    if others := device.generator_state():
        found["accelerator"] = others
    return found


def set_rng_state(state: Mapping[str, Any], source: str | Path = "the checkpoint", gpu: bool = True) -> None:
    """Restore what :func:`rng_state` returned.

    Args:
        state: of any content: it may come from a checkpoint of somebody else.
        source: the name of the checkpoint, for the error.
        gpu: whether to restore the GPU's generator, too.

    Raises:
        CheckpointError: it is not a state of the generators.
    """
    try:
        if not isinstance(state, Mapping):
            raise TypeError(f"a mapping is needed, not {type(state).__name__}")
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        name, keys, pos, has_gauss, cached = state["numpy"]
        if not 0 <= pos <= 624:  # numpy does not check it, and would read beyond its 624 numbers
            raise ValueError(f"the position of numpy's generator is {pos}, not in 0 … 624")
        np.random.set_state((name, keys.numpy().astype(np.uint32), pos, has_gauss, cached))
        torch.set_rng_state(state["torch"].cpu())
        of_gpus = [s.cpu() for s in list(state["cuda"])]
        if gpu and of_gpus and torch.cuda.is_available():
            torch.cuda.set_rng_state(of_gpus[0])
        of_others = {str(k): v.cpu() for k, v in dict(state.get("accelerator") or {}).items()}
        if gpu:
            device.set_generator_state(of_others)
    except Exception as error:  # each generator raises errors of its own
        raise CheckpointError(
            f"The states of the random generators in {source} cannot be restored ({type(error).__name__}: {truncate(error)}). "
            "Use another checkpoint."
        ) from None


def try_rng_states(ranks: Sequence[Mapping[str, Any]], source: str | Path) -> None:
    """Check that the generators' states of all ranks can be restored. The generators of this process keep their states.

    Raises:
        CheckpointError: a state cannot be restored.
    """
    mine = rng_state()
    try:
        for state in ranks:
            set_rng_state(state, source, gpu=False)
    finally:
        set_rng_state(mine)


def versions() -> dict[str, str]:
    """The versions of Python, raysweep, torch, numpy and Ray: other versions can give other bits or formats."""
    return dict(_versions())


@functools.cache  # it reads files, and an actor calls it for every branch
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("raysweep", "torch", "numpy", "ray"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def restore_model(model: nn.Module, weights: Mapping[str, Any], source: str) -> None:
    """Load the weights of a checkpoint.

    Raises:
        CheckpointError: they are of another model.
    """
    models.load_weights(model, weights, source)


def restore_optimizer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    source: str,
    training: TrainingSection,
    code: Own | None = None,
    freezing: Freezing | None = None,
    num_classes: int = 0,
    epoch: int = 1,
) -> None:
    """Load the optimizer's state but keep the hyperparameters of this run, which may override the checkpoint's.

    Args:
        code: where it is the user's own.
        freezing: what is trained, and ``epoch``: the next one; what is frozen in it has no state. Default: all is trained.
        num_classes: of the network.

    Raises:
        CheckpointError: the state belongs to another optimizer or model.
    """
    mine = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    saved = copy.deepcopy(state["optimizer_state_dict"])  # torch would keep these tensors and change them at each step
    _check_same_optimizer(state, source, training)
    expected = {"momentum_buffer"} if isinstance(optimizer, torch.optim.SGD) else {"exp_avg", "exp_avg_sq", "step"}
    try:
        slots = {k for row in saved.get("state", {}).values() for k in row}
        if code is None and slots and not slots & expected:
            raise _another_optimizer(source)
        fitting = _fitting(model, optimizer, saved, state, training, freezing, num_classes)
        if code is not None:
            own_optim.restore(code, optimizer, fitting, training)
            _own_scales(optimizer, mine)
            _forget_frozen(model, optimizer, freezing, epoch)
            return
        for group, own in zip(
            fitting["param_groups"], mine, strict=True
        ):  # before loading, because torch checks them then
            group.update(own)
        optimizer.load_state_dict(fitting)
        _own_scales(optimizer, mine)
        _forget_frozen(model, optimizer, freezing, epoch)
        for parameter, row in optimizer.state.items():
            _check_slots(parameter, row, expected)
    except (ValueError, LookupError, RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"The optimizer state in {source} does not fit ({truncate(error)}). Use --weights-only to start with a new optimizer."
        ) from None


def _fitting(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    saved: State,
    checkpoint: Mapping[str, Any],
    training: TrainingSection,
    freezing: Freezing | None,
    num_classes: int,
) -> State:
    """The saved state in the optimizer's own groups, with the optimizer's own options where it had others."""
    freezing = freezing or Freezing.nothing(model)
    settings = (checkpoint.get("config") or {}).get("settings")
    found = groups.rearranged(model, freezing, training, saved, settings, num_classes)
    if found is not saved:
        mine = optimizer.state_dict()["param_groups"]
        known = saved["param_groups"][0]
        for group, own in zip(found["param_groups"], mine, strict=True):
            group |= {k: known.get(k, v) for k, v in own.items() if k != "params"}
    return found


def _own_scales(optimizer: torch.optim.Optimizer, mine: Sequence[Mapping[str, Any]]) -> None:
    """A group that has no factor of its own must not keep the checkpoint's."""
    for group, own in zip(optimizer.param_groups, mine, strict=True):
        if groups.SCALE not in own:
            group.pop(groups.SCALE, None)


def _forget_frozen(model: nn.Module, optimizer: torch.optim.Optimizer, freezing: Freezing | None, epoch: int) -> None:
    """Keep no state of what is frozen in ``epoch``: it would be of no use, and large."""
    frozen = frozenset() if freezing is None else freezing.frozen(epoch)
    for name, parameter in model.named_parameters() if frozen else ():
        if name in frozen:
            optimizer.state.pop(parameter, None)


def _another_optimizer(source: str) -> CheckpointError:
    return CheckpointError(
        f"The optimizer state in {source} is of another optimizer. Keep training.optimizer as it was, or use --weights-only to "
        "start with a new optimizer."
    )


def _check_same_optimizer(state: Mapping[str, Any], source: str, training: TrainingSection) -> None:
    """Raises CheckpointError where the checkpoint's optimizer or this run's is the user's own, and they are not the same: their
    states may look alike."""
    before: Any = state.get("config") or {}
    for key in ("settings", "training", "optimizer"):
        before = before.get(key) if isinstance(before, Mapping) else None
    if (
        isinstance(before, str)
        and before != training.optimizer
        and (target_of(before) or target_of(training.optimizer))
    ):
        raise _another_optimizer(source)


def _check_slots(parameter: torch.Tensor, row: Mapping[str, Any], expected: set[str]) -> None:
    """Check what an optimizer keeps for one parameter. torch itself would fail only at the next step.

    Raises:
        ValueError: a tensor is missing or has another shape, or the number of steps makes no sense.
    """
    if row and not row.keys() >= expected:
        raise ValueError(f"it lacks {', '.join(sorted(expected - row.keys()))}")
    for name, value in row.items():
        if value is None and name == "momentum_buffer":
            continue
        shape = () if name == "step" else tuple(parameter.shape)
        if not _is_float(value, shape):
            found = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ValueError(f"{name} is {found}, but {shape} is needed")
        if name == "step" and not 0 <= float(value) < math.inf:
            raise ValueError(f"{name} is {float(value)}")


def _is_float(value: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(value, torch.Tensor) and tuple(value.shape) == shape and value.is_floating_point()


def without_data(value: Any) -> Any:
    """A copy of nested dicts and lists, its tensors on the meta device: shapes without numbers. Scalars keep their value."""
    if isinstance(value, torch.Tensor):
        return value if value.numel() == 1 else torch.empty_like(value, device="meta")
    if isinstance(value, Mapping):
        return {k: without_data(v) for k, v in value.items()}
    return [without_data(v) for v in value] if isinstance(value, (list, tuple)) else value
