"""The resources of this machine, and the limits of this process that a training cannot live with."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Iterator
from pathlib import Path


def cpus_here() -> int:
    """How many CPUs this process may use at once: by its affinity, and by the quota of its container."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(allowed, int(cpu_quota() or allowed)))


def cpu_quota(groups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> float | None:
    """How many CPUs' time the control groups of this process allow it, such as 1.5; None where they set no limit.

    Args:
        groups: a line ``ID:CONTROLLERS:PATH`` for each group. mounted: where the groups are folders.
    """
    found = []
    with contextlib.suppress(OSError, ValueError):
        for line in groups.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            base = mounted if not controllers else mounted / ("cpu" if (mounted / "cpu").exists() else controllers)
            own = base / path.lstrip("/")
            # Each group above limits, too. In a container the folder of its own group is the mounted one itself.
            for folder in (own, *own.parents):
                found += _quota_of(folder)
                if folder == base:
                    break
    return min(found, default=None)


def _quota_of(folder: Path) -> list[float]:
    """The quota of one group, by the second or the first version of control groups; empty where there is none."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return [] if quota == "max" else [int(quota) / int(period)]
    with contextlib.suppress(OSError, ValueError):
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return [int(quota) / int(period)] if int(quota) > 0 else []
    return []


def busy(cpus: int | None = None) -> str | None:
    """A sentence where others already use this machine's CPUs, by the load of the last minute; None where there is room.

    Args:
        cpus: how many this process may use; None: :func:`cpus_here`.
    """
    cpus = cpus or cpus_here()
    if not hasattr(os, "getloadavg"):
        return None
    load = os.getloadavg()[0]
    if load < cpus + 1:
        return None
    return f"{cpus} CPU{'s' * (cpus > 1)}, load {load:.0f}: other programs use them, too, so this takes longer than on an idle machine."


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


def memory_here() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def small_limit(kind: str, needed: int, what: str, option: str) -> Iterator[str]:
    """Raise a limit of this process as far as it may be raised; yields a sentence where that is less than ``needed``.

    Args:
        kind: such as ``RLIMIT_NOFILE``; a system without such limits has none that is too small. option: of ``ulimit``.
    """
    try:
        import resource
    except ImportError:
        return
    limit = int(getattr(resource, kind))
    soft, hard = resource.getrlimit(limit)
    if soft != resource.RLIM_INFINITY and soft < needed:
        wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(limit, (wanted, hard))
        soft = wanted
    if soft != resource.RLIM_INFINITY and soft < needed:
        unit = 1024 if option == "v" else 1
        yield (
            f"This process may use only {soft:,} {what}, and {needed:,} are needed. Raise the limit with "
            f"`ulimit -{option} {needed // unit}`, or ask who runs this machine to."
        )


def too_small_for_torch() -> str | None:
    """A sentence where the address space of this process is so limited that torch cannot even be loaded."""
    return next(small_limit("RLIMIT_AS", 6 * 2**30, "bytes of address space", "v"), None)


def threads_forbidden(threads: int) -> str | None:
    """A sentence where ``OMP_THREAD_LIMIT`` allows fewer threads than a training uses: torch would wait for them for ever."""
    limit = os.environ.get("OMP_THREAD_LIMIT", "").strip()
    if not limit.isdigit() or not 0 < int(limit) < threads:
        return None
    return (
        f"OMP_THREAD_LIMIT={limit} allows fewer threads than the {threads} of this training, which would wait for the others "
        f"for ever. Use `unset OMP_THREAD_LIMIT`, or scaling.threads={limit}."
    )
