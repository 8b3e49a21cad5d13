"""Waiting for the nodes of a cluster. Where an autoscaler runs, nodes are requested, and given back after the work.

Ray's autoscaler starts nodes for tasks that wait in Ray, or on request. Our work does not wait in Ray, where a task that
never fits would wait forever without a message. So nodes are requested. A request stays in force until it is withdrawn.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from raysweep.cluster import _ray_internals
from raysweep.cluster.nodes import node_resources
from raysweep.cluster.signals import StopFlag, signals
from raysweep.config.running import ScalingSection
from raysweep.errors import Interrupted, ResourceError
from raysweep.events import Note, Progress

POLL_S = 2.0
LOST_S = 60.0  # how long to wait for lost nodes to come back, or for others
GROWING_S = 900.0  # how long to wait for new machines of a cloud
SETTLE_S = 60.0  # once there are enough nodes to begin: how long after the last new node to wait for more

T = TypeVar("T")


class Fleet:
    """The nodes of the connected cluster, and those that its autoscaler may still start."""

    def __init__(self, scaling: ScalingSection, progress: Progress) -> None:
        self.progress = progress
        self.grows = scaling.address is not None and grows()
        default_s = GROWING_S if self.grows else 0.0
        self.at_start = default_s if scaling.wait_for_nodes_s == "auto" else scaling.wait_for_nodes_s  # seconds
        self.asked: list[dict[str, float]] = []

    def ask(self, bundles: Sequence[Mapping[str, float]]) -> None:
        """Request nodes that hold all bundles at the same time. Replaces the previous request; none withdraws it.

        Args:
            bundles: the resources of each worker, such as ``{"CPU": 4.0, "GPU": 1.0}``.
        """
        wanted = [dict(b) for b in bundles]
        if not self.grows or wanted == self.asked:
            return
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=wanted)
        self.asked = wanted

    def until(self, fits: Callable[[list[dict[str, float]]], tuple[T, bool]]) -> T:
        """Wait at the start until there are enough nodes.

        Args:
            fits: takes the resources of each node; returns what they hold, and whether that is all that is wanted. Raises
                ResourceError if it is too little to begin.

        Returns:
            What ``fits`` has returned for the nodes that there are: all that is wanted, or what has come in time.

        Raises:
            ResourceError: from ``fits``, if too few nodes come in time.
            Interrupted: a signal asked to stop.
        """
        flag = StopFlag()
        started = grown = time.monotonic()
        last = -1
        with signals(flag):
            while True:
                nodes = node_resources()
                now = time.monotonic()
                late = now - started >= self.at_start
                if len(nodes) > last >= 0:
                    grown = now
                try:
                    found, complete = fits(nodes)
                except ResourceError as error:
                    if late:
                        raise _too_late(error, now - started, self.grows) from None
                    text = f"Waiting for nodes, up to {self.at_start:g} s (scaling.wait_for_nodes_s). {error}"
                else:
                    if complete or late or not self.grows or now - grown >= SETTLE_S:
                        return found
                    text = f"{len(nodes)} nodes are there, which is enough to begin; waiting while more come."
                if len(nodes) != last:
                    self.progress(Note(text))
                    last = len(nodes)
                _raise_if_stopped(flag)
                time.sleep(POLL_S)


@contextlib.contextmanager
def fleet(scaling: ScalingSection, progress: Progress) -> Iterator[Fleet]:
    """The connected cluster's nodes. The request for nodes is withdrawn at the end, so that the cluster can shrink."""
    found = Fleet(scaling, progress)
    try:
        yield found
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone
            found.ask([])


def after_a_loss(scaling: ScalingSection) -> float:
    """How many seconds to wait for nodes that replace lost ones."""
    if scaling.wait_for_nodes_s != "auto":
        return scaling.wait_for_nodes_s
    return GROWING_S if scaling.address is not None and grows() else LOST_S


def _raise_if_stopped(flag: StopFlag) -> None:
    if flag.reason is not None:
        raise Interrupted(f"Stopped by {flag.reason} while waiting for nodes. Nothing was created.", flag.reason)


def _too_late(error: ResourceError, seconds: float, growing: bool) -> ResourceError:
    if seconds < POLL_S:
        return error
    why = " `ray status` on the head shows what the autoscaler waits for." if growing else ""
    return ResourceError(f"After {seconds:.0f} s of waiting: {error}{why}")


def grows() -> bool:
    """Whether an autoscaler starts and stops nodes of the connected cluster.

    A cluster that was put together by hand has an autoscaler, too, but it only reports: there every node has a type of its
    own, ``node_ID``, or none.
    """
    import ray

    alive = {f"node_{n['NodeID']}" for n in ray.nodes() if n.get("Alive")}
    first = _ray_internals.node_types_of_autoscaler_v1()
    return (first is not None and not first & alive) or bool(
        _ray_internals.node_types_of_autoscaler_v2() - alive - {""}
    )
