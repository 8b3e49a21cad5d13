"""The overhead of a sweep beyond the training itself: one-epoch branches of one checkpoint on the CPU.

Each variant runs in its own process, one after another, ``--repeats`` times. The clock starts when the Ray cluster is
up. ``pattern`` is what Ray's documentation shows: a Tune function that runs a TorchTrainer, two at a time.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.measuring import Row, in_a_process
from raysweep.events import Connected, SweepEnded
from raysweep.store.root import Root

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


def weights_of(branches: int) -> list[float]:
    """The weight of disgust in every branch."""
    return [round(1.25 + 0.25 * i, 2) for i in range(branches)]


def parent_of(root: Path, threads: int) -> Any:
    """An experiment of one epoch, to branch from."""
    from raysweep.config import load as load_config
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan
    from raysweep.store import catalog

    found = catalog.experiments(Root.open(root))
    if found:
        return next(e for e in found if e.id.startswith("parent_"))
    values = {
        "data": {"source": "faces"},
        "training": {"epochs": 1, "schedule_epochs": 5},
        "scaling": {"num_workers": 0, "threads": threads},
        "experiment": {"name": "parent"},
        "root": str(root),
    }
    return launching.run(experiment_plan.plan_experiment(load_config.validate(values))).experiment


def ours(root: Path, branches: int, threads: int) -> float:
    """Seconds from a running cluster to the end of the sweep."""
    from raysweep.config import grid as grids
    from raysweep.launch.sweep import driver as sweeping
    from raysweep.plan import sweep as sweep_plan
    from raysweep.plan.types import SweepRequest

    parent = parent_of(root, threads)
    times: dict[type, float] = {}
    values = {"epochs": 1, "control": False, "weights": {"disgust": weights_of(branches)}}
    plan = sweep_plan.plan_sweep(SweepRequest(Root.open(root), f"{parent.id}@1", grids.check(values), threads=threads))
    result = sweeping.run(plan, lambda event: times.setdefault(type(event), time.perf_counter()))
    seconds = times[SweepEnded] - times[Connected]
    assert len(result.experiments) == branches
    assert not result.failed
    return seconds


def bare(root: Path, branches: int, threads: int) -> float:
    """Seconds of the bare loops: no files, no other processes, images already in memory."""
    from benchmarks.bare import Bare
    from raysweep.store import checkpoint

    parent = parent_of(root, threads)
    state = checkpoint.read(parent.folder / "checkpoint_epoch_1.pt")["model_state_dict"]
    loop = Bare(root / ".raysweep" / "cache", os.cpu_count() or 1, state)
    loop.train({}, 1)  # the first epoch of a process is slower and is not counted
    started = time.perf_counter()
    for weight in weights_of(branches):
        loop.train({1: weight}, 1)
    return time.perf_counter() - started


def pattern(root: Path, branches: int, threads: int) -> float:
    """Seconds of Ray's documented pattern, measured from a running cluster."""
    import logging

    import ray
    from ray import train, tune
    from ray.train.torch import TorchTrainer

    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    parent = parent_of(root, threads)
    cache, file = str(root / ".raysweep" / "cache"), str(parent.folder / "checkpoint_epoch_1.pt")

    def loop(config: dict[str, Any]) -> None:
        from benchmarks.bare import Bare
        from raysweep.store import checkpoint

        state = checkpoint.read(config["file"])["model_state_dict"]
        accuracy = Bare(Path(config["cache"]), 1, state).train({1: config["weight"]}, 1)
        train.report({"accuracy": accuracy})

    def driver(config: dict[str, Any]) -> None:
        TorchTrainer(
            loop,
            train_loop_config=config,
            scaling_config=train.ScalingConfig(num_workers=1),
            # Ray sometimes removes a worker that it has just started.
            run_config=train.RunConfig(
                name=f"branch-{config['weight']}",
                storage_path=str(root / "pattern"),
                failure_config=train.FailureConfig(max_failures=2),
            ),
        ).fit()

    # Twice the CPUs, so that the waiting Tune functions do not take them from the workers.
    ray.init(
        num_cpus=2 * (os.cpu_count() or 1), log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False
    )
    started = time.perf_counter()
    space = {"weight": tune.grid_search(weights_of(branches)), "cache": cache, "file": file}
    tuner = tune.Tuner(
        driver,
        param_space=space,
        tune_config=tune.TuneConfig(max_concurrent_trials=os.cpu_count() or 1),
        run_config=tune.RunConfig(storage_path=str(root / "tune"), verbose=0),
    )
    results = tuner.fit()
    seconds = time.perf_counter() - started
    assert len(results) == branches
    assert not results.errors
    ray.shutdown()
    return seconds


WAYS = {"bare": bare, "ours": ours, "pattern": pattern}


def compare(repeats: int, pattern_repeats: int | None = None, branches: int = 16, threads: int = 1) -> list[Row]:
    """Measure all variants. The slow pattern may run less often; its figures are then compared with the first of ours."""
    pattern_repeats = repeats if pattern_repeats is None else pattern_repeats
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        parent_of(root, threads)
        for i in range(repeats):
            for way, found in seconds.items():
                if way != "pattern" or i < pattern_repeats:
                    result = in_a_process("benchmarks.sweep", way, root, branches=branches, threads=threads)
                    found.append(result["seconds"])
    mine, what = seconds["ours"], f"{branches} one-epoch branches"
    rows = [
        Row(what, f"{branches} bare loops, nothing saved", mine, seconds["bare"], "s"),
        Row(what, f"{branches} bare loops × 1.1 + 15 s", mine, [1.1 * s + 15 for s in seconds["bare"]], "s", 1.0),
    ]
    if pattern := seconds["pattern"]:
        peer = "Ray's documented pattern: a Tune function around a `TorchTrainer`"
        rows.append(Row(what, peer, mine[: len(pattern)], pattern, "s", 0.2))
    return rows


def main() -> None:
    parser = measuring.parser(__doc__, WAYS)
    parser.add_argument("--branches", type=int, default=16)
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads per branch; as many branches run at the same time as the CPUs allow",
    )
    parser.add_argument("--pattern-repeats", type=int, help="repeats of the slow pattern (default: --repeats)")
    o = parser.parse_args()
    if o.way:
        ways = {w: lambda root, o, run=run: {"seconds": run(root, o.branches, o.threads)} for w, run in WAYS.items()}
        measuring.answer(ways, o)
        return
    measuring.show(compare(o.repeats, o.pattern_repeats, o.branches, o.threads), o.json)


if __name__ == "__main__":
    main()
