"""From the prompt to the verdict: ``raysweep run base`` and ``raysweep branch`` of its 14 branches, by Ray Tune and without Ray.

``python -m benchmarks.answer [--busy 0,1] [--repeats 3]``. The peer is the bare loop, which trains and validates as many images from
memory, saves nothing and compares nothing. Its process and the commands take turns, all beside the same number of busy processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.measuring import CPUS, ENVIRONMENT, Row, in_a_process
from benchmarks.waiting import busy

BRANCHES, PARENT_EPOCHS, EPOCHS = 14, 5, 2  # of configs/base.yaml and configs/grid.yaml
LIMITS = {"ray": 1.3, "processes": 1.15}


def bare(root: Path) -> float:
    """Seconds of the bare loop for all epochs of the parent and the branches."""
    from benchmarks.bare import Bare

    loop = Bare(root / "cache", CPUS)
    started = time.perf_counter()
    loop.train({}, PARENT_EPOCHS)
    for _ in range(BRANCHES):
        loop.train({1: 3.0}, EPOCHS)
    return time.perf_counter() - started


def commands(root: Path, more: list[str]) -> float:
    """Seconds of both commands, in an empty folder. The images are decoded before: both sides have them."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        environment = {**ENVIRONMENT, "RAYSWEEP_CACHE": str(root / "cache"), "RAYSWEEP_STATE": str(root / "state")}
        started = time.perf_counter()
        for words in (["run", "base"], ["branch", "--from", "base@3", "--weights-grid", "grid", *more]):
            done = subprocess.run(
                [sys.executable, "-m", "raysweep", *words, "--root", folder],
                env=environment,
                cwd=folder,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise RuntimeError(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
        return time.perf_counter() - started


def ours(root: Path, way: str) -> float:
    return bare(root) if way == "bare" else commands(root, ["--in-process"] if way == "processes" else [])


WAYS = ("bare", *LIMITS)


def compare(repeats: int, beside: str = "0,1") -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        commands_before = {**os.environ, "RAYSWEEP_CACHE": str(root / "cache")}
        subprocess.run(
            [sys.executable, "-m", "raysweep", "run", "base", "--dry-run", "--root", folder],
            env=commands_before,
            check=True,
            capture_output=True,
        )
        for count in map(int, beside.split(",")):
            seconds: dict[str, list[float]] = {way: [] for way in WAYS}
            with busy(count):
                for _ in range(repeats):
                    for way, found in seconds.items():
                        found.append(in_a_process("benchmarks.answer", way, root)["seconds"])
            what = f"from the prompt to the verdict, 14 branches, {count} busy beside"
            for way, limit in LIMITS.items():
                name = "Ray Tune" if way == "ray" else "--in-process"
                rows.append(
                    Row(f"{what}: {name}", "bare loops, nothing saved", seconds[way], seconds["bare"], "s", limit)
                )
    return rows


def main() -> None:
    parser = measuring.parser(__doc__, dict.fromkeys(WAYS, ours))
    parser.set_defaults(repeats=3)
    parser.add_argument("--busy", default="0,1", help="numbers of busy processes beside")
    options = parser.parse_args()
    if options.way:
        ways: dict[str, Any] = {w: lambda root, o, w=w: {"seconds": ours(root, w)} for w in WAYS}
        measuring.answer(ways, options)
    else:
        measuring.show(compare(options.repeats, options.busy), options.json)


if __name__ == "__main__":
    main()
