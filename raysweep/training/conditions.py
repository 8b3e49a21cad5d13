"""The conditions that decide the bits of a training besides its state: device, precision, threads, ranks, library versions.

Every checkpoint records them. Where they differ when a training continues from it, the log says so once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

_WORDS = {"threads": "thread", "world_size": "worker"}
GPU_NOTE = "some GPU kernels sum in no fixed order"
Conditions = dict[str, str | int]  # plain types, as a checkpoint holds them


def here(device: torch.device, bf16: bool, threads: int, world_size: int) -> Conditions:
    """The conditions of this process."""
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else "CPU",
        "instructions": "" if gpu else torch.backends.cpu.get_cpu_capability(),  # AVX2 and AVX-512 round differently
        "precision": "bf16" if bf16 else "fp32",
        "threads": threads,
        "world_size": world_size,
        "torch": str(torch.__version__),
        "numpy": str(np.__version__),
    }


def of_checkpoint(saved: Mapping[str, Any]) -> Conditions:
    """The conditions under which a checkpoint was written; those that it does not record are omitted."""
    known = saved.get("conditions")
    if isinstance(known, Mapping):
        return dict(known)
    return {k: saved[k] for k in ("threads", "world_size") if saved.get(k) is not None}


def differences(old: Mapping[str, str | int], new: Mapping[str, str | int]) -> list[str]:
    """Why the bits may differ, such as ``2 threads instead of 1``; empty where they must be equal.

    Conditions that ``old`` does not record count as equal.
    """
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
    if new.get("device", "CPU") != "CPU":
        found.append(GPU_NOTE)
    return found
