"""On a GPU: an epoch of raysweep, of a bare loop with its data on the GPU, and of eager fp32; and eight trainings, one after
another and in parallel.

Does not need Ray: ``PYTHONPATH=. python -m benchmarks.gpu --json FILE``. The branches of a sweep share a GPU as processes that
each train one branch after another (``--gpus-per-branch 0.25``: four processes). This measures those processes without the
overhead of Ray. ``--device cpu`` runs the script without a GPU, to test the script itself.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.bare import Bare
from benchmarks.measuring import ENVIRONMENT, Laps, Row, in_a_process, interleave
from raysweep.events import BatchDone, Event

TRAININGS, PLACES = 8, 4
BATCH = 256


class OnDevice(Bare):
    """The bare loop with images and network on the device. ``fast`` means bf16 and channels_last; otherwise eager fp32."""

    def __init__(self, root: Path, device: str, images: int, fast: bool) -> None:
        super().__init__(root / ".raysweep" / "cache", measuring.CPUS)
        import torch

        self.device, self.images, self.fast = torch.device(device), images, fast
        self.x, self.y, self.vx, self.vy = (t.to(self.device) for t in (self.x, self.y, self.vx, self.vy))

    def _cast(self) -> contextlib.AbstractContextManager[Any]:
        import torch

        return torch.autocast(self.device.type, torch.bfloat16) if self.fast else contextlib.nullcontext()

    def _epoch(self, model: Any, optimizer: Any, order: Any) -> None:
        import torch
        from torch.nn import functional

        model.train()
        order = torch.randint(len(self.y), (self.images,), device=self.device)
        for batch in order.split(BATCH):
            x = self.varied(self.prepared(self.x[batch]))
            optimizer.zero_grad()
            with self._cast():
                loss = functional.cross_entropy(model(x), self.y[batch], label_smoothing=0.1)
            loss.backward()
            optimizer.step()

    def validate(self, model: Any) -> float:
        with self._cast():
            return super().validate(model)


def _wait(device: str) -> None:
    """Wait until the GPU has finished its work."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def _loop(root: Path, o: argparse.Namespace, fast: bool) -> dict[str, Any]:
    import torch

    from raysweep.training import models

    loop = OnDevice(root, o.device, o.images, fast)
    torch.manual_seed(0)
    net = models.cnn(loop.classes, 1).to(loop.device)
    if fast:
        net = net.to(memory_format=torch.channels_last)
    laps = Laps()

    def ended() -> None:
        _wait(o.device)
        laps.end()

    loop.timed(net, o.laps, ended)
    return {"accuracy": loop.validate(net)}


class _Reporter:
    """Calls ``lap`` at the last batch of every epoch."""

    def __init__(self, lap: Any) -> None:
        self.lap = lap

    def __call__(self, event: Event) -> None:
        if isinstance(event, BatchDone) and event.batch == event.batches:
            self.lap()

    def should_stop(self) -> None:
        return None


def _train(root: Path, o: argparse.Namespace, epochs: int, lap: Any) -> float:
    """One raysweep run without Ray; returns its best accuracy."""
    from benchmarks.epoch import settings_of
    from raysweep.launch import runner
    from raysweep.plan import experiment as experiment_plan
    from raysweep.training.loop import train

    sections: dict[str, Any] = {
        "sampling": {"samples_per_epoch": o.images},
        "training": {"epochs": epochs, "learning_rate": 0.001, "batch_size": BATCH},
        "scaling": {"num_workers": 0, "threads": measuring.CPUS, "use_gpu": o.device != "cpu"},
    }
    plan = experiment_plan.plan_experiment(settings_of(root, "cnn", epochs, **sections))
    return runner.start(plan, lambda job, *_: train(job, _Reporter(lap))).best_acc


def ours(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    laps = Laps()

    def lap() -> None:
        _wait(o.device)
        laps.end()

    return {"accuracy": _train(root, o, o.laps, lap)}


def bare(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    return _loop(root, o, fast=True)


def eager(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    return _loop(root, o, fast=False)


def trainings(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Run ``--count`` trainings in this process, one after another."""
    for _ in range(o.count):
        _train(root, o, o.epochs, lambda: None)
    return {}


def _side_by_side(root: Path, processes: int, **options: Any) -> float:
    """Seconds until this number of processes, started together, have trained all branches."""
    each = TRAININGS // processes
    command = measuring._command("benchmarks.gpu", "trainings", root, count=each, **options)
    began = time.perf_counter()
    running = [
        subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for process in running:
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(errors[-3000:])
    return time.perf_counter() - began


WAYS = {"ours": ours, "bare": bare, "eager": eager, "trainings": trainings}


def compare(repeats: int, device: str, images: int, epochs: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        options: dict[str, Any] = {"device": device, "images": images, "epochs": epochs}
        in_a_process(
            "benchmarks.gpu", "trainings", root, count=1, **options
        )  # decodes the images and warms the shared caches
        runs = interleave("benchmarks.gpu", ["ours", "bare", "eager"], root, repeats, **options)
        mine = runs["ours"]["seconds"]
        print({way: r["accuracy"] for way, r in runs.items()}, file=sys.stderr)
        rows = [
            Row("epoch of `cnn`", "bare loop, data on the GPU, bf16", mine, runs["bare"]["seconds"], "s", 1.05),
            Row("epoch of `cnn`", "the same, eager fp32", mine, runs["eager"]["seconds"], "s", 1 / 1.3),
        ]
        ways = {"branches": PLACES, "in turn": 1, "at once": TRAININGS}
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(min(3, repeats)):
            for way, processes in ways.items():
                times[way].append(_side_by_side(root, processes, **options))
        what = f"{TRAININGS} branches, {PLACES} at a time"
        rows.append(Row(what, "one after another", times["branches"], times["in turn"], "s", 0.5))
        rows.append(Row(what, f"{TRAININGS} processes at once", times["branches"], times["at once"], "s", 1.0))
        return rows


def main() -> None:
    parser = measuring.parser(__doc__, WAYS)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to test the script")
    parser.add_argument("--images", type=int, default=30_000, help="images per epoch")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each of the eight trainings")
    parser.add_argument("--count", type=int, default=1, help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.way:
        measuring.answer(WAYS, o)
        return
    measuring.show(compare(o.repeats, o.device, o.images, o.epochs), o.json)


if __name__ == "__main__":
    main()
