"""The nodes of the connected cluster: which are alive, which answer, which will be taken away."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raysweep.cluster import _ray_internals


def node_resources() -> list[dict[str, float]]:
    """The resources of every node that is alive and will not be taken away soon."""
    return [_resources(n) for n in living_nodes()]


def answering_nodes() -> tuple[list[dict[str, float]], int]:
    """The same of the nodes that answer, and how many do not: for some seconds to a minute Ray does not know of a node
    that is gone, and gives it work."""
    alive = living_nodes()
    with ThreadPoolExecutor(min(32, len(alive) or 1)) as pool:
        found = [n for n, answers in zip(alive, pool.map(_answers, alive), strict=True) if answers]
    return [_resources(n) for n in found], len(alive) - len(found)


def _resources(node: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in node["Resources"].items()}


def living_nodes() -> list[dict[str, Any]]:
    """What Ray tells of every node that is alive and will not be taken away soon."""
    import ray

    leaving = _ray_internals.draining_nodes()
    return [n for n in ray.nodes() if n.get("Alive") and n["NodeID"] not in leaving]


def _answers(node: Mapping[str, Any]) -> bool:
    """Whether something listens where a node's raylet does."""
    if _ray_internals.is_ray_client():  # a machine outside the cluster need not reach its nodes
        return True
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=3).close()
    except OSError:
        return False
    return True


def remove_leftovers() -> None:
    """Give back what a killed train controller had reserved: Ray's own cleaner learns of it only after the workers have
    started. Nothing is done inside an actor, whose neighbours' reservations belong to the same job."""
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    context = ray.get_runtime_context()
    if context.get_actor_id() is not None:
        return
    for name, row in placement_group_table().items():
        if name.endswith(context.get_job_id()) and row["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(name)))


class Notices:
    """Preemption notices for some nodes. Ray's own ``get_preemption_info`` is a barrier of all ranks at every call."""

    EVERY_S = 2.0

    def __init__(self, nodes: Sequence[str]) -> None:
        self.nodes = set(nodes)
        self.asked = 0.0
        self.known = False

    def arrived(self, now: bool = False) -> bool:
        """Whether one of the nodes will be taken away; asks Ray at most every two seconds, or ``now``."""
        if not self.known and (now or time.monotonic() - self.asked > self.EVERY_S):
            self.asked = time.monotonic()
            self.known = bool(self.nodes & _ray_internals.draining_nodes())
        return self.known
