"""An epoch on the CPU: raysweep, a bare loop over images in memory, JPEGs through a DataLoader, Lightning, transformers.

An epoch is training, validation and, except in the bare loop, saving. All variants are started together and take turns, one
epoch each; the first epoch of each is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.measuring import CPUS, Laps, Row, in_a_process, interleave
from raysweep.events import BatchDone, EpochDone, Event

MODELS = {"cnn": "cnn", "vit": "python:benchmarks.vit:build"}


def settings_of(root: Path, model: str, epochs: int, **sections: Any) -> Any:
    """The configuration of the raysweep run."""
    from raysweep.config import load as load_config

    values = {
        "experiment": {"name": "bench"},
        "data": {"source": "faces"},
        "model": {"name": MODELS[model]},
        "training": {"epochs": epochs, "learning_rate": 0.001},
        "scaling": {"num_workers": 0, "threads": CPUS},
        "root": str(root),
    }
    return load_config.validate(load_config.merge(values, sections))


def ours(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    """A raysweep run. A round lasts from the last batch of one epoch to the last batch of the next: validation, saving, training."""
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan

    events: list[EpochDone] = []
    laps = Laps()

    def progress(event: Event) -> None:
        if isinstance(event, EpochDone):
            events.append(event)
        if isinstance(event, BatchDone) and event.batch == event.batches:
            laps.end()

    made = launching.run(experiment_plan.plan_experiment(settings_of(root, o.model, o.laps)), progress).experiment
    files = [p for p in made.folder.iterdir() if p.suffix == ".pt" and "best" not in p.name]
    return {
        "bytes": sum(p.stat().st_size for p in files) / len(events),
        "checkpoint": (made.folder / "checkpoint_epoch_1.pt").stat().st_size,
    }


def network(model: str, classes: int) -> Any:
    """One of MODELS, for gray images."""
    from raysweep.training import models

    return models.build(MODELS[model], {}, classes, 1, trusted=True)


def bare_loop(root: Path, model: str) -> tuple[Any, Any]:
    """(the loop over images in memory, the network in channels_last)."""
    import torch

    from benchmarks.bare import Bare

    loop = Bare(root / ".raysweep" / "cache", CPUS)
    return loop, network(model, loop.classes).to(memory_format=torch.channels_last)


def bare(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    """The loop alone: images in memory, nothing saved."""
    loop, net = bare_loop(root, o.model)
    laps = Laps()
    loop.timed(net, o.laps, laps.end)
    return {}


def lightning(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import trainers

    trainers.lightning(*bare_loop(root, o.model), o.laps, Path(tempfile.mkdtemp(dir=root)), Laps())
    return {}


def transformers(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import trainers

    trainers.transformers(*bare_loop(root, o.model), o.laps, Path(tempfile.mkdtemp(dir=root)), Laps())
    return {}


def _jpegs(root: Path) -> tuple[Any, Path, tuple[float, float]]:
    from benchmarks import loader
    from raysweep.config.settings import DataSection
    from raysweep.data import cache

    data, folder = cache.load(DataSection(source="faces"), root / ".raysweep" / "cache"), root / "jpegs"
    if not folder.exists():
        loader.write_jpegs(data, folder)
    return data, folder, (float(data.mean[0]), float(data.std[0]))


def jpegs(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    """The old system: JPEGs through a DataLoader, and three files per epoch."""
    import torch

    from benchmarks import loader

    data, folder, moments = _jpegs(root)
    out = Path(tempfile.mkdtemp(dir=root))
    torch.set_num_threads(CPUS)
    net = network(o.model, len(data.classes))
    laps = Laps()
    for _ in loader.epochs(folder, net, o.laps, moments, out, o.model == "vit"):
        laps.end()
    size = sum((out / n).stat().st_size for n in ("checkpoint_epoch_1.pt", "epoch_1_model.pt", "best_checkpoint.pt"))
    return {"bytes": size}


def feeding(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Images per second of data loading alone: raysweep and the DataLoader."""
    import numpy as np
    import torch

    from benchmarks import loader
    from raysweep.data import augment
    from raysweep.training.feed import Feed

    torch.set_num_threads(CPUS)
    data, folder, moments = _jpegs(root)
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
    return {"ours": statistics.median(once() for _ in range(5)), "loader": loader.feed(folder, moments)}


WAYS = {
    "bare": bare,
    "ours": ours,
    "jpegs": jpegs,
    "lightning": lightning,
    "transformers": transformers,
    "feeding": feeding,
}
# peer → its name, and by model the target: the largest ratio raysweep / peer
PEERS: dict[str, tuple[str, dict[str, float]]] = {
    "bare": ("bare loop, images in memory", {"cnn": 1.03, "vit": 1.03}),
    "jpegs": ("JPEGs → PIL → DataLoader, 2 workers", {"cnn": 0.6, "vit": 0.45}),
    "lightning": ("Lightning's Trainer, images in memory", {"cnn": 1.0, "vit": 1.0}),
    "transformers": ("transformers' Trainer, images in memory", {"cnn": 1.0, "vit": 1.0}),
}


def compare(repeats: int, models: tuple[str, ...] = tuple(MODELS)) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for model in models:
            runs = interleave("benchmarks.epoch", ["ours", *PEERS], root, repeats, model=model)
            mine, old = runs["ours"], runs["jpegs"]
            for way, (peer, limits) in PEERS.items():
                rows.append(Row(f"epoch of `{model}`", peer, mine["seconds"], runs[way]["seconds"], "s", limits[model]))
            size = [mine["bytes"] / 1e6], [old["bytes"] / 1e6]
            rows.append(Row(f"`{model}`: bytes per epoch", "three full files", *size, "MB", 0.6))
            most = runs["bare"]["peak_mb"] + 300 + mine["checkpoint"] / 1e6
            peer = "the bare loop's + 300 MB + a checkpoint"
            rows.append(Row(f"`{model}`: peak memory", peer, [mine["peak_mb"]], [most], "MB", 1.0))
        rates = [in_a_process("benchmarks.epoch", "feeding", root) for _ in range(min(3, repeats))]
        both = [r["ours"] for r in rates], [r["loader"] for r in rates]
        rows.append(Row("data loading alone", "JPEGs → PIL → DataLoader, 2 workers", *both, "images/s", 20, above=True))
    return rows


def main() -> None:
    parser = measuring.parser(__doc__, WAYS)
    parser.add_argument("--model", choices=MODELS, help="only this model")
    options = parser.parse_args()
    if options.way:
        measuring.answer(WAYS, options)
        return
    models = (options.model,) if options.model else tuple(MODELS)
    measuring.show(compare(options.repeats, models), options.json)


if __name__ == "__main__":
    main()
