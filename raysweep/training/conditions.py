"""What besides the state decides the bits of a training: device, precision, threads, ranks, library versions.

They are kept in every checkpoint. Where they differ when a training goes on from it, that is said once, in the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

_WORDS = {"threads": "thread", "world_size": "worker"}
GPU_NOTE = "some GPU kernels sum in no fixed order"


def here(device: torch.device, bf16: bool, threads: int, world_size: int) -> dict[str, Any]:
    """The conditions of this process, in plain types."""
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else "CPU",
        "instructions": "" if gpu else torch.backends.cpu.get_cpu_capability(),  # other vector units round differently
        "precision": "bf16" if bf16 else "fp32",
        "threads": threads,
        "world_size": world_size,
        "torch": str(torch.__version__),
        "numpy": str(np.__version__),
    }


def of_checkpoint(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions under which a checkpoint was written; what it does not tell is left out."""
    known = saved.get("conditions")
    if isinstance(known, Mapping):
        return dict(known)
    return {k: saved[k] for k in ("threads", "world_size") if saved.get(k) is not None}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What is not as it was, such as ``2 threads instead of 1``; empty where the bits must be equal."""
    found = []
    for key, value in new.items():
        before = old.get(key, value)
        if before != value:
            word = _WORDS.get(key)
            found.append(
                f"{value} {word}{'s' * (value != 1)} instead of {before}"
                if word
                else f"{key} {value} instead of {before}"
            )
    if new.get("device") != "CPU" and "device" in new:
        found.append(GPU_NOTE)
    return found
