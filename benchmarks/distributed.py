"""An epoch on two CPU workers with one thread each: raysweep on Ray against the same loop under ``torchrun`` with DDP."""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.measuring import Row, in_a_process
from raysweep.events import EpochDone, Event

WORKERS, EPOCHS = 2, 8
COUNTED = 4  # the last epochs: Ray's helper processes are still starting during the first ones


def ours(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Seconds per epoch: the median of the last epochs."""
    from benchmarks.epoch import settings_of
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan

    ends: list[float] = []

    def progress(event: Event) -> None:
        if isinstance(event, EpochDone):
            ends.append(time.perf_counter())

    scaling = {"num_workers": WORKERS, "threads": 1, "sync_batchnorm": o.way == "synced"}
    launching.run(experiment_plan.plan_experiment(settings_of(root, "cnn", EPOCHS, scaling=scaling)), progress)
    return {"seconds": _middle(ends)}


def _middle(ends: list[float]) -> float:
    return statistics.median(b - a for a, b in itertools.pairwise(ends[-COUNTED - 1 :]))


def torchrun(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"]
    command += ["-m", "benchmarks.distributed", "--way", "rank", "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return next(json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"seconds"'))


def rank(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    """One process under torchrun: it trains on its half of every batch and validates on its half of the images."""
    import torch
    import torch.distributed as dist
    from torch.nn import functional
    from torch.nn.parallel import DistributedDataParallel

    from benchmarks.bare import BATCH, Bare
    from raysweep.training import models

    dist.init_process_group("gloo")
    me, loop = dist.get_rank(), Bare(root / ".raysweep" / "cache", 1)
    net = models.build("cnn", {}, loop.classes, 1).to(memory_format=torch.channels_last)
    ddp = DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(ddp.parameters(), lr=0.001, weight_decay=0.02)
    loop.vx, loop.vy = loop.vx[me::WORKERS], loop.vy[me::WORKERS]
    ends: list[float] = []
    for epoch in range(EPOCHS):
        ddp.train()
        order = torch.randperm(len(loop.y), generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(BATCH):
            mine = batch[me::WORKERS]
            x = loop.varied(loop.prepared(loop.x[mine]))
            optimizer.zero_grad()
            functional.cross_entropy(ddp(x), loop.y[mine], label_smoothing=0.1).backward()
            optimizer.step()
        loop.validate(net)
        dist.barrier()
        ends.append(time.perf_counter())
    if me == 0:
        print(json.dumps({"seconds": _middle(ends)}), flush=True)
    dist.destroy_process_group()
    return {}


WAYS = {"ours": ours, "synced": ours, "torchrun": torchrun, "rank": rank}


def compare(repeats: int) -> list[Row]:
    runs: dict[str, list[float]] = {"ours": [], "synced": [], "torchrun": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            for way, found in runs.items():
                found.append(in_a_process("benchmarks.distributed", way, Path(folder))["seconds"])
    peer = "the same loop under `torchrun`, DDP"
    return [
        Row("epoch of `cnn`, 2 workers, `sync_batchnorm: false`", peer, runs["ours"], runs["torchrun"], "s", 1.05),
        Row(
            "the same, `sync_batchnorm: true` (statistics of the whole batch)",
            peer,
            runs["synced"],
            runs["torchrun"],
            "s",
        ),
    ]


def main() -> None:
    options = measuring.parser(__doc__, WAYS).parse_args()
    if options.way:
        measuring.answer(WAYS, options)
        return
    measuring.show(compare(options.repeats), options.json)


if __name__ == "__main__":
    main()
