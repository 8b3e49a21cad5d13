"""Head-only branches on features that were computed once: bare loops on the same features, and full passes through the network.

The network is a small vision transformer of timm with 192 features an image. ``--data`` names a folder with one subfolder per class
(FER-2013, for example); without it the built-in faces are used. Every variant runs in its own process, ``--repeats`` times. ``bare``
trains the same heads with the same batches, optimizer and number of validations, saves nothing, and uses as many processes as there
are CPUs. ``full`` trains one epoch of one branch with every image passed through the network; the table multiplies it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measuring
from benchmarks.measuring import Row, in_a_process
from raysweep.store.root import Root

CPUS = os.cpu_count() or 1
NETWORK = {"name": "timm:vit_tiny_patch16_224", "options": {"img_size": 48, "patch_size": 8}, "freeze": "backbone"}


def settings_of(root: Path, data: str, features: str = "auto", epochs: int = 1) -> Any:
    from raysweep.config import load as load_config

    values = {
        "data": {"path": data} if data else {"source": "faces"},
        "model": {**NETWORK, "features": features},
        "training": {"epochs": epochs, "schedule_epochs": 6, "augment": {"crop_padding": 0, "flip": False}},
        "scaling": {"num_workers": 0, "threads": 1},
        "experiment": {"name": "parent" if features == "auto" else "full"},
        "root": str(root),
    }
    return load_config.validate(values)


def parent_of(root: Path, data: str) -> Any:
    """An experiment of one epoch on features, to branch from."""
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan
    from raysweep.store import catalog

    for found in catalog.experiments(Root.open(root)):
        if found.id.startswith("parent_"):
            return found
    return launching.run(experiment_plan.plan_experiment(settings_of(root, data))).experiment


def weights_of(branches: int) -> list[float]:
    """The weight of the first class in every branch."""
    return [round(1.05 + 0.05 * i, 2) for i in range(branches)]


def ours(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the whole sweep, in processes of this machine: their start, training, saving, and the comparison of the branches."""
    from raysweep.config import grid as grids
    from raysweep.launch.sweep import driver as sweeping
    from raysweep.plan import sweep as sweep_plan
    from raysweep.plan.types import SweepRequest

    parent = parent_of(root, o.data)
    first = (parent.config().classes or ("",))[0]
    values = {"epochs": o.epochs, "control": False, "weights": {first: weights_of(o.branches)}}
    plan = sweep_plan.plan_sweep(
        SweepRequest(Root.open(root), f"{parent.id}@1", grids.check(values), threads=1, in_process=True)
    )
    started = time.perf_counter()
    result = sweeping.run(plan)
    assert len(result.experiments) == o.branches
    assert not result.failed
    return {"seconds": time.perf_counter() - started}


def _bare(folder: Path, cache: str, weights: list[float], epochs: int) -> None:
    import torch
    from torch.nn import functional

    from raysweep.data import cache as images
    from raysweep.data import features as stored

    torch.set_num_threads(1)
    found, data = stored.reopen(folder), images.reopen(cache)
    assert found is not None
    assert data is not None
    x, vx = (torch.from_numpy(np.asarray(found.parts[s].rows)) for s in ("train", "val"))
    y, vy = torch.from_numpy(data.train.labels), torch.from_numpy(data.val.labels)
    for weight in weights:
        head = torch.nn.Linear(x.shape[1], len(data.classes))
        optimizer = torch.optim.AdamW(head.parameters(), lr=0.001, weight_decay=0.02, fused=True)
        chances = torch.ones(len(y), dtype=torch.float64)
        chances[y == 0] = weight
        for _ in range(epochs):
            order = torch.multinomial(chances, len(y), replacement=True)
            for start in range(0, len(y), 64):
                some = order[start : start + 64]
                optimizer.zero_grad()
                functional.cross_entropy(head(x[some]), y[some], label_smoothing=0.1).backward()
                optimizer.step()
            with torch.no_grad():
                float((head(vx).argmax(1) == vy).float().mean())


def bare(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the bare loops, from processes that have loaded torch and the features."""
    from raysweep.data import features as stored

    parent_of(root, o.data)
    cache = root / ".raysweep" / "cache"
    folder = next(p for p in (cache / stored.FOLDER).iterdir() if (p / stored.META).exists())
    images = next(str(p) for p in cache.iterdir() if (p / "meta.json").exists())
    weights = weights_of(o.branches)
    with multiprocessing.get_context("spawn").Pool(CPUS) as pool:
        pool.starmap(_bare, [(folder, images, [], 0)] * CPUS)  # imports and reads the files
        started = time.perf_counter()
        pool.starmap(_bare, [(folder, images, weights[i::CPUS], o.epochs) for i in range(CPUS)], chunksize=1)
        return {"seconds": time.perf_counter() - started}


def full(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one epoch of which every image passes the network, in one process with all CPUs."""
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan

    settings = settings_of(root, o.data, "off")
    scaling = settings.scaling.model_copy(update={"threads": CPUS})
    plan = experiment_plan.plan_experiment(settings.model_copy(update={"scaling": scaling}))
    experiment = launching.run(plan).experiment
    header, row = (
        line.split(",") for line in (experiment.folder / "training_history.csv").read_text().splitlines()[:2]
    )
    return {"seconds": float(dict(zip(header, row, strict=True))["seconds"])}


WAYS = {"bare": bare, "ours": ours, "full": full}


def compare(repeats: int, branches: int = 100, epochs: int = 5, data: str = "") -> list[Row]:
    """Measure all variants; full passes once."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        parent_of(root, data)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for i in range(repeats):
            for way, found in seconds.items():
                if way != "full" or i == 0:
                    options = {"branches": branches, "epochs": epochs, "data": data}
                    found.append(in_a_process("benchmarks.features", way, root, **options)["seconds"])
    what = f"{branches} head-only branches × {epochs} epochs on features"
    passes = [seconds["full"][0] * branches * epochs] * repeats
    return [
        Row(
            what,
            f"bare loops on the same features, {CPUS} processes, nothing saved",
            seconds["ours"],
            seconds["bare"],
            "s",
            1.2,
        ),
        Row(what, "full passes through the network: one epoch, multiplied", seconds["ours"], passes, "s"),
    ]


def main() -> None:
    parser = measuring.parser(__doc__, WAYS)
    parser.add_argument("--branches", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--data", default="", help="a folder of images (default: the built-in faces)")
    o = parser.parse_args()
    if o.way:
        measuring.answer(WAYS, o)
        return
    measuring.show(compare(o.repeats, o.branches, o.epochs, o.data), o.json)


if __name__ == "__main__":
    main()
