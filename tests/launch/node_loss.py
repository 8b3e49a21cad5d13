"""Nodes that go without a word: ``python -m tests.launch.node_loss FOLDER`` prints what happened, as JSON.

A run, an elastic run and a sweep, one after the other on one cluster, and beside it the same trainings, undisturbed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raysweep.cluster import connect
from raysweep.config.grid import check
from raysweep.events import BranchStarted, EpochDone, Event, Note, opened
from raysweep.launch import run as launching
from raysweep.plan import child
from raysweep.plan import experiment as experiment_plan
from raysweep.plan import parent as parents
from raysweep.plan.types import Plan, SweepRequest
from raysweep.store.root import Root
from tests import forks
from tests.conftest import Recorder, small_settings, weights_hash
from tests.launch import waiting
from tests.training.ranks import Ranks

RUN = {
    "training": {"epochs": 3, "batch_size": 30},
    "sampling": {"samples_per_epoch": 450, "weights": {"3": 4.0}},
    "checkpoint": {"every_n_batches": 5},
}
PARENT = {"training": {"epochs": 1, "batch_size": 30}, "sampling": {"samples_per_epoch": 300}}
GRID: dict[str, Any] = {"weights": {"3": [4.0, 2.0]}, "epochs": 3}
SCALING = {"threads": 1, "timeout_s": 20.0}
# Ray asks every node whether it is there, and declares it dead after so many times without an answer: 10 s, not a minute.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1500",
    "RAY_health_check_failure_threshold": "5",
}


def told_of(experiment: Any) -> dict[str, Any]:
    """What a folder tells of how it came about, and what is in it."""
    events = [json.loads(line) for line in (experiment.folder / "lineage.jsonl").read_text().splitlines()]
    files = {p.name for p in experiment.folder.iterdir()}
    ends = [e for e in experiment.entries() if e.batch is None]
    return {
        "status": experiment.status(),
        "orders": [e.metrics["order_sha256"] for e in ends],
        "hash": weights_hash(experiment),
        "problems": [p for e in experiment.entries() if (p := e.verify(experiment.folder)) is not None],
        # Checkpoints within an epoch fall where the loss did.
        "files": sorted(f for f in files if "_batch_" not in f and not f.startswith("events.")),
        "world_size": experiment.config().world_size,
        "events": [{k: v for k, v in e.items() if k in ("type", "text", "changes", "reason")} for e in events],
    }


class Loss:
    """A progress that takes a node away when so many trainings have ended an epoch, and may let another join; it keeps warnings.

    The trainings wait, by the file ``wait``, until the loss has had its effect.
    """

    def __init__(self, nodes: Any, joins: bool, wait: Path, trainings: int) -> None:
        self.nodes, self.node, self.joins, self.wait, self.trainings = nodes, one_of_two(nodes), joins, wait, trainings
        self.warnings: list[str] = []
        self.begun: set[str | None] = set()
        self.at_work: set[str | None] = set()
        wait.touch()

    def __call__(self, event: Event) -> None:
        branch, event = opened(event)
        if isinstance(event, Note) and not event.inexact:
            self.warnings.append(event.text)
            if self.node is None:
                self.wait.unlink(missing_ok=True)  # the run goes on
        if isinstance(event, BranchStarted):
            if branch in self.begun:
                self.wait.unlink(missing_ok=True)  # the branch of the lost node begins again
            self.begun.add(branch)
        if isinstance(event, EpochDone):
            self.at_work.add(branch)
        if self.node is not None and len(self.at_work) == self.trainings:
            node, self.node = self.node, None
            self.nodes.remove_node(node, allow_graceful=False)
            if self.joins:
                self.nodes.add_node(num_cpus=1)


@contextlib.contextmanager
def cluster_of(count: int) -> Iterator[Any]:
    """A cluster of a head without CPUs, where the driver sits, and so many nodes of one CPU each."""
    os.environ.update(HEALTH)
    os.environ["RAY_AUTH_MODE"] = "disabled"  # before Ray is imported, which reads it once
    import ray
    from ray.cluster_utils import Cluster

    connect.quiet_environment()
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(count):
            nodes.add_node(num_cpus=1)
        yield nodes
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()
        nodes.shutdown()


def one_of_two(nodes: Any) -> Any:
    """A node to lose, when there are two that Ray knows of and no other."""
    import ray

    while len(nodes.worker_nodes) < 2:
        nodes.add_node(num_cpus=1)
    if ray.is_initialized():
        deadline = time.monotonic() + 120
        while sum(n["Alive"] for n in ray.nodes()) != 3 and time.monotonic() < deadline:
            time.sleep(0.5)
    return next(iter(nodes.worker_nodes))


def plan(folder: Path, sections: dict[str, Any], **scaling: Any) -> Plan:
    sections = {**sections, **waiting.sections(folder.parent / "wait", free=10)}
    return experiment_plan.plan_experiment(small_settings(folder, **sections, scaling={**SCALING, **scaling}))


def of_a_run(folder: Path, whole: dict[str, Any], nodes: Any, num_workers: Any, joins: bool) -> dict[str, Any]:
    """A training on two nodes, of which one is lost after the first epoch; another joins, or none."""
    loss = Loss(nodes, joins, folder.parent / "wait", trainings=1)
    done = launching.run(plan(folder, RUN, num_workers=num_workers, address=nodes.address), loss)
    return {"whole": whole, "run": told_of(done.experiment), "warnings": loss.warnings}


def of_a_sweep(folder: Path, nodes: Any) -> dict[str, Any]:
    """A sweep on two nodes, of which one is lost after the first epochs, and another joins."""
    from raysweep.launch.sweep import driver as sweeping
    from raysweep.launch.workers import start as workers
    from raysweep.plan import sweep as sweep_plan
    from raysweep.training.loop import train

    workers.in_this_process = lambda job, *_: train(job, Recorder())  # type: ignore[assignment]
    parent = launching.run(plan(folder / "sweep", PARENT, num_workers=0)).experiment
    known = parents.read_parent(Root.open(folder / "sweep"), f"{parent.id}@1")
    whole = {}
    for name, weights in {"control": {}, "3=4": {"3": 4.0}, "3=2": {"3": 2.0}}.items():
        one = child.plan_child(known, Root.open(folder / "whole"), weights=weights, epochs=GRID["epochs"])
        whole[name] = told_of(launching.run(one).experiment)
    loss = Loss(nodes, True, folder / "wait", trainings=2)
    asked = SweepRequest(Root.open(folder / "sweep"), f"{parent.id}@1", check(GRID), name="s", address=nodes.address)
    result = sweeping.run(sweep_plan.plan_sweep(asked, loss), loss)
    branches = {name: told_of(e) for name, e in result.experiments.items()}
    return {"whole": whole, "branches": branches, "failed": result.failed, "warnings": loss.warnings}


def main(folder: Path) -> None:
    from raysweep.launch.workers import start as workers

    with Ranks(2) as ranks:
        workers.in_this_process = lambda job, *_: ranks.train(job)  # type: ignore[assignment]
        whole = told_of(launching.run(plan(folder / "whole", RUN, num_workers=0)).experiment)
    with cluster_of(2) as nodes:
        found = {
            "run": of_a_run(folder / "run", whole, nodes, 2, joins=True),
            "elastic": of_a_run(folder / "elastic", whole, nodes, [1, 2], joins=False),
            "sweep": of_a_sweep(folder / "of a sweep", nodes),
        }
    forks.answer(found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
