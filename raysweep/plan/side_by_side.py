"""Whether branches with fewer threads each, of which more run at the same time, would train more images in all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from raysweep import _machine
from raysweep._text import counted
from raysweep.plan import networks
from raysweep.plan.types import Plan, SweepPlan, SweepRequest

_WORTH = 1.15  # times the images; less is within what a measurement of a second can be wrong by

# Numbers of threads -> seconds of a batch with each of them; empty: not measured.
Pace = Callable[[Sequence[int]], Mapping[int, float]]


def of_sweep(plan: SweepPlan, request: SweepRequest) -> list[str]:
    """One line that proposes ``--threads``, or none: where the user chose no number, and branches train on CPUs of this machine."""
    base = plan.base
    elsewhere = base.settings.scaling.address is not None or base.resources.use_gpu or base.resources.workers
    # With a frozen part an epoch may be other work than passes through the network; numbers of 16 bits, too.
    other_work = base.settings.model.freeze or base.settings.training.precision == "bf16"
    if request.threads is not None or elsewhere or other_work:
        return []
    return proposal(base, plan.branches, plan.max_concurrent)


def proposal(plan: Plan, branches: int, at_once: int | None, pace: Pace | None = None) -> list[str]:
    """One line that proposes ``--threads``, or none. The parent's number of threads stays unless the user asks for another, since
    the control then continues the parent to the bit.

    Args:
        plan: what all branches have in common, on the CPUs of this machine, each in one process.
        branches: how many wait for them.
        at_once: how many may run at the same time.
        pace: measures the network of the plan, unless given.
    """
    cpus, threads = _machine.cpus_here(), plan.resources.threads

    def side_by_side(each: int) -> int:
        return max(1, min(cpus // each, branches, at_once or branches))

    fewer = [n for n in (1, 2, 4, 8, 16, 32) if n < threads and side_by_side(n) > side_by_side(threads)]
    if not fewer:
        return []
    seconds = (pace or partial(_measured, plan))([*fewer, threads])
    if not seconds:
        return []
    rate = {n: side_by_side(n) / s for n, s in seconds.items()}
    best = max(fewer, key=lambda n: rate[n])
    times = rate[best] / rate[threads]
    if times < _WORTH:
        return []
    return [
        f"The branches have the parent's {counted(threads, 'thread')}, {counted(side_by_side(threads), 'branch', 'branches')} at a time. "
        f"With --threads {best} there would be {side_by_side(best)} at a time, and in all about {times:.1f} times as many images a second; "
        "the control would then no longer equal the parent to the bit."
    ]


def _measured(plan: Plan, threads: Sequence[int]) -> dict[int, float]:
    import torch

    from raysweep.training import guest, pace

    t = plan.settings.training
    with torch.random.fork_rng(devices=[]), guest.quiet(plan.settings.model.name):
        model = networks.built(plan)
        return pace.of_a_batch(model, plan.data.shape, min(t.batch_size, plan.draws), t.channels_last, threads)
