"""The resources of this machine."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path


def cpus_here() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@functools.cache
def cpu_model() -> str:
    """The model of this machine's processor, such as ``AMD EPYC 9B14``; what it is called by its parts where it has no name."""
    parts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            parts.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    arm = [parts[key] for key in ("CPU implementer", "CPU part", "CPU variant") if key in parts]
    return parts.get("model name") or " ".join(arm) or platform.processor() or platform.machine()
