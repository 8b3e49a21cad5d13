"""The nodes of the connected cluster: which are alive, which answer, which will go away soon."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from raysweep.cluster import _ray_internals


@dataclass(frozen=True)
class Node:
    """A node of the connected cluster."""

    id: str
    host: str
    address: str
    port: int  # of its raylet
    resources: dict[str, float]  # such as {"CPU": 8.0, "GPU": 1.0}

    @property
    def machine(self) -> tuple[str, str]:
        """(Host name, address). Both are needed: containers may share a name, machines behind a tunnel an address."""
        return self.host, self.address

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Node:
        """A node from its record in ``ray.nodes()``."""
        resources = {k: float(v) for k, v in record["Resources"].items()}
        host, address = record["NodeManagerHostname"], record["NodeManagerAddress"]
        return cls(record["NodeID"], host, address, record["NodeManagerPort"], resources)


def node_resources() -> list[dict[str, float]]:
    """The resources of every node that is alive and will not go away soon."""
    return [n.resources for n in living_nodes()]


def answering_nodes() -> tuple[list[dict[str, float]], int]:
    """The resources of every such node that answers, and the number of nodes that do not.

    Ray notices a lost node only after seconds, or a minute. Until then it counts the node as alive and gives it work.
    """
    alive = living_nodes()
    with ThreadPoolExecutor(min(32, len(alive) or 1)) as pool:
        found = [n for n, answers in zip(alive, pool.map(_answers, alive), strict=True) if answers]
    return [n.resources for n in found], len(alive) - len(found)


def living_nodes() -> list[Node]:
    """Every node that is alive and will not go away soon."""
    import ray

    leaving = _ray_internals.draining_nodes()
    return [Node.of(n) for n in ray.nodes() if n.get("Alive") and n["NodeID"] not in leaving]


def _answers(node: Node) -> bool:
    """Whether something listens at the address of a node's raylet."""
    if _ray_internals.is_ray_client():  # a machine outside the cluster may be unable to reach its nodes
        return True
    try:
        socket.create_connection((node.address, node.port), timeout=3).close()
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
