"""How many branches of a sweep run at the same time, on this machine or on a cluster, which may still get nodes for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from raysweep import _machine
from raysweep._text import counted
from raysweep.cluster import autoscaler, shared_root
from raysweep.errors import ResourceError
from raysweep.events import Progress
from raysweep.plan import resources
from raysweep.plan.resources import Resources

if TYPE_CHECKING:
    from raysweep.plan.types import SweepPlan


def at_once(plan: SweepPlan, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many branches run at the same time on nodes with these resources.

    Raises:
        ResourceError: not even one fits, so the sweep would wait forever.
    """
    workers = max(1, plan.base.resources.workers)
    found = fitting(plan.base.resources, plan.gpus_per_branch, nodes)
    if found == 0:
        each = counted(of_branch(plan.base.resources).cpus, "CPU")
        if plan.gpus_per_branch:
            each += f" and {counted(plan.gpus_per_branch, 'GPU')}"
        raise ResourceError(
            f"A branch needs {each if workers == 1 else f'{workers} workers with {each} each'}, but there are "
            f"{resources.described(nodes)}. Ask for less with --threads, --workers or --gpus-per-branch."
        )
    return min(found, most_at_once(plan))


def most_at_once(plan: SweepPlan) -> int:
    """How many branches run at the same time where the machines are large enough."""
    return max(1, min(plan.branches, plan.max_concurrent or plan.branches))


def fitting(needs: Resources, gpus: float, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many branches fit on nodes with these resources; ``gpus``: of each branch."""
    return sum(_worker_slots(node, of_branch(needs).cpus, gpus) for node in nodes) // max(1, needs.workers)


def _worker_slots(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    """How many workers of branches one node holds, each with ``cpus`` CPUs and ``gpus`` GPUs, which may be a fraction."""
    by_cpu = int(node.get("CPU", 0)) // cpus
    if not gpus:
        return by_cpu
    there = float(node.get("GPU", 0))
    # Ray packs fractions into single GPUs, so only whole workers of each GPU count.
    return min(by_cpu, int(there) * int(1 / gpus + 1e-9) if gpus < 1 else int(there // gpus))


def settle(plan: SweepPlan, fleet: autoscaler.Fleet, progress: Progress) -> int:
    """How many branches run at the same time on the connected cluster. Requests nodes for them and waits for these.

    Raises:
        ResourceError: not even one branch fits, or a machine does not see the root.
    """
    wanted = most_at_once(plan)

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
    """What to request from an autoscaler for ``count`` branches: the CPUs and GPUs of every worker."""
    each = {"CPU": float(of_branch(plan.base.resources).cpus)}
    if plan.gpus_per_branch:
        each["GPU"] = plan.gpus_per_branch
    return [dict(each) for _ in range(count * max(1, plan.base.resources.workers))]


def with_gpus(plan: SweepPlan, nodes: Sequence[Mapping[str, float]]) -> SweepPlan:
    """The plan with ``scaling.use_gpu: auto`` decided for a cluster: a GPU for every worker if one branch can have them.

    It is decided here, since the GPUs of this machine say nothing about those of a cluster.
    """
    base = plan.base
    gpus = resources.total(nodes, "GPU")
    auto = base.settings.scaling.use_gpu == "auto" and base.settings.scaling.address is not None
    if not auto or plan.gpus_per_branch or gpus < max(1, base.resources.workers):
        return plan
    return replace(plan, gpus_per_branch=1.0, base=replace(base, resources=replace(base.resources, use_gpu=True)))


def this_machine() -> list[dict[str, float]]:
    """The resources of this machine, as if it were the only node of a cluster."""
    return [{"CPU": float(_machine.cpus_here()), "GPU": float(resources.gpus_for_ray())}]


def queue(plan: SweepPlan, left: int, count: int) -> str:
    """Why no more than ``count`` branches run at a time, and how many of the ``left`` ones wait; empty if none waits."""
    if left <= count:
        return ""
    where = "cluster" if plan.base.settings.scaling.address else "machine"
    why = "as --max-concurrent says" if count == plan.max_concurrent else f"on this {where}"
    return f"{why}; {left - count:,} wait{'s' * (left - count == 1)}"


def of_branch(fitted: Resources) -> Resources:
    """The resources of a branch: as many CPUs as threads, so that branches at the same time do not compete for CPUs.

    A branch that trains on a GPU in its own process gets one CPU, so that as many branches fit as share the GPU.
    """
    return replace(fitted, cpus=1 if fitted.use_gpu and fitted.workers == 0 else max(1, fitted.threads))
