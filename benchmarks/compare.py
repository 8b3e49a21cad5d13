"""How long ``raysweep compare SWEEP`` takes: 14 branches with three seeds and three controls, 7,178 images of 7 classes.

``python -m benchmarks.compare`` prints the seconds of the whole command, wall and CPU, without and with leaked images (as many as
FER-2013 has, for which every effect is computed twice); and those of ``import numpy, scipy`` and two libraries that it needs. ``--large``
compares 100 branches with three seeds on 10,000 images of 100 and of 7 classes, in memory, and prints seconds and the largest memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
IMAGES = (958, 111, 1024, 1774, 1233, 1247, 831)
LEAKED = 568
RECALLS = (0.5, 0.4, 0.4, 0.8, 0.6, 0.5, 0.7)
LARGE = """
import re, sys, time
import numpy as np
from raysweep.report.findings import findings
from raysweep.report.findings.arms import Arm, Cases

k, branches = map(int, sys.argv[1:])
labels = np.random.default_rng(0).integers(0, k, 10_000)
truth = 3 * np.eye(k, dtype=np.float32)[labels]

def network(seed):  # made while it is read, so that it takes no memory
    return lambda: truth + np.random.default_rng(seed).standard_normal(truth.shape, dtype=np.float32)

arms = [Arm(f"b{b}", [network(3 * b + s) for s in range(3)]) for b in range(branches + 1)]
began, cpu = time.perf_counter(), time.process_time()
found = findings.find(arms[0], arms[1:], Cases(labels, k))
wall, cpu = time.perf_counter() - began, time.process_time() - cpu
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1e6  # GB, of this program alone
print(wall, cpu, peak, len(found.findings))
"""
IMPORTS = "import numpy, scipy.sparse, scipy.special, pyarrow.parquet"


def make(root: Path) -> str:
    """Write the sweep; returns its id. The networks are random, their predictions have the size of real ones."""
    from raysweep.report import images
    from raysweep.report.images import ValidationImages
    from tests.report.making import sweep_of, write_predictions

    names = [f"w{b}" for b in range(14)]
    branches = {n: ({"fear": 1.0 + b}, RECALLS) for b, n in enumerate(names)}
    sweep = sweep_of(root, CLASSES, RECALLS, branches, seeds=(0, 1, 2), images=IMAGES)
    labels = np.repeat(np.arange(len(CLASSES)), IMAGES)
    pixels = np.array([f"{i:032x}".encode() for i in range(len(labels))], dtype="S32")
    copies = np.zeros(len(labels), dtype=np.int32)
    copies[np.random.default_rng(0).permutation(len(labels))[:LEAKED]] = 1
    told = ValidationImages([f"{i}.png" for i in range(len(labels))], pixels, copies, copies)
    for i, experiment in enumerate(sweep.experiments().values()):
        rng = np.random.default_rng(i)
        scores = 2.2 * np.eye(len(CLASSES))[labels] + rng.standard_normal((len(labels), len(CLASSES)))
        shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        write_predictions(experiment, CLASSES, labels, scores.argmax(1), 4, shares.astype(np.float32))
        images.write(experiment, told)
    return sweep.id


def without_leaks(root: Path) -> None:
    """Write the same images as images that are not in training."""
    from raysweep.report import images
    from raysweep.store import sweep as sweeps
    from raysweep.store.root import Root

    (sweep,) = sweeps.all_sweeps(Root.open(root))
    for experiment in sweep.experiments().values():
        told = images.read(experiment)
        none = np.zeros_like(told.in_training)
        images.write(experiment, replace(told, in_training=none, of_its_class=none))


def seconds(command: list[str], repeats: int) -> tuple[float, float]:
    """The medians of wall and CPU seconds of a command."""
    wall, cpu = [], []
    for _ in range(repeats):
        began, before = time.perf_counter(), os.times()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = os.times()
        wall.append(time.perf_counter() - began)
        cpu.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return statistics.median(wall), statistics.median(cpu)


def large(classes: int, branches: int) -> tuple[float, float, float, int]:
    """(wall seconds, CPU seconds, largest memory in GB, findings) of the comparison of so many branches with three seeds, in a program of
    its own."""
    command = [sys.executable, "-c", LARGE, str(classes), str(branches)]
    wall, cpu, peak, rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(wall), float(cpu), float(peak), int(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="the large comparisons instead")
    options = parser.parse_args()
    if options.large:
        for classes in (100, 7):
            wall, cpu, peak, _ = large(classes, 100)
            print(
                f"100 branches, 3 seeds, 10,000 images, {classes} classes: {wall:.1f} s, {cpu:.1f} s CPU, {peak:.2f} GB"
            )
        return
    repeats = options.repeats
    with tempfile.TemporaryDirectory() as folder:
        sweep = make(Path(folder))
        command = [sys.executable, "-m", "raysweep", "compare", sweep, "--root", folder]
        rows = [("imports alone", seconds([sys.executable, "-c", IMPORTS], repeats))]
        rows.append((f"with {LEAKED} leaked images", seconds(command, repeats)))
        without_leaks(Path(folder))
        rows.append(("without leaked images", seconds(command, repeats)))
    for name, (wall, cpu) in rows:
        print(f"{name:<26} {wall:5.2f} s   {cpu:5.2f} s CPU")


if __name__ == "__main__":
    main()
