"""How OpenMP's threads should wait: the bare loop with GCC's default spin, and with shorter ones, beside busy processes.

``python -m benchmarks.waiting [--busy 0,1,2,4] [--models cnn,vit] [--repeats 7]``. Each round trains 1,024 images on all CPUs; the ways
take turns. A ratio is the time with raysweep's own setting over the time with another.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.measuring import CPUS, Laps, Row, interleave
from raysweep import _openmp

DEFAULT = "300000"  # of GCC's library, where the user sets nothing
OURS = _openmp.CALM["GOMP_SPINCOUNT"]
SPINS = (DEFAULT, "300", OURS, "10000", "30000", "100000")
IMAGES = 1024


def loop(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Train ``o.laps`` rounds of the bare loop; threads wait as ``o.way`` says."""
    os.environ["GOMP_SPINCOUNT"] = o.way  # before torch is loaded
    import torch

    from benchmarks.bare import Bare
    from benchmarks.epoch import network

    bare = Bare(root / "cache", CPUS)
    torch.manual_seed(0)
    net = network(o.model, bare.classes).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.001, weight_decay=0.02)
    laps = Laps()
    for _ in range(o.laps):
        bare._epoch(net, optimizer, torch.randperm(len(bare.y))[:IMAGES])
        laps.end()
    return {}


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes beside, each of which keeps a CPU busy."""
    beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in beside:
            process.kill()
            process.wait()


def compare(repeats: int, models: str = "cnn", beside: str = "0,1,2,4") -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in models.split(","):
            for count in map(int, beside.split(",")):
                with busy(count):
                    found = interleave("benchmarks.waiting", SPINS, Path(folder), repeats, model=model)
                what = f"{IMAGES:,} images, {model}, {count} busy beside"
                for way in (w for w in SPINS if w != OURS):
                    limit = (1.02 if count == 0 else 1.0) if way == DEFAULT else None
                    peer = f"GOMP_SPINCOUNT={way}" + (" (the default)" if way == DEFAULT else "")
                    rows.append(Row(what, peer, found[OURS]["seconds"], found[way]["seconds"], "s", limit))
    return rows


def main() -> None:
    ways = {spin: loop for spin in SPINS}
    made = measuring.parser(__doc__, ways)
    made.set_defaults(repeats=7)
    made.add_argument("--busy", default="0,1,2,4", help="numbers of busy processes beside")
    made.add_argument("--models", default="cnn", help="cnn, vit")
    made.add_argument("--model", help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.way:
        measuring.answer(ways, options)
    else:
        measuring.show(compare(options.repeats, options.models, options.busy), options.json)


if __name__ == "__main__":
    main()
