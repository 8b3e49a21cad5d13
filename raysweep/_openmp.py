"""How the threads of OpenMP, in which torch computes on CPUs, wait for each other, and how many the user wants.

By default they spin while they wait. Beside other work that burns the time which the others need: an epoch then takes two to ten
times as long. Threads that sleep after a short spin are 5 to 15 % slower where nothing else runs. So it is decided by what
runs, once, just before torch is loaded; the processes that are started inherit the decision. It changes no bit.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, MutableMapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from raysweep import _machine

# GCC's library counts turns of a loop, Intel's (and LLVM's) milliseconds; each reads its own when it is loaded.
CALM = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
# With one of these the user has decided.
CHOSEN = (*CALM, "OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY")
DECIDED = "RAYSWEEP_THREADS_WAIT"  # "spin" or "sleep": raysweep has decided, in this process or in one that started it


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let waiting threads sleep after a short spin where other programs use this machine's CPUs, in this process and those that it
    starts, unless that is decided already. It has an effect only before torch is loaded.
    """
    if any(name in environment for name in (*CHOSEN, DECIDED)):
        return
    sleep = others_run()
    environment[DECIDED] = "sleep" if sleep else "spin"
    if sleep:
        environment.update(CALM)


def others_run(stat: Path = Path("/proc/stat"), looks: int = 3) -> bool:
    """Whether other programs compute on CPUs that this process would use with all its threads.

    Linux counts what runs or could run in this moment; of a few looks the quietest holds. Elsewhere the load of the last minute must do.
    """
    here, all_of_them = _machine.cpus_here(), os.cpu_count() or 1
    try:
        found = []
        for _ in range(looks):
            (running,) = (line.split()[1] for line in stat.read_text().splitlines() if line.startswith("procs_running"))
            found.append(int(running) - 1)  # this process
            time.sleep(0.003)
        return min(found) + here > all_of_them
    except (OSError, ValueError):
        return _machine.busy(here) is not None


class _BeforeTorch:
    """Decides when torch is looked for: whoever imports it, and not before, since reading commands never do. It stays: one that
    left while Python goes through the finders would hide the next one."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name == "torch":
            settle()
        return None


def settle_before_torch() -> None:
    """Call :func:`settle` when torch is imported."""
    if "torch" not in sys.modules:
        sys.meta_path.insert(0, _BeforeTorch())


def threads_wanted(environment: Mapping[str, str] = os.environ) -> int | None:
    """``OMP_NUM_THREADS`` as torch takes it, of several numbers the first; None where it is not set or no number.

    >>> threads_wanted({"OMP_NUM_THREADS": "4,2"})
    4
    """
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else None


def described(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What decides how the threads wait, as it is in this process: variable → value."""
    return {name: environment[name] for name in (*CHOSEN, DECIDED) if name in environment}
