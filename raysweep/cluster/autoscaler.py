"""Waiting for nodes. A cluster that grows by itself is asked for them, and they are given back when the work has ended.

Ray's autoscaler starts nodes for work that waits, or when it is asked. Our work does not wait in Ray, where what does not
fit would wait for ever without a word; so it is asked. What is asked for stays asked for until somebody takes it back.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from raysweep.cluster import _ray_internals
from raysweep.cluster.nodes import node_resources
from raysweep.cluster.signals import StopFlag, signals
from raysweep.config.settings import ScalingSection
from raysweep.errors import Interrupted, ResourceError
from raysweep.events import Note, Progress

POLL_S = 2.0
LOST_S = 60.0  # for lost nodes to come back, or others
GROWING_S = 900.0  # for new machines of a cloud
SETTLE_S = 60.0  # enough are there for a start: for more only while more come

T = TypeVar("T")


class Fleet:
    """The nodes of the connected cluster, and those it may still get."""

    def __init__(self, scaling: ScalingSection, progress: Progress) -> None:
        self.progress = progress
        self.grows = scaling.address is not None and grows()
        given = None if scaling.wait_for_nodes_s == "auto" else scaling.wait_for_nodes_s
        ours = GROWING_S if self.grows else None
        self.at_start = given if given is not None else (ours or 0.0)
        self.asked: list[dict[str, float]] = []

    def ask(self, bundles: Sequence[Mapping[str, float]]) -> None:
        """Ask for nodes that hold so much at once; before, what was asked for, is forgotten."""
        wanted = [dict(b) for b in bundles]
        if not self.grows or wanted == self.asked:
            return
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=wanted)
        self.asked = wanted

    def until(self, fits: Callable[[list[dict[str, float]]], tuple[T, bool]]) -> T:
        """Wait at the start for nodes that are enough; what ``fits`` makes of them.

        Args:
            fits: what the nodes with these resources hold, and whether it is all that is wanted; raises ResourceError where
                it is too little to begin with.

        Raises:
            ResourceError: that of ``fits``, where the nodes do not come in time. Interrupted: a signal asked to stop.
        """
        flag = StopFlag()
        started = grown = time.monotonic()
        last = -1
        with signals(flag):
            while True:
                nodes = node_resources()
                now = time.monotonic()
                if len(nodes) > last >= 0:
                    grown = now
                try:
                    found, all_of_it = fits(nodes)
                    if all_of_it or not self.grows or now - grown >= SETTLE_S or now - started >= self.at_start:
                        return found
                    text = f"{len(nodes)} nodes are there, which is enough to begin; waiting while more come."
                except ResourceError as error:
                    if now - started >= self.at_start:
                        raise _too_late(error, now - started, self.grows) from None
                    text = f"Waiting for nodes, up to {self.at_start:g} s (scaling.wait_for_nodes_s). {error}"
                if len(nodes) != last:
                    self.progress(Note(text))
                    last = len(nodes)
                if flag.reason is not None:
                    raise Interrupted(
                        f"Stopped by {flag.reason} while it waited for nodes; nothing was made.", flag.reason
                    )
                time.sleep(POLL_S)


@contextlib.contextmanager
def fleet(scaling: ScalingSection, progress: Progress) -> Iterator[Fleet]:
    """The connected cluster's nodes. What was asked for is given back at the end, so that the cluster can shrink."""
    found = Fleet(scaling, progress)
    try:
        yield found
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone
            found.ask([])


def after_a_loss(scaling: ScalingSection) -> float:
    """How long to wait for nodes in the place of lost ones."""
    if scaling.wait_for_nodes_s != "auto":
        return scaling.wait_for_nodes_s
    return GROWING_S if scaling.address is not None and grows() else LOST_S


def _too_late(error: ResourceError, seconds: float, growing: bool) -> ResourceError:
    if seconds < POLL_S:
        return error
    why = " `ray status` on the head says what the autoscaler waits for." if growing else ""
    return ResourceError(f"After {seconds:.0f} s of waiting: {error}{why}")


def grows() -> bool:
    """Whether an autoscaler starts and ends nodes of the connected cluster. One that was put together by hand has one, too,
    which only looks on: it gives every node a type of its own, named after the node, or none."""
    import ray

    alive = {f"node_{n['NodeID']}" for n in ray.nodes() if n.get("Alive")}
    first = _ray_internals.node_types_of_autoscaler_v1()
    return (first is not None and not first & alive) or bool(
        _ray_internals.node_types_of_autoscaler_v2() - alive - {""}
    )
