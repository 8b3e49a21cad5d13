"""For how long a checkpoint blocks training: three ``torch.save``, Lightning's ModelCheckpoint, the Trainer of transformers.

Every variant trains the same network for the same number of images between two checkpoints. Lightning and transformers write one
checkpoint (weights, optimizer, and what else they need to go on), as their users have it; ``torch.save`` writes the old system's three files
of an epoch. What is timed is the call that saves, in the process that trains.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import epoch, measuring
from benchmarks.measuring import Row, in_a_process
from raysweep.events import EpochDone, Event

SAVES, SHORT = 8, 2816  # checkpoints whose pause is measured, and the images trained between two of them
PEERS = {
    "three": ("three `torch.save`", 0.1),
    "lightning": ("Lightning's ModelCheckpoint", None),
    "transformers": ("the checkpoint of transformers' Trainer", None),
}


class Timed:
    """Seconds that each call of a function takes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds.append(time.perf_counter() - began)

        return timed


def _median(seconds: list[float]) -> dict[str, Any]:
    """Not the first one, which allocates buffers and creates files."""
    assert len(seconds) == SAVES
    return {"pause": statistics.median(seconds[1:])}


def ours(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan

    seconds: list[float] = []

    def progress(event: Event) -> None:
        if isinstance(event, EpochDone):
            seconds.append(event.blocked_seconds)

    settings = epoch.settings_of(root, o.model, SAVES, sampling={"samples_per_epoch": SHORT})
    launching.run(experiment_plan.plan_experiment(settings), progress)
    return _median(seconds)


def three(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    import torch

    from benchmarks import loader

    loop, net = epoch.bare_loop(root, o.model)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.001, weight_decay=0.02)
    timed, out = Timed(), Path(tempfile.mkdtemp(dir=root))
    save = timed(loader.save)
    for number in range(1, SAVES + 1):
        loop._epoch(net, optimizer, torch.randperm(len(loop.y))[:SHORT])
        save(net, optimizer, number, out)
    return _median(timed.seconds)


def lightning(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    import lightning as pl

    from benchmarks import trainers

    timed, save = Timed(), pl.Trainer.save_checkpoint
    pl.Trainer.save_checkpoint = timed(save)  # type: ignore[method-assign]
    _train(trainers.lightning, root, o)
    return _median(timed.seconds)


def transformers(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    from transformers import Trainer

    from benchmarks import trainers

    timed, save = Timed(), Trainer._save_checkpoint
    Trainer._save_checkpoint = timed(save)
    _train(trainers.transformers, root, o)
    return _median(timed.seconds)


def _train(train: Callable[..., None], root: Path, o: argparse.Namespace) -> None:
    loop, net = epoch.bare_loop(root, o.model)
    loop.x, loop.y = loop.x[:SHORT], loop.y[:SHORT]
    assert len(loop.y) == SHORT
    train(loop, net, SAVES, Path(tempfile.mkdtemp(dir=root)), _NoLaps())


class _NoLaps(measuring.Laps):
    """Epochs that nobody waits for."""

    def end(self) -> None:
        pass


WAYS = {"ours": ours, "three": three, "lightning": lightning, "transformers": transformers}


def compare(repeats: int, models: tuple[str, ...] = tuple(epoch.MODELS)) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for model in models:
            pauses: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(repeats):
                for way, found in pauses.items():
                    found.append(1e3 * in_a_process("benchmarks.saving", way, root, model=model)["pause"])
            what = f"`{model}`: training blocked by a checkpoint"
            rows += [Row(what, peer, pauses["ours"], pauses[way], "ms", limit) for way, (peer, limit) in PEERS.items()]
    return rows


def main() -> None:
    parser = measuring.parser(__doc__, WAYS)
    parser.add_argument("--model", choices=epoch.MODELS, help="only this model")
    options = parser.parse_args()
    if options.way:
        measuring.answer(WAYS, options)
        return
    models = (options.model,) if options.model else tuple(epoch.MODELS)
    measuring.show(compare(options.repeats, models), options.json)


if __name__ == "__main__":
    main()
