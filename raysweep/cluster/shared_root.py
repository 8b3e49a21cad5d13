"""Whether every machine of a cluster sees the root. The workers write the checkpoints: where one of them had another folder
of that name, a training would seem to go well and leave half of its files elsewhere."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raysweep._paths import is_address, user_path
from raysweep.cluster import _ray_internals
from raysweep.cluster.nodes import living_nodes
from raysweep.errors import ResourceError
from raysweep.events import Note, Progress
from raysweep.store import layout

ANSWER_S = 60.0  # a process must be started on each machine
SEEN_S = 5.0  # a network file system may show a new file late
MOST_NAMED = 5


def check(root: str, progress: Progress) -> None:
    """Look from every other machine of the connected cluster for a file that is made in the root. An object store is seen
    from everywhere, and this machine sees its own folders.

    Args:
        progress: is told of machines that do not answer.

    Raises:
        ResourceError: which machine does not see which folder, and what to do.
    """
    machines = elsewhere(living_nodes())
    if not machines or is_address(root):
        return
    folder = user_path(root).resolve()
    probe = folder / layout.CACHES / f"{layout.TEMP_PREFIX}seen_{secrets.token_hex(8)}"
    token = secrets.token_hex(16)
    probe.parent.mkdir(parents=True, exist_ok=True)
    try:
        probe.write_text(token)
        answers = _ask(machines, str(probe), token)
    finally:
        probe.unlink(missing_ok=True)
    silent = [m["NodeManagerHostname"] for m in machines if m["NodeID"] not in answers]
    if silent:
        told = f"{_few(silent)} did not answer within {ANSWER_S:g} s; whether {folder} is seen there is not known."
        progress(Note(told))
    blind = [(m["NodeManagerHostname"], why) for m in machines if (why := answers.get(m["NodeID"]))]
    if blind:
        many = len(blind) > 1
        raise ResourceError(
            f"The root {folder} is not a folder that all machines of the cluster share: {_few([name for name, _ in blind])} "
            f"{'do' if many else 'does'} not see what this machine writes there ({blind[0][1]}). Workers on them would write "
            "their checkpoints elsewhere. Choose a folder that all machines mount at the same place, or --root "
            "s3://bucket/prefix."
        )


def elsewhere(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One node of every machine but this one that can train. Several nodes on one machine see the same folders."""
    here = own_machine(nodes)
    found: dict[Any, Mapping[str, Any]] = {}
    for node in nodes:
        if machine(node) != here and (node["Resources"].get("CPU", 0) or node["Resources"].get("GPU", 0)):
            found.setdefault(machine(node), node)
    return list(found.values())


def machine(node: Mapping[str, Any]) -> tuple[str, str]:
    """What tells machines apart: containers may share a name, and machines behind a tunnel an address."""
    return str(node.get("NodeManagerHostname")), str(node.get("NodeManagerAddress"))


def own_machine(nodes: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """The machine of this process; None where it is not part of the cluster."""
    import ray

    if _ray_internals.is_ray_client():
        return None
    own = ray.get_runtime_context().get_node_id()
    return next((machine(n) for n in nodes if n["NodeID"] == own), None)


def _ask(machines: Sequence[Mapping[str, Any]], probe: str, token: str) -> dict[str, str | None]:
    """What each machine finds, by node id: None where all is well, else what is wrong. Who does not answer is left out."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(m["NodeID"], soft=False)).remote(
            probe, token
        ): m
        for m in machines
    }
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    answers: dict[str, str | None] = {}
    for answer in ready:
        try:
            answers[asked[answer]["NodeID"]] = ray.get(answer)
        except ray.exceptions.RayError:  # its node has just gone
            continue
    for answer in late:
        ray.cancel(answer, force=True)
    return answers


def look(probe: str, token: str, seconds: float = SEEN_S) -> str | None:
    """Runs on another machine: what keeps it from seeing, or from writing beside, a file that the driver has made."""
    path = Path(probe)
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = path.read_text()
            break
        except FileNotFoundError:
            if time.monotonic() > deadline:
                root = path.parent.parent
                return "there is a folder of that name, but another one" if root.is_dir() else "there is no such folder"
            time.sleep(0.2)
        except OSError as error:
            return str(error.strerror)
    if found != token:
        return "there is a folder of that name, but another one"
    return None if os.access(path.parent.parent, os.W_OK) else "it is not writable there"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
