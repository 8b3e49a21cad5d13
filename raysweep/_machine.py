"""What this machine offers a process."""

from __future__ import annotations

import os


def cpus_here() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
