"""How many branches of a sweep fit at the same time, on this machine or on a cluster, which may still grow for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from raysweep.errors import ResourceError
from raysweep.launch import resources, shared_root, waiting
from raysweep.launch.resources import Resources
from raysweep.launch.run import Progress

if TYPE_CHECKING:
    from raysweep.launch.sweep import SweepPlan


def at_once(the_plan: SweepPlan, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many branches run at the same time on machines with these resources.

    Raises:
        ResourceError: not even one fits, so the sweep would wait for ever.
    """
    fitted = the_plan.base.resources
    per_branch = max(1, fitted.workers)
    cpus = of_branch(fitted).cpus
    places = 0
    for node in nodes:
        fit = int(node.get("CPU", 0)) // cpus
        if the_plan.gpus_per_branch:
            gpus = float(node.get("GPU", 0))
            share = the_plan.gpus_per_branch
            # a fraction is packed into single GPUs, so only whole branches of each GPU count
            fit = min(fit, int(gpus) * int(1 / share + 1e-9) if share < 1 else int(gpus // share))
        places += fit
    count = places // per_branch
    if count == 0:
        have = (
            ", ".join(f"{int(n.get('CPU', 0))} CPUs and {int(n.get('GPU', 0))} GPUs" for n in nodes[:6]) or "no nodes"
        )
        raise ResourceError(
            f"A branch needs {per_branch} × {cpus} CPUs"
            f"{f' and {the_plan.gpus_per_branch:g} GPU' if the_plan.gpus_per_branch else ''}, but there are {have}. "
            "Ask for less with --threads or --workers."
        )
    return max(1, min(count, the_plan.branches, the_plan.max_concurrent or count))


def settle(the_plan: SweepPlan, fleet: waiting.Fleet, progress: Progress) -> int:
    """How many branches run at the same time on the connected cluster, once it has the nodes it will get for them.

    Raises:
        ResourceError: not even one fits, or a machine does not see the root.
    """
    wanted = min(the_plan.branches, the_plan.max_concurrent or the_plan.branches)

    def fits(nodes: list[dict[str, float]]) -> tuple[int, bool]:
        count = at_once(the_plan, nodes)
        return count, count >= wanted

    fleet.ask(bundles(the_plan, wanted))
    count = fleet.until(fits)
    fleet.ask(bundles(the_plan, count))
    if the_plan.base.settings.scaling.address is not None:
        shared_root.check(the_plan.base.settings.root, progress)
    return count


def bundles(the_plan: SweepPlan, count: int) -> list[dict[str, float]]:
    """What so many branches need, for an autoscaler."""
    each = {"CPU": float(of_branch(the_plan.base.resources).cpus)}
    if the_plan.gpus_per_branch:
        each["GPU"] = the_plan.gpus_per_branch
    return [dict(each) for _ in range(count * max(1, the_plan.base.resources.workers))]


def with_gpus(the_plan: SweepPlan, nodes: Sequence[Mapping[str, float]]) -> SweepPlan:
    """``scaling.use_gpu: auto`` on a cluster: a GPU for every branch, or every worker of one, where there are so many. What
    GPUs this machine has says nothing of a cluster, so that it is decided here."""
    base = the_plan.base
    gpus = sum(int(n.get("GPU", 0)) for n in nodes)
    auto = base.settings.scaling.use_gpu == "auto" and base.settings.scaling.address is not None
    if not auto or the_plan.gpus_per_branch or gpus < max(1, base.resources.workers):
        return the_plan
    return replace(the_plan, gpus_per_branch=1.0, base=replace(base, resources=replace(base.resources, use_gpu=True)))


def this_machine() -> list[dict[str, float]]:
    """This machine as a node of a cluster."""
    return [{"CPU": float(resources.cpus_here()), "GPU": float(resources.gpus_here())}]


def queue(the_plan: SweepPlan, left: int, count: int) -> str:
    """Why so many branches run at a time, and how many wait for their turn; empty where none does."""
    if left <= count:
        return ""
    where = "cluster" if the_plan.base.settings.scaling.address else "machine"
    why = "as --max-concurrent says" if count == the_plan.max_concurrent else f"on this {where}"
    return f"{why}; {left - count:,} wait{'s' * (left - count == 1)}"


def of_branch(fitted: Resources) -> Resources:
    """A branch gets as many CPUs as it has threads, so that branches side by side do not take them from each other; one
    that trains on a GPU gets a single one, so that as many as share the GPU fit."""
    return replace(fitted, cpus=1 if fitted.use_gpu and fitted.workers == 0 else max(1, fitted.threads))
