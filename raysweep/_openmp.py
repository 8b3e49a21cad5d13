"""How the threads of OpenMP, in which torch computes on CPUs, wait for each other, and how many the user wants.

By default they spin while they wait. Beside other work that burns the time which the others need: an epoch then takes two to ten
times as long. After a short spin they sleep instead, which changes no bit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

# GCC's library counts turns of a loop, Intel's (and LLVM's) milliseconds; each reads its own when it is loaded.
CALM = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
# With one of these the user has decided.
CHOSEN = (*CALM, "OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY")


def calm(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let waiting threads sleep after a short spin, in this process and those that it starts, unless the user has decided otherwise.

    It has an effect only before torch is loaded.
    """
    if not any(name in environment for name in CHOSEN):
        environment.update(CALM)


def threads_wanted(environment: Mapping[str, str] = os.environ) -> int | None:
    """``OMP_NUM_THREADS`` as torch takes it, of several numbers the first; None where it is not set or no number.

    >>> threads_wanted({"OMP_NUM_THREADS": "4,2"})
    4
    """
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else None


def described(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What decides how the threads wait, as it is in this process: variable → value."""
    return {name: environment[name] for name in CHOSEN if name in environment}
