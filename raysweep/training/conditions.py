"""The conditions that decide the bits of a training besides its state: processor, precision, threads, ranks, library versions,
variables of the environment, the user's code.

Every checkpoint records them. Where they differ when a training continues from it, the log says so once.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raysweep import _machine

_WORDS = {"threads": "thread", "world_size": "worker"}
_NAMES = {"cpu": "processor", "function": "model function"}
GPU_NOTE = "some GPU kernels sum in no fixed order"
Conditions = dict[str, str | int]  # plain types, as a checkpoint holds them

# Variables by which libraries choose their kernels, so that sums are rounded in another order.
_VARIABLES = {
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
    *(
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
        "TORCH_BLAS_PREFER_CUBLASLT",
        "OPENBLAS_CORETYPE",
        "NPY_DISABLE_CPU_FEATURES",
    ),
}
_FAMILIES = ("ONEDNN_", "DNNL_")
_HARMLESS = ("VERBOSE", "DUMP", "PROFILE", "TIMESTAMP")  # they only print
_LIBRARIES = {"torchvision": "torchvision", "hf": "transformers", "timm": "timm"}  # kind of a model → what builds it


def here(device: torch.device, bf16: bool, threads: int, world_size: int, model: str = "cnn") -> Conditions:
    """The conditions of this process.

    Args:
        model: ``model.name``, which was built in this process.
    """
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else "CPU",
        "instructions": "" if gpu else torch.backends.cpu.get_cpu_capability(),  # AVX2 and AVX-512 round differently
        "precision": "bf16" if bf16 else "fp32",
        "threads": threads,
        "world_size": world_size,
        "torch": str(torch.__version__),
        "numpy": str(np.__version__),
        "cpu": "" if gpu else _machine.cpu_model(),
        "environment": _environment(os.environ),
        **_of_model(model),
    }


def of_ranks(ranks: Sequence[Conditions]) -> Conditions:
    """The conditions of all ranks as one: where they differ, the values in the order of the ranks."""
    values = {key: [rank.get(key, "") for rank in ranks] for rank in ranks for key in rank}
    return {key: v[0] if len({*v}) == 1 else " / ".join(map(str, v)) for key, v in values.items()}


def _environment(variables: Mapping[str, str]) -> str:
    """The variables that choose kernels, one in a line; empty where none is set."""
    found = [
        f"{name}={value}"
        for name, value in sorted(variables.items())
        if name in _VARIABLES or (name.startswith(_FAMILIES) and not any(word in name for word in _HARMLESS))
    ]
    return "\n".join(found)


def _of_model(name: str) -> Conditions:
    """The version of the library that builds a model. Of a user's function the file, and the libraries that are loaded."""
    kind, _, target = name.partition(":")
    if kind == "python":
        loaded = [library for library in _LIBRARIES.values() if library in sys.modules]
        return {"function": _function(target), **{library: metadata.version(library) for library in loaded}}
    return {_LIBRARIES[kind]: metadata.version(_LIBRARIES[kind])} if kind in _LIBRARIES else {}


def _function(target: str) -> str:
    """``MODULE:FUNCTION`` with the file that it stands in and the start of the file's SHA-256."""
    module, _, name = target.partition(":")
    found = importlib.import_module(module)
    try:
        file = inspect.getsourcefile(inspect.unwrap(getattr(found, name)))
    except TypeError:  # an object that can be called, or a function that is not written in Python
        file = getattr(found, "__file__", None)
    try:
        content = Path(file or "").read_bytes()
    except OSError:
        return target
    return f"{target} in {Path(file or '').name} (SHA-256 {hashlib.sha256(content).hexdigest()[:12]}…)"


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
        if before == value:
            continue
        if key == "environment":
            found += _variables(str(before), str(value))
        elif key in _WORDS:
            found.append(f"{value} {_WORDS[key]}{'s' * (value != 1)} instead of {before}")
        else:
            found.append(f"{_NAMES.get(key, key)} {value} instead of {before}")
    if new.get("device", "CPU") != "CPU":
        found.append(GPU_NOTE)
    return found


def unrecorded(old: Mapping[str, str | int], new: Mapping[str, str | int]) -> list[str]:
    """The conditions that ``old`` does not record, because an earlier version wrote it."""
    return [_NAMES.get(key, key) for key in new if key not in old]


def _variables(old: str, new: str) -> list[str]:
    """Each variable of the environment that differs."""
    before, now = (dict(line.partition("=")[::2] for line in text.splitlines()) for text in (old, new))
    return [
        f"{name} {now.get(name, 'unset')} instead of {before.get(name, 'unset')}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
