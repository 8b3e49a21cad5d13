"""The resources of this machine."""

from __future__ import annotations

import os


def cpus_here() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
