"""The conditions that decide the bits of a training besides its state: processor, precision, threads, ranks, library versions,
variables of the environment, the user's code.

Every checkpoint records them. Where they differ when a training continues from it, the log says so once.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raysweep import _machine
from raysweep.training import device as devices
from raysweep.training import guest, guest_main

_WORDS = {"threads": "thread", "world_size": "worker"}
_NAMES = {
    "features": "computed features",
    "cpu": "processor",
    "function": "model function",
    "imports": "files that it imports",
}
_CODE = ("function", "imports")  # what is recorded of a user's code
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


def here(
    device: torch.device, bf16: bool, threads: int, world_size: int, model: str = "cnn", path: str | None = None
) -> Conditions:
    """The conditions of this process.

    Args:
        model: ``model.name``, which was built in this process, and ``path``: ``model.path``.
    """
    gpu = devices.kind(device) != "cpu"
    return {
        "device": devices.name(device),
        "instructions": "" if gpu else torch.backends.cpu.get_cpu_capability(),  # AVX2 and AVX-512 round differently
        "precision": "bf16" if bf16 else "fp32",
        "threads": threads,
        "world_size": world_size,
        "torch": str(torch.__version__),
        "numpy": str(np.__version__),
        "cpu": "" if gpu else _machine.cpu_model(),
        "environment": _environment(os.environ),
        **of_model(model, path),
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


def of_model(name: str, path: str | None = None) -> Conditions:
    """The version of the library that builds a model. Of a user's function the files, and the libraries that are loaded.

    Raises:
        ConfigError: the user's function cannot be imported.
    """
    kind, _, target = name.partition(":")
    if kind == "python":
        loaded = [library for library in _LIBRARIES.values() if library in sys.modules]
        return {**_of_code(target, path), **{library: metadata.version(library) for library in loaded}}
    return {_LIBRARIES[kind]: metadata.version(_LIBRARIES[kind])} if kind in _LIBRARIES else {}


def _of_code(target: str, path: str | None) -> Conditions:
    """``MODULE:FUNCTION`` with the file that it stands in and the start of the file's SHA-256; the user's other files alike, one
    in a line."""
    if guest_main.is_main(target):
        return _of_notebook(target, path)
    found = guest.load(target, path)
    file = guest.file_of(found)
    if file is None:
        named = getattr(sys.modules[target.partition(":")[0]], "__file__", None)
        file = Path(named) if named else None
    try:
        content = b"" if file is None else file.read_bytes()
    except OSError:
        file = None
    function = (
        target if file is None else f"{target} in {file.name} (SHA-256 {hashlib.sha256(content).hexdigest()[:12]}…)"
    )
    code = guest.code_of(f"python:{target}", path)
    if code is None:
        return {"function": function}
    others = [f"{name}={digest[:12]}" for name, digest in code.hashes.items() if Path(code.folder, name) != file]
    return {"function": function, "imports": "\n".join(others)}


def _of_notebook(target: str, path: str | None) -> Conditions:
    """The same of code in a notebook, or in the script that runs; its text is that of its cells."""
    code = guest.code_of(f"python:{target}", path)
    hashes = {} if code is None else dict(code.hashes)
    own = hashes.pop(f"{guest_main.MODULE}.py", None)
    function = f"{target} (SHA-256 {own[:12]}…)" if own else target
    return {"function": function, "imports": "\n".join(f"{name}={digest[:12]}" for name, digest in hashes.items())}


def changed_code(saved: Mapping[str, Any], name: str, path: str | None) -> str | None:
    """In what the user's code now differs from that which a checkpoint was trained with; None where it does not, or where no
    code was recorded.

    Raises:
        ConfigError: as :func:`of_model`.
    """
    old = of_checkpoint(saved)
    if guest.target_of(name) is None or not any(old.get(key) for key in _CODE):
        return None
    now = of_model(name, path)
    told = differences({k: old[k] for k in _CODE if k in old}, {k: now[k] for k in _CODE if k in now})
    return f"the code of {name} is not that which the checkpoint was trained with: {'; '.join(told)}" if told else None


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
            found += _lines(str(before), str(value), "unset")
        elif key.split()[-1:] == ["imports"]:  # of the model, or of an option with code of the user
            found += [f"imported file {text}" for text in _lines(str(before), str(value), "no such file")]
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


def _lines(old: str, new: str, none: str) -> list[str]:
    """Each variable of the environment, or imported file, that differs: ``NAME=VALUE`` in a line of one of the two."""
    before, now = (dict(line.partition("=")[::2] for line in text.splitlines()) for text in (old, new))
    return [
        f"{name} {now.get(name, none)} instead of {before.get(name, none)}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
