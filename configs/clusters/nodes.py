"""Request nodes of an autoscaling Ray cluster, run a command when they have joined, and release them.

    python nodes.py 2 -- python program.py
    python nodes.py 0                 release the nodes if this program was killed

`raysweep run` and `branch` request nodes automatically. This script is for other programs, and to release the nodes of a killed
one. Ray starts nodes for waiting work or on request. A request stays active until it is withdrawn, and requested nodes never
become idle. So this script requests, runs the command, and withdraws.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

POLL_S = 5.0


def places(nodes: Sequence[dict[str, Any]], cpus: int, gpus: int) -> int:
    """The number of slots with ``cpus`` CPUs and ``gpus`` GPUs, each on one node, on the nodes that are alive."""
    found = 0
    for node in nodes:
        if node["Alive"]:
            have = node["Resources"]
            found += int(min(have.get("CPU", 0) // cpus, have.get("GPU", 0) // gpus if gpus else float("inf")))
    return found


def wait(count: int, cpus: int, gpus: int, seconds: float) -> bool:
    """Wait for ``count`` slots; return whether they were available in time."""
    import ray

    deadline = time.monotonic() + seconds
    said = -1
    while (there := places(ray.nodes(), cpus, gpus)) < count:
        if there != said:
            print(f"{there} of {count} slots are available; waiting", file=sys.stderr, flush=True)
            said = there
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def run(command: Sequence[str]) -> int:
    """Run the command; return its exit code. SIGTERM (``ray job stop``) is passed to the command, which saves and ends."""
    child = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    return child.wait()


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    command = given[end + 1 :]
    parser = argparse.ArgumentParser(
        usage="%(prog)s COUNT [options] [-- COMMAND ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("count", type=int, help="number of slots, one worker each; 0 releases all nodes")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs of each slot (1)")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs of each slot (1)")
    parser.add_argument("--wait", type=float, default=1800, help="seconds to wait for the nodes (1800)")
    asked = parser.parse_args(given[:end])
    if bool(command) != (asked.count > 0) or asked.cpus < 1 or asked.gpus < 0:
        parser.error(
            "give a command after -- exactly if the count is above 0; --cpus must be at least 1, --gpus at least 0"
        )

    import ray
    from ray.autoscaler.sdk import request_resources

    signal.signal(signal.SIGTERM, interrupt)  # withdraws the request, also during the wait
    ray.init(address="auto", log_to_driver=False)
    try:
        bundle = {"CPU": asked.cpus} | ({"GPU": asked.gpus} if asked.gpus else {})
        request_resources(bundles=[dict(bundle) for _ in range(asked.count)])
        if not asked.count:
            return 0
        if not wait(asked.count, asked.cpus, asked.gpus, asked.wait):
            print("The nodes did not come in time; `ray status` on the head says why.", file=sys.stderr)
            return 1
        return run(command)
    except KeyboardInterrupt:
        return 130
    finally:
        request_resources(bundles=[])


if __name__ == "__main__":
    sys.exit(main())
