"""How many branches of a sweep run at the same time on a cluster whose nodes come and go while they train.

Tune asks its generator of trials again and again whether there is another one; the generators here look at the nodes first.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import Any

from raysweep._text import counted
from raysweep.cluster.nodes import node_resources
from raysweep.plan import capacity
from raysweep.plan.resources import Resources

EVERY_S = 5.0


@dataclass
class Limit:
    """Call it for the number of now: it looks at the nodes again every few seconds.

    Args:
        needs, gpus: of a branch.
        most: never more than that.
        count: the number as long as nobody has looked.
        varies: False where there is no cluster to look at, only this machine.
    """

    needs: Resources
    gpus: float
    most: int
    count: int
    varies: bool = True
    looked: float = -math.inf  # when

    def __call__(self) -> int:
        now = time.monotonic()
        if self.varies and now - self.looked >= EVERY_S:
            self.looked = now
            with contextlib.suppress(Exception):  # the connection may be gone; Tune itself then says so
                # One stays even where none fits: its node may come back, and Ray waits for that.
                self.count = max(1, min(self.most, capacity.fitting(self.needs, self.gpus, node_resources())))
        return self.count

    def change(self) -> str | None:
        """What is to be said if the number is another one than at the last call."""
        before = self.count
        if self() == before:
            return None
        return f"The nodes of the cluster now hold {counted(self.count, 'branch', 'branches')} at once instead of {before:,}."


def of_grid(limit: Limit) -> Any:
    """Tune's generator of the trials of a grid."""
    from ray.tune.search import BasicVariantGenerator

    class Growing(BasicVariantGenerator):  # type: ignore[misc, unused-ignore]  # Ray has no types here
        def next_trial(self) -> Any:
            self.max_concurrent = limit()
            return super().next_trial()

    return Growing(max_concurrent=limit.count)


def of_search(search: Any, limit: Limit) -> Any:
    """``search``, which is asked for no more trials at once."""
    from ray.tune.search import ConcurrencyLimiter

    class Growing(ConcurrencyLimiter):  # type: ignore[misc, unused-ignore]  # Ray has no types here
        def suggest(self, trial_id: str) -> Any:
            self.set_max_concurrency(limit())
            return super().suggest(trial_id)

    return Growing(search, max_concurrent=limit.count)
