"""Time from the command to the first training step, against the import of torch alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks import measuring
from benchmarks.measuring import Row

CONFIG = Path(__file__).parents[1] / "configs" / "base.yaml"


class _FirstStep(nn.Module):
    """Ends the process at its second training batch, when the first step is done."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.batches = 0

    def forward(self, x: Any) -> Any:
        self.batches += self.training
        if self.batches == 2:
            os._exit(42)
        return self.body(x)


def build(num_classes: int, channels: int) -> nn.Module:
    """For ``model.name=python:benchmarks.start:build``."""
    from raysweep.training import models

    return _FirstStep(models.build("cnn", {}, num_classes, channels))


def _timed(command: list[str], code: int) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=measuring.ENVIRONMENT | {"PYTHONPATH": "."})
    if done.returncode != code:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - began


def compare(repeats: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        script = str(Path(sys.executable).with_name("raysweep"))
        ours = [script, "run", str(CONFIG), "--root", folder, "model.name=python:benchmarks.start:build"]
        torch = [sys.executable, "-c", "import torch"]
        _timed(torch, 0)
        _timed(ours, 42)  # draws the images and fills the cache on disk
        found: list[tuple[float, float]] = []
        for _ in range(repeats):
            found.append((_timed(ours, 42), _timed(torch, 0)))
            print(f"  first step {found[-1][0]:.2f} s, import torch {found[-1][1]:.2f} s", file=sys.stderr, flush=True)
    mine, limit = [a for a, _ in found], [b + 3 for _, b in found]
    return [Row("`raysweep run` to its first step", '`python -c "import torch"` + 3 s', mine, limit, "s", 1.0)]


def main() -> None:
    options = measuring.parser(__doc__, {}).parse_args()
    measuring.show(compare(options.repeats), options.json)


if __name__ == "__main__":
    main()
