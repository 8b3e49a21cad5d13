"""What an epoch costs on the CPU: ours, a bare loop over images in memory, and JPEGs through a DataLoader.

An epoch is training and validation, and in ours and the old way everything that is saved. Each way runs in a process of its
own, one after the other, ``--repeats`` times; the first epoch of each process is not counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODELS = {"cnn": "cnn", "vit": "python:benchmarks.vit:build"}


def settings_of(root: Path, model: str, epochs: int) -> Any:
    """The configuration of our run."""
    from raysweep import config

    values = {
        "experiment": {"name": "bench"},
        "data": {"source": "faces"},
        "model": {"name": MODELS[model]},
        "training": {"epochs": epochs, "learning_rate": 0.001},
        "scaling": {"num_workers": 0, "threads": os.cpu_count() or 1},
        "root": str(root),
    }
    return config.validate(values)


def ours(root: Path, model: str, epochs: int) -> dict[str, Any]:
    """Seconds from one epoch's end to the next, and how much of that was not training or validating."""
    from raysweep.launch import run

    times: list[float] = []
    inside: list[float] = []

    def progress(event: dict[str, Any]) -> None:
        if event["kind"] == "epoch":
            times.append(time.perf_counter())
            inside.append(event["row"]["seconds"])

    made = run.run(run.plan(settings_of(root, model, epochs)), progress).experiment
    seconds = [b - a for a, b in itertools.pairwise(times)]
    saving = [s - i for s, i in zip(seconds, inside[1:], strict=True)]
    files = [p for p in made.folder.iterdir() if p.suffix == ".pt" and "best" not in p.name]
    return {"seconds": seconds, "saving": saving, "bytes": sum(p.stat().st_size for p in files) / epochs}


def bare(root: Path, model: str, epochs: int) -> dict[str, Any]:
    """Seconds of the loop alone: images in memory, nothing saved."""
    import torch

    from benchmarks.bare import Bare
    from raysweep.training import models

    loop = Bare(root / ".raysweep" / "cache", os.cpu_count() or 1)
    net = models.build(MODELS[model], {}, loop.classes, 1).to(memory_format=torch.channels_last)
    return {"seconds": loop.timed(net, epochs)[1:]}


def jpegs(root: Path, model: str, epochs: int) -> dict[str, Any]:
    """Seconds of the old way, the three files it saved, and its feeding alone."""
    import torch

    from benchmarks import loader
    from raysweep.config import DataSection
    from raysweep.data import cache
    from raysweep.training import models

    data = cache.load(DataSection(source="faces"), root / ".raysweep" / "cache")
    folder, out = root / "jpegs", Path(tempfile.mkdtemp(dir=root))
    if not folder.exists():
        loader.write_jpegs(data, folder)
    torch.set_num_threads(os.cpu_count() or 1)
    net = models.build(MODELS[model], {}, len(data.classes), 1)
    moments = float(data.mean[0]), float(data.std[0])
    seconds = list(loader.epochs(folder, net, epochs, moments, out))[1:]
    optimizer = torch.optim.AdamW(net.parameters())
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    saving = []
    for epoch in range(100, 105):
        began = time.perf_counter()
        loader.save(net, optimizer, epoch, out)
        saving.append(time.perf_counter() - began)
    size = sum((out / n).stat().st_size for n in ("checkpoint_epoch_1.pt", "epoch_1_model.pt", "best_checkpoint.pt"))
    return {"seconds": seconds, "saving": saving, "bytes": size}


def feeding(root: Path, model: str, epochs: int) -> dict[str, Any]:
    """Images a second, without any network: ours and the DataLoader's."""
    import numpy as np
    import torch

    from benchmarks import loader
    from raysweep.config import DataSection
    from raysweep.data import augment, cache
    from raysweep.training.feed import Feed

    torch.set_num_threads(os.cpu_count() or 1)
    data = cache.load(DataSection(source="faces"), root / ".raysweep" / "cache")
    feed = Feed(data, list(data.mean), list(data.std), torch.device("cpu"), True)
    n = len(data.train.labels)
    order = np.random.default_rng(0).permutation(n)
    draws = augment.epoch_draws(n, 4, True, seed=0, epoch=1)

    def once() -> float:
        began = time.perf_counter()
        for a in range(0, n, 64):
            feed.batch(data.train, order[a : a + 64], draws[a : a + 64])
        return n / (time.perf_counter() - began)

    once()
    mine = statistics.median(once() for _ in range(5))
    return {"ours": mine, "loader": loader.feed(root / "jpegs", (float(data.mean[0]), float(data.std[0])))}


WAYS = {"bare": bare, "ours": ours, "jpegs": jpegs, "feeding": feeding}


def measure(way: str, root: Path, model: str, epochs: int) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.epoch",
        "--way",
        way,
        "--root",
        str(root),
        "--model",
        model,
        "--epochs",
        str(epochs),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{way} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} … {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4, help="of each process; the first is not counted")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", choices=MODELS, help="one only")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.way:
        print(json.dumps(WAYS[a.way](a.root, a.model, a.epochs)))
        return
    found: dict[str, Any] = {}
    print("| epoch, 1 process, CPU | seconds | ratio |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for model in [a.model] if a.model else MODELS:
            runs: dict[str, list[dict[str, Any]]] = {w: [] for w in ("bare", "ours", "jpegs")}
            for _ in range(a.repeats):
                for way in runs:
                    runs[way].append(measure(way, root, model, a.epochs))
                    print(
                        f"  {model} {way:<6} {statistics.median(runs[way][-1]['seconds']):6.2f} s",
                        file=sys.stderr,
                        flush=True,
                    )
            # Within a repeat the ways ran one after the other, so their ratio is of one minute of the machine.
            middle = {w: [statistics.median(r["seconds"]) for r in rs] for w, rs in runs.items()}
            for way, seconds in middle.items():
                print(f"| {model}: {way} | {spread(seconds)} | |")
            for peer in ("bare", "jpegs"):
                print(
                    f"| {model}: ours / {peer} | | {spread([o / p for o, p in zip(middle['ours'], middle[peer], strict=True)])} |"
                )
            saving = [statistics.median(r["saving"]) for r in runs["ours"]]
            theirs = [statistics.median(r["saving"]) for r in runs["jpegs"]]
            print(
                f"| {model}: blocked by saving, ours / three torch.save | {spread(saving)} / {spread(theirs)} | {spread([o / p for o, p in zip(saving, theirs, strict=True)])} |"
            )
            print(
                f"| {model}: bytes per epoch, ours / three files | | {runs['ours'][0]['bytes'] / runs['jpegs'][0]['bytes']:.2f} |"
            )
            found[model] = runs
        rates = [measure("feeding", root, "cnn", 1) for _ in range(a.repeats)]
        print(
            f"| feeding alone, images a second: ours / DataLoader | {spread([r['ours'] for r in rates])} / {spread([r['loader'] for r in rates])} | {spread([r['ours'] / r['loader'] for r in rates])} |"
        )
        found["feeding"] = rates
    if a.json:
        a.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
