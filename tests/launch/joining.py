"""A hunt on a cluster of one CPU, which another node joins while it trains, and which the first one then leaves:
``python -m tests.launch.joining FOLDER`` prints what happened, as JSON, and what came of the same hunt, undisturbed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from raysweep.config import grid as grids
from raysweep.config import space as spaces
from raysweep.events import BranchEnded, BranchStarted, Event, Note, opened
from raysweep.launch import run as launching
from raysweep.launch.hunt import driver
from raysweep.plan import experiment as experiment_plan
from raysweep.plan.hunt import plan as planning
from raysweep.plan.hunt.budget import Budget
from raysweep.plan.types import SweepRequest
from raysweep.store.hunts import Hunt
from raysweep.store.root import Root
from tests import forks
from tests.conftest import small_settings, weights_hash
from tests.launch import waiting
from tests.launch.node_loss import cluster_of

SPACE = {"weights": {"3": {"log_uniform": [0.5, 8.0]}}, "epochs": 1, "fork": {"schedule": "inherit"}}
LATEST_S = 240.0


class Joining:
    """A progress that lets a node join when the first branch has begun, and takes the first one away when two train at once. The trainings
    wait, by the file ``wait``, until both have had their effect."""

    def __init__(self, nodes: Any, wait: Path) -> None:
        self.nodes, self.wait, self.first = nodes, wait, next(iter(nodes.worker_nodes))
        self.at_work: set[str | None] = set()
        self.most, self.joined, self.left = 0, False, False
        self.notes: list[str] = []
        self.until = time.monotonic() + LATEST_S
        wait.touch()

    def __call__(self, event: Event) -> None:
        branch, event = opened(event)
        if isinstance(event, BranchStarted):
            self.at_work.add(branch)
            if not self.joined:
                self.joined = True
                self.nodes.add_node(num_cpus=1)
        if isinstance(event, BranchEnded):
            self.at_work.discard(branch)
        self.most = max(self.most, len(self.at_work))
        if self.most == 2 and not self.left:
            self.left = True
            self.nodes.remove_node(self.first, allow_graceful=False)
        if isinstance(event, Note):
            self.notes.append(event.text)
        if any("now hold 1 branch at once" in text for text in self.notes) or time.monotonic() > self.until:
            self.wait.unlink(missing_ok=True)


def plan(root: Root, name: str, parent: str, **where: Any) -> planning.HuntPlan:
    asked = SweepRequest(root, f"{parent}@1", grids.check({"weights": ["natural"]}), name=name, threads=1, **where)
    return planning.plan_hunt(planning.HuntRequest(asked, Budget("branches", 15), 1, spaces.check(SPACE)))


def told_of(hunt: Hunt) -> dict[str, Any]:
    """Whatever was trained → the hash of its network, and what was decided."""
    record = hunt.record()
    sweeps = [hunt.sweep(r.number) for r in record.rounds]
    found = {name: weights_hash(e) for s in sweeps if s is not None for name, e in s.experiments().items()}
    steps = {key: hunt.step(key) for key in record.steps}
    return {
        "networks": found | {key: weights_hash(e) for key, e in steps.items()},
        "survivors": [r.survivor for r in record.rounds],
        "end": {k: v for k, v in record.end.items() if k == "same_bits"},
    }


def main(folder: Path) -> None:
    wait = folder / "wait"
    training = {"epochs": 1, "batch_size": 20, "learning_rate": 0.001}
    sections = {"training": training, "sampling": {"samples_per_epoch": 500}, **waiting.sections(wait, free=0)}
    settings = small_settings(folder / "root", **sections, scaling={"threads": 1, "num_workers": 0})
    base = launching.run(experiment_plan.plan_experiment(settings)).experiment
    root = Root.open(folder / "root")
    whole = told_of(driver.run(plan(root, "whole", base.id, in_process=True)))
    with cluster_of(1) as nodes:
        joining = Joining(nodes, wait)
        hunt = driver.run(plan(root, "h", base.id, address=nodes.address), joining)
        forks.answer({"whole": whole, "hunt": told_of(hunt), "most": joining.most, "notes": joining.notes})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
