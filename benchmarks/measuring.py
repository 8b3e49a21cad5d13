"""Shared by all comparisons. Each measurement runs in its own process; each result is a ratio with its spread and a limit."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

CPUS = os.cpu_count() or 1
# The environment of every measured process. pip compiles modules when it installs them. With PYTHONDONTWRITEBYTECODE,
# Python would write none and compile all of torch and Ray at every import.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
Way = Callable[[Path, argparse.Namespace], dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """One line of the table: raysweep against a peer, one value per repeat.

    ``limit`` is the largest ratio that meets the target (with ``above``, the smallest); None if there is no target.
    """

    what: str
    peer: str
    ours: Sequence[float]
    theirs: Sequence[float]
    unit: str
    limit: float | None = None
    above: bool = False

    @property
    def ratios(self) -> list[float]:
        """One ratio per repeat. Within a repeat the variants run close together, so the machine is in the same state."""
        return [o / t for o, t in zip(self.ours, self.theirs, strict=True)]

    @property
    def holds(self) -> bool | None:
        if self.limit is None:
            return None
        middle = statistics.median(self.ratios)
        return middle >= self.limit if self.above else middle <= self.limit

    def line(self) -> str:
        goal = (
            "–" if self.limit is None else f"{'≥' if self.above else '≤'} {self.limit:g} {'✓' if self.holds else '✗'}"
        )
        return (
            f"| {self.what} | {self.peer} | {number(self.ours)} {self.unit} | {number(self.theirs)} {self.unit} "
            f"| {spread(self.ratios)} | {goal} |"
        )

    def record(self) -> dict[str, Any]:
        return {**vars(self), "ratios": self.ratios, "holds": self.holds}


HEADER = "| what | peer | ours | peer's | ratio (least … most) | target |\n|---|---|---|---|---|---|"


def number(values: Sequence[float]) -> str:
    """The median, with three significant digits."""
    middle = statistics.median(values)
    return f"{middle:,.0f}" if abs(middle) >= 100 else f"{middle:.3g}"


def spread(values: Sequence[float]) -> str:
    return f"**{statistics.median(values):.2f}** ({min(values):.2f} … {max(values):.2f})"


def machine() -> str:
    """The machine and the versions, in one line."""
    names = ("torch", "ray", "torchvision", "lightning", "transformers")
    have = [f"{n} {metadata.version(n)}" for n in names if _installed(n)]
    return f"{CPUS} CPUs ({_processor()}), Python {platform.python_version()}, {', '.join(have)}"


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def peak_mb() -> float:
    """Peak memory of this process in MB (Linux reports KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _command(module: str, way: str, root: Path, **options: Any) -> list[str]:
    command = [sys.executable, "-m", module, "--way", way, "--root", str(root)]
    return command + [word for key, value in options.items() for word in (f"--{key}", str(value))]


def in_a_process(module: str, way: str, root: Path, **options: Any) -> dict[str, Any]:
    """Run one measurement as ``python -m MODULE --way WAY``; its last line of output is JSON."""
    done = subprocess.run(_command(module, way, root, **options), capture_output=True, text=True, env=ENVIRONMENT)
    if done.returncode:
        raise RuntimeError(f"{way} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    shown = ", ".join(f"{k} {v:.3g}" for k, v in result.items() if isinstance(v, (int, float)))
    print(f"  {way:<10} {' '.join(map(str, options.values())):<8} {shown}", file=sys.stderr, flush=True)
    return result


class Laps:
    """The rounds of one process of :func:`interleave`. Its clock is stopped while the other processes run."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    def end(self) -> None:
        """End a round: report how long it took, and return when the next round may begin."""
        print("\n" + json.dumps({"lap": time.perf_counter() - self.began}), flush=True)
        sys.stdin.readline()
        self.began = time.perf_counter()


def interleave(module: str, ways: Sequence[str], root: Path, laps: int, **options: Any) -> dict[str, dict[str, Any]]:
    """Run variants as processes that take turns, one round each, so that a slow minute of the machine affects all of them.

    A result's ``seconds`` lists ``laps`` rounds; the first round of each process is not counted.
    """
    running: dict[str, subprocess.Popen[str]] = {}
    rounds: dict[str, list[float]] = {way: [] for way in ways}
    try:
        with tempfile.TemporaryFile("w+") as errors:
            for way in ways:
                command = _command(module, way, root, **options, laps=laps + 1)
                pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
                running[way] = subprocess.Popen(command, text=True, env=ENVIRONMENT, **pipes)
                _answer_of(running[way], errors)
            for _ in range(laps):
                for way, process in running.items():
                    _go(process)
                    rounds[way].append(_answer_of(process, errors)["lap"])
                said = ", ".join(f"{way} {s[-1]:.2f}" for way, s in rounds.items())
                print(f"  {' '.join(map(str, options.values()))}: {said} s", file=sys.stderr, flush=True)
            results = {}
            for way, process in running.items():
                _go(process)
                results[way] = _answer_of(process, errors) | {"seconds": rounds[way]}
            return results
    finally:
        for process in running.values():
            process.kill()
            process.communicate()


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def _answer_of(process: subprocess.Popen[str], errors: TextIO) -> dict[str, Any]:
    """The next line of JSON that a process prints; other output of its libraries is skipped."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{") and line.rstrip().endswith("}"):
            with contextlib.suppress(ValueError):
                return json.loads(line)
    errors.seek(0)
    raise RuntimeError(f"{process.args} failed:\n{errors.read()[-3000:]}")


def answer(ways: Mapping[str, Way], options: argparse.Namespace) -> None:
    """Run in the measured process by :func:`in_a_process` and :func:`interleave`: print the result as JSON."""
    result = ways[options.way](options.root, options)
    print("\n" + json.dumps(result | {"peak_mb": peak_mb()}))


def parser(text: str | None, ways: Mapping[str, Way]) -> argparse.ArgumentParser:
    """The options of every comparison."""
    made = argparse.ArgumentParser(description=text)
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--json", type=Path, help="write all figures to this file")
    made.add_argument("--laps", type=int, default=0, help=argparse.SUPPRESS)  # for processes that take turns
    made.add_argument("--way", choices=list(ways), help=argparse.SUPPRESS)
    made.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    return made


def show(rows: Sequence[Row], file: Path | None) -> None:
    """Print the table, and write the figures to a JSON file if one is given."""
    print(machine() + "\n\n" + HEADER)
    for row in rows:
        print(row.line())
    if file is not None:
        file.write_text(json.dumps({"machine": machine(), "rows": [r.record() for r in rows]}, indent=1))
