"""Workers and branches on a node that has copies of its own: ``python -m tests.launch.elsewhere FOLDER ROOT`` prints, as
JSON, what the driver sees of them in a root on an object store."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from raysweep.store.root import Root
from tests import forks
from tests.conftest import small_settings, weights_hash

SECTIONS: dict[str, Any] = {"training": {"epochs": 3, "batch_size": 50}, "checkpoint": {"every_n_batches": 4}}


def main(folder: Path, root: str) -> None:
    os.environ["RAY_AUTH_MODE"] = "disabled"  # before Ray is imported, which reads it once
    from ray.cluster_utils import Cluster

    from raysweep.cluster import connect
    from raysweep.config import grid as grids
    from raysweep.launch import run as launching
    from raysweep.launch.sweep import driver as sweeping
    from raysweep.plan import experiment as experiment_plan
    from raysweep.plan import sweep as sweep_plan
    from raysweep.plan.types import SweepRequest
    from raysweep.store import lineage

    connect.quiet_environment()
    os.environ["RAYSWEEP_CACHE"] = str(folder / "driver")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes.add_node(num_cpus=2, env_vars={"RAYSWEEP_CACHE": str(folder / "node")})
    try:
        scaling = {"num_workers": 1, "threads": 1, "address": nodes.address}
        settings = small_settings(root, **SECTIONS, scaling=scaling)
        run = launching.run(experiment_plan.plan_experiment(settings)).experiment
        request = SweepRequest(
            Root.open(root),
            f"{run.id}@2",
            grids.check({"epochs": 1, "weights": {"8": [1.0, 3.0]}}),
            address=nodes.address,
            workers=0,
        )
        branches = sweeping.run(sweep_plan.plan_sweep(request))
        control = next(e for n, e in branches.experiments.items() if e.config().branch.control)
        found = {
            "failed": branches.failed,
            "events": [e.type for e in lineage.read(run.folder)],
            "files": sorted(p.name for p in run.folder.iterdir()),
            "control": control.entries()[-1].metrics["val_loss"],
            "parent": run.entries()[-1].metrics["val_loss"],
            "hash": weights_hash(run),
            "copies": sorted(p.name for p in folder.iterdir()),
            "rows": (branches.sweep.folder / "results.csv").read_text().count("finished"),
        }
    finally:
        import ray

        ray.shutdown()
        nodes.shutdown()
    forks.answer(found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
