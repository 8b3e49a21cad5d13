"""How many branches of a sweep fit at the same time, on this machine or on a cluster, which may still grow for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from raysweep import _machine
from raysweep.cluster import autoscaler, shared_root
from raysweep.errors import ResourceError
from raysweep.events import Progress
from raysweep.plan import resources
from raysweep.plan.resources import Resources

if TYPE_CHECKING:
    from raysweep.plan.types import SweepPlan


def at_once(plan: SweepPlan, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many branches run at the same time on machines with these resources.

    Raises:
        ResourceError: not even one fits, so the sweep would wait for ever.
    """
    fitted = plan.base.resources
    per_branch = max(1, fitted.workers)
    cpus = of_branch(fitted).cpus
    places = 0
    for node in nodes:
        fit = int(node.get("CPU", 0)) // cpus
        if plan.gpus_per_branch:
            gpus = float(node.get("GPU", 0))
            share = plan.gpus_per_branch
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
            f"{f' and {plan.gpus_per_branch:g} GPU' if plan.gpus_per_branch else ''}, but there are {have}. "
            "Ask for less with --threads or --workers."
        )
    return max(1, min(count, plan.branches, plan.max_concurrent or count))


def settle(plan: SweepPlan, fleet: autoscaler.Fleet, progress: Progress) -> int:
    """How many branches run at the same time on the connected cluster, once it has the nodes it will get for them.

    Raises:
        ResourceError: not even one fits, or a machine does not see the root.
    """
    wanted = min(plan.branches, plan.max_concurrent or plan.branches)

    def fits(nodes: list[dict[str, float]]) -> tuple[int, bool]:
        count = at_once(plan, nodes)
        return count, count >= wanted

    fleet.ask(bundles(plan, wanted))
    count = fleet.until(fits)
    fleet.ask(bundles(plan, count))
    if plan.base.settings.scaling.address is not None:
        shared_root.check(plan.base.settings.root, progress)
    return count


def bundles(plan: SweepPlan, count: int) -> list[dict[str, float]]:
    """What so many branches need, for an autoscaler."""
    each = {"CPU": float(of_branch(plan.base.resources).cpus)}
    if plan.gpus_per_branch:
        each["GPU"] = plan.gpus_per_branch
    return [dict(each) for _ in range(count * max(1, plan.base.resources.workers))]


def with_gpus(plan: SweepPlan, nodes: Sequence[Mapping[str, float]]) -> SweepPlan:
    """``scaling.use_gpu: auto`` on a cluster: a GPU for every branch, or every worker of one, where there are so many. What
    GPUs this machine has says nothing of a cluster, so that it is decided here."""
    base = plan.base
    gpus = sum(int(n.get("GPU", 0)) for n in nodes)
    auto = base.settings.scaling.use_gpu == "auto" and base.settings.scaling.address is not None
    if not auto or plan.gpus_per_branch or gpus < max(1, base.resources.workers):
        return plan
    return replace(plan, gpus_per_branch=1.0, base=replace(base, resources=replace(base.resources, use_gpu=True)))


def this_machine() -> list[dict[str, float]]:
    """This machine as a node of a cluster."""
    return [{"CPU": float(_machine.cpus_here()), "GPU": float(resources.gpus_here())}]


def queue(plan: SweepPlan, left: int, count: int) -> str:
    """Why so many branches run at a time, and how many wait for their turn; empty where none does."""
    if left <= count:
        return ""
    where = "cluster" if plan.base.settings.scaling.address else "machine"
    why = "as --max-concurrent says" if count == plan.max_concurrent else f"on this {where}"
    return f"{why}; {left - count:,} wait{'s' * (left - count == 1)}"


def of_branch(fitted: Resources) -> Resources:
    """A branch gets as many CPUs as it has threads, so that branches side by side do not take them from each other; one
    that trains on a GPU gets a single one, so that as many as share the GPU fit."""
    return replace(fitted, cpus=1 if fitted.use_gpu and fitted.workers == 0 else max(1, fitted.threads))
