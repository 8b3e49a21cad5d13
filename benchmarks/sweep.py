"""What a sweep costs beside the training itself: one-epoch branches of one checkpoint on the CPU.

Each way runs in processes of its own, one way after the other, ``--repeats`` times. Ray's clusters are up before the
clock starts. ``pattern`` is what Ray's documentation shows: a Tune function that runs a TorchTrainer, two at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


def weights_of(branches: int) -> list[float]:
    """The weight of disgust in every branch."""
    return [round(1.25 + 0.25 * i, 2) for i in range(branches)]


def parent_of(root: Path, threads: int) -> Any:
    """An experiment of one epoch, to branch from."""
    from raysweep import config
    from raysweep.launch import run
    from raysweep.store import catalog

    found = catalog.experiments(root)
    if found:
        return next(e for e in found if e.id.startswith("parent_"))
    values = {
        "data": {"source": "faces"},
        "training": {"epochs": 1, "schedule_epochs": 5},
        "scaling": {"num_workers": 0, "threads": threads},
        "experiment": {"name": "parent"},
        "root": str(root),
    }
    return run.run(run.plan(config.validate(values))).experiment


def ours(root: Path, branches: int, threads: int) -> float:
    """Seconds from a cluster that is up to the end of the sweep."""
    from raysweep import grid
    from raysweep.launch import sweep

    parent = parent_of(root, threads)
    times: dict[str, float] = {}
    values = {"epochs": 1, "control": False, "weights": {"disgust": weights_of(branches)}}
    plan = sweep.plan(str(root), f"{parent.id}@1", grid.check(values), threads=threads)
    result = sweep.run(plan, lambda event: times.setdefault(event["kind"], time.perf_counter()))
    seconds = times["sweep_end"] - times["connected"]
    assert len(result.experiments) == branches
    assert not result.failed
    return seconds


def bare(root: Path, branches: int, threads: int) -> float:
    """Seconds of the loops alone: no files, no processes, the images already in memory."""
    from benchmarks.bare import Bare
    from raysweep.store import checkpoint

    parent = parent_of(root, threads)
    state = checkpoint.read(parent.folder / "checkpoint_epoch_1.pt")["model_state_dict"]
    loop = Bare(root / ".raysweep" / "cache", os.cpu_count() or 1, state)
    loop.train({}, 1)  # the first epoch of a process is slower: it is not counted
    started = time.perf_counter()
    for weight in weights_of(branches):
        loop.train({1: weight}, 1)
    return time.perf_counter() - started


def pattern(root: Path, branches: int, threads: int) -> float:
    """Seconds of Ray's documented pattern, once its cluster is up."""
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
            run_config=train.RunConfig(name=f"branch-{config['weight']}", storage_path=str(root / "pattern")),
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


def measure(way: str, root: Path, branches: int, threads: int) -> float:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sweep", "--way", way, "--root", str(root)]
    command += ["--branches", str(branches), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{way} failed:\n{done.stderr[-3000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--branches", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1, help="per branch; as many branches at a time as CPUs allow")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pattern-repeats", type=int, default=1, help="it is slow")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.way:
        print(json.dumps({"seconds": WAYS[a.way](a.root, a.branches, a.threads)}))
        return
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        parent_of(root, a.threads)
        for i in range(a.repeats):
            for way in WAYS:
                if way != "pattern" or i < a.pattern_repeats:
                    seconds[way].append(measure(way, root, a.branches, a.threads))
                    print(f"  {way:<8} {seconds[way][-1]:7.1f} s", file=sys.stderr, flush=True)
    middle = {way: statistics.median(v) for way, v in seconds.items() if v}
    print(f"{a.branches} one-epoch branches, {os.cpu_count()} CPUs, {a.threads} threads a branch\n")
    print("| way | seconds (all runs) | ratio to bare |\n|---|---|---|")
    for way, value in middle.items():
        print(f"| {way} | {value:.1f} ({', '.join(f'{s:.1f}' for s in seconds[way])}) | {value / middle['bare']:.2f} |")
    added = [(o - b) / a.branches for o, b in zip(seconds["ours"], seconds["bare"], strict=True)]
    print(f"\nours adds {statistics.median(added):.2f} s a branch over bare ({', '.join(f'{s:.2f}' for s in added)})")
    if seconds["pattern"]:
        print(f"ours is {middle['pattern'] / middle['ours']:.1f} times faster than the documented pattern")
    if a.json:
        a.json.write_text(
            json.dumps({"seconds": seconds, "branches": a.branches, "threads": a.threads, "cpus": os.cpu_count()})
        )


if __name__ == "__main__":
    main()
