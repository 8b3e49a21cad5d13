"""Whether every machine of a cluster sees the same root folder.

The workers write the checkpoints. If one of them had another folder of the same name, a training would seem to succeed and
leave a part of its files elsewhere.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from raysweep._paths import is_address, user_path
from raysweep.cluster import _ray_internals
from raysweep.cluster.nodes import Node, living_nodes
from raysweep.errors import ResourceError
from raysweep.events import Note, Progress
from raysweep.store import layout

ANSWER_S = 60.0  # includes the start of a process on each machine
SEEN_S = 5.0  # a network file system may show a new file late
MOST_NAMED = 5  # machines in one message


def check(root: str, progress: Progress) -> None:
    """Write a probe file into the root and have every other machine of the connected cluster look for it.

    Nothing is checked for an object store, which every machine sees, or on this machine.

    Args:
        progress: takes a note about machines that do not answer.

    Raises:
        ResourceError: a machine does not see the folder. Says which machine, which folder and what to do.
    """
    nodes = elsewhere(living_nodes())
    if not nodes or is_address(root):
        return
    folder = user_path(root).resolve()
    probe = folder / layout.CACHES / f"{layout.TEMP_PREFIX}seen_{secrets.token_hex(8)}"
    token = secrets.token_hex(16)
    probe.parent.mkdir(parents=True, exist_ok=True)
    try:
        probe.write_text(token)
        answers = _ask(nodes, str(probe), token)
    finally:
        probe.unlink(missing_ok=True)
    silent = [n.host for n in nodes if n.id not in answers]
    if silent:
        text = (
            f"{_few(silent)} did not answer within {ANSWER_S:g} s, so it is not known whether {folder} is seen there."
        )
        progress(Note(text))
    blind = [(n.host, why) for n in nodes if (why := answers.get(n.id))]
    if blind:
        raise _not_shared(folder, blind)


def _not_shared(folder: Path, blind: Sequence[tuple[str, str]]) -> ResourceError:
    """The error about machines that do not see ``folder``, from (machine, what is wrong there)."""
    names = _few([name for name, _ in blind])
    return ResourceError(
        f"The root {folder} is not a folder that all machines of the cluster share: {names} {'do' if len(blind) > 1 else 'does'} "
        f"not see what this machine writes there ({blind[0][1]}). Workers on them would write their checkpoints elsewhere. "
        "Choose a folder that all machines mount at the same path, or --root s3://bucket/prefix."
    )


def elsewhere(nodes: Sequence[Node]) -> list[Node]:
    """One node of every other machine that has CPUs or GPUs. Several nodes on one machine see the same folders."""
    here = own_machine(nodes)
    found: dict[tuple[str, str], Node] = {}
    for node in nodes:
        if node.machine != here and (node.resources.get("CPU") or node.resources.get("GPU")):
            found.setdefault(node.machine, node)
    return list(found.values())


def own_machine(nodes: Sequence[Node]) -> tuple[str, str] | None:
    """The machine of this process; None if it is not part of the cluster."""
    import ray

    if _ray_internals.is_ray_client():
        return None
    own = ray.get_runtime_context().get_node_id()
    return next((n.machine for n in nodes if n.id == own), None)


def _ask(nodes: Sequence[Node], probe: str, token: str) -> dict[str, str | None]:
    """The result of :func:`look` on each node, by node id. Nodes that do not answer are omitted."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n.id, soft=False)).remote(probe, token): n
        for n in nodes
    }
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    answers: dict[str, str | None] = {}
    for answer in ready:
        try:
            answers[asked[answer].id] = ray.get(answer)
        except ray.exceptions.RayError:  # its node has just been lost
            continue
    for answer in late:
        ray.cancel(answer, force=True)
    return answers


def look(probe: str, token: str, seconds: float = SEEN_S) -> str | None:
    """Look for the driver's probe file; runs on another machine.

    Args:
        token: what the driver has written into the file.
        seconds: how long to wait for the file.

    Returns:
        What is wrong; None if this machine sees the file and may write to the root.
    """
    path = Path(probe)
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = path.read_text()
            break
        except FileNotFoundError:
            if time.monotonic() > deadline:
                root = path.parent.parent
                return "a different folder has that path there" if root.is_dir() else "that folder does not exist there"
            time.sleep(0.2)
        except OSError as error:
            return str(error.strerror)
    if found != token:
        return "a different folder has that path there"
    return None if os.access(path.parent.parent, os.W_OK) else "that folder is not writable there"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
