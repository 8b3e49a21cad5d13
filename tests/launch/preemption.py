"""A node is taken away while it trains: ``python -m tests.launch.preemption FOLDER`` prints what happened, as JSON.

A cluster of its own: a head without CPUs, and one node for the only worker. When the training is under way, Ray is told
that the node will be preempted, and another node joins.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from raysweep.events import EpochDone, Event, Note
from tests import forks
from tests.conftest import small_settings, weights_hash
from tests.launch import waiting

SECTIONS = {"training": {"epochs": 4, "batch_size": 30}, "sampling": {"samples_per_epoch": 300}}


def announce(node_id: str) -> None:
    """What a cloud's notice amounts to: the node will go in two minutes."""
    import ray
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = client.drain_node(node_id, reason, "called back", int(time.time() * 1000) + 120_000)
    assert accepted, why


def main(folder: Path) -> None:
    os.environ["RAY_AUTH_MODE"] = "disabled"  # before Ray is imported, which reads it once
    from ray.cluster_utils import Cluster

    from raysweep.cluster import connect
    from raysweep.launch import run as launching
    from raysweep.launch.workers import start as workers
    from raysweep.plan import experiment as experiment_plan
    from raysweep.training.loop import train
    from tests.conftest import Recorder

    connect.quiet_environment()
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    spot = nodes.add_node(num_cpus=1)
    told: list[str] = []
    announced: list[int] = []
    wait = folder / "wait"  # until the notice has had its effect
    wait.touch()
    sections = {**SECTIONS, **waiting.sections(wait, free=10)}

    def progress(event: Event) -> None:
        if isinstance(event, EpochDone) and not announced:
            announced.append(event.epoch)
            announce(spot.node_id)
            nodes.add_node(num_cpus=1)
        if isinstance(event, Note) and not event.inexact:
            told.append(event.text)
            wait.unlink(missing_ok=True)

    try:
        scaling = {"num_workers": 1, "threads": 1, "address": nodes.address, "max_failures": 0}
        settings = small_settings(folder / "broken", **sections, scaling=scaling)
        experiment = launching.run(experiment_plan.plan_experiment(settings), progress).experiment
    finally:
        wait.unlink(missing_ok=True)
        import ray

        ray.shutdown()
        nodes.shutdown()
    events = [json.loads(line) for line in (experiment.folder / "lineage.jsonl").read_text().splitlines()]
    workers.in_this_process = lambda job, *_: train(job, Recorder())  # type: ignore[assignment]
    whole = launching.run(experiment_plan.plan_experiment(small_settings(folder / "whole", **sections))).experiment
    hashes = [weights_hash(e) for e in (experiment, whole)]
    forks.answer({"told": told, "events": events, "hashes": hashes})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
