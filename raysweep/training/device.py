"""Which device a training uses, by ``torch.accelerator``: NVIDIA's and AMD's GPUs (``cuda``), Apple's (``mps``), Intel's (``xpu``),
and what is not exact there."""

from __future__ import annotations

import contextlib
import platform
from types import ModuleType
from typing import Any

import torch

CPU = torch.device("cpu")
_NAMES = {"cuda": "GPU", "mps": "Apple GPU (MPS)", "xpu": "Intel GPU (XPU)"}
_WITH_WORKERS = ("cuda",)  # Ray reserves these, and torch.distributed has a backend for them that Ray Train starts
_accelerator: ModuleType = torch.accelerator
_SINGLE = ("mps",)  # these have no numbers in double precision


def found() -> torch.device | None:
    """The accelerator that torch can use on this machine; None if it has to be the CPU."""
    if not _accelerator.is_available():
        return None
    there: torch.device | None = _accelerator.current_accelerator()
    return there


def count() -> int:
    """How many of them there are."""
    return _accelerator.device_count() if found() is not None else 0


def kind(device: torch.device) -> str:
    """``cpu``, ``cuda``, ``mps``, ``xpu``, or what else torch calls it."""
    return str(device.type)


def current() -> torch.device:
    """The accelerator of this process.

    Raises:
        RuntimeError: there is none, as torch says it.
    """
    there = found()
    if there is None:
        raise RuntimeError("torch sees no GPU in this process")
    return torch.device(there.type, _accelerator.current_device_index())


def with_workers() -> bool:
    """Whether Ray's workers can use this machine's accelerator."""
    there = found()
    return there is not None and kind(there) in _WITH_WORKERS


def title(device: torch.device) -> str:
    """What people call a kind of device."""
    return _NAMES.get(kind(device), kind(device).upper())


def name(device: torch.device) -> str:
    """The model of a device, as its maker calls it."""
    if kind(device) == "cpu":
        return "CPU"
    module = _module(device)
    if hasattr(module, "get_device_name"):
        return str(module.get_device_name(device))
    return f"{title(device)} of {platform.processor() or platform.machine()}"


def sums(device: torch.device) -> torch.dtype:
    """In which precision an epoch's loss is added up there."""
    return torch.float32 if kind(device) in _SINGLE else torch.float64


def caveat(device: torch.device) -> str | None:
    """What is not exact on a device that this program has not been tried on; None for the CPU and ``cuda``."""
    if kind(device) in ("cpu", "cuda"):
        return None
    single = " Losses are added up in single precision." if sums(device) == torch.float32 else ""
    return (
        f"It trains on this machine's {title(device)}, where results are not bit-exact: kernels may sum in another order each time, "
        f"and differ from those of the CPU and of NVIDIA's GPUs.{single} scaling.use_gpu=false trains on the CPU, bit for bit."
    )


def autocast(device: torch.device, bf16: bool) -> contextlib.AbstractContextManager[Any]:
    """The context in which a network is called there."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()


def generator_state() -> dict[str, torch.Tensor]:
    """Kind → the state of the accelerator's random generator; empty where it has none. That of ``cuda`` is kept apart."""
    there = found()
    if there is None or kind(there) == "cuda" or not hasattr(_module(there), "get_rng_state"):
        return {}
    return {kind(there): _module(there).get_rng_state().cpu()}


def set_generator_state(states: dict[str, torch.Tensor]) -> None:
    """Restore what :func:`generator_state` returned, if this machine's accelerator is of the same kind."""
    there = found()
    if there is not None and kind(there) in states:
        _module(there).set_rng_state(states[kind(there)])


def _module(device: torch.device) -> ModuleType:
    found: ModuleType = torch.get_device_module(device.type)
    return found
