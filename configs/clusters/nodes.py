"""Asks a Ray cluster that grows by itself for nodes, runs a command on it when they have come, and gives them back.

    python nodes.py 2 -- python program.py
    python nodes.py 0                 gives back what was asked for, where this program was killed

`raysweep run` and `branch` ask by themselves. This is for any other program, and for giving back what a killed one had asked
for. Ray starts nodes for work that waits, or when it is asked; what is asked for stays asked for until somebody takes it
back, and such nodes are never idle. So the command runs in between.
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
    """How many times so many CPUs and GPUs, each on one node, there are on the nodes that live."""
    found = 0
    for node in nodes:
        if node["Alive"]:
            have = node["Resources"]
            found += int(min(have.get("CPU", 0) // cpus, have.get("GPU", 0) // gpus if gpus else float("inf")))
    return found


def wait(count: int, cpus: int, gpus: int, seconds: float) -> bool:
    """Whether the nodes came in time."""
    import ray

    deadline = time.monotonic() + seconds
    said = -1
    while (there := places(ray.nodes(), cpus, gpus)) < count:
        if there != said:
            print(f"{there} of {count} places are there; waiting", file=sys.stderr, flush=True)
            said = there
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def run(command: Sequence[str]) -> int:
    """The command's exit code. A SIGTERM, as ``ray job stop`` sends it, is the command's affair: it saves and ends."""
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
    parser.add_argument("count", type=int, help="how many places for one worker each; 0 gives all back")
    parser.add_argument("--cpus", type=int, default=1, help="of each place (1)")
    parser.add_argument("--gpus", type=int, default=1, help="of each place (1)")
    parser.add_argument("--wait", type=float, default=1800, help="seconds until it is given up (1800)")
    asked = parser.parse_args(given[:end])
    if bool(command) != (asked.count > 0) or asked.cpus < 1 or asked.gpus < 0:
        parser.error("a count above 0 and a command after -- belong together; --cpus is at least 1, --gpus at least 0")

    import ray
    from ray.autoscaler.sdk import request_resources

    signal.signal(signal.SIGTERM, interrupt)  # also while it waits, the request is taken back
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
