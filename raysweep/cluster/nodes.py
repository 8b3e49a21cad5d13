"""The nodes of the connected cluster: which are alive, which answer, which will go away soon."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raysweep.cluster import _ray_internals


def node_resources() -> list[dict[str, float]]:
    """The resources of every node that is alive and will not go away soon, such as ``{"CPU": 8.0, "GPU": 1.0}``."""
    return [_resources(n) for n in living_nodes()]


def answering_nodes() -> tuple[list[dict[str, float]], int]:
    """The resources of every such node that answers, and the number of nodes that do not.

    Ray notices a lost node only after seconds, or a minute. Until then it counts the node as alive and gives it work.
    """
    alive = living_nodes()
    with ThreadPoolExecutor(min(32, len(alive) or 1)) as pool:
        found = [n for n, answers in zip(alive, pool.map(_answers, alive), strict=True) if answers]
    return [_resources(n) for n in found], len(alive) - len(found)


def _resources(node: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in node["Resources"].items()}


def living_nodes() -> list[dict[str, Any]]:
    """Ray's record of every node that is alive and will not go away soon. The keys are those of ``ray.nodes()``."""
    import ray

    leaving = _ray_internals.draining_nodes()
    return [n for n in ray.nodes() if n.get("Alive") and n["NodeID"] not in leaving]


def _answers(node: Mapping[str, Any]) -> bool:
    """Whether something listens at the address of a node's raylet."""
    if _ray_internals.is_ray_client():  # a machine outside the cluster may be unable to reach its nodes
        return True
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=3).close()
    except OSError:
        return False
    return True


def remove_leftovers() -> None:
    """Release the placement groups that a killed controller of Ray Train has left behind.

    Ray's own cleaner learns of them only after the workers have started. Inside an actor nothing is removed, because the
    placement groups of other actors belong to the same job.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    context = ray.get_runtime_context()
    if context.get_actor_id() is not None:
        return
    for name, row in placement_group_table().items():
        if name.endswith(context.get_job_id()) and row["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(name)))


class Notices:
    """Preemption notices for some nodes. See :func:`_ray_internals.draining_nodes` for why not Ray's own.

    Args:
        nodes: ids of the nodes to watch.
    """

    EVERY_S = 2.0

    def __init__(self, nodes: Sequence[str]) -> None:
        self.nodes = set(nodes)
        self.asked = 0.0
        self.known = False

    def arrived(self, now: bool = False) -> bool:
        """Whether one of the nodes will go away soon. Asks Ray at most every two seconds, or at once with ``now``."""
        if not self.known and (now or time.monotonic() - self.asked > self.EVERY_S):
            self.asked = time.monotonic()
            self.known = bool(self.nodes & _ray_internals.draining_nodes())
        return self.known
