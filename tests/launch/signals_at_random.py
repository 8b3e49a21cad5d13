"""Random signals over the start, the training and the end of a run or a sweep.

``python -m tests.launch.signals_at_random FOLDER --kind run|sweep --count N [--seed S] [--phase start|training|end] [--forked]`` prints a
JSON line per trial. Each trial is a program of its own, from its first line on, that gets SIGINT, SIGTERM or SIGHUP at a random
moment. It must end with 130, with a last line that says how to go on, without a traceback and without leaving a process; and
what that line says must lead to the bits of an undisturbed program. ``docs/reliability.md`` has the counts of the last campaign.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysweep.store.experiment import Experiment
from tests import forks
from tests.conftest import weights_hash
from tests.forks import Forked
from tests.launch.kills import ended, start, write_config

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PHASES = ("start", "training", "end")
MARK = "RAYSWEEP_TRIAL"
LIMIT_S = 300.0
GONE_S = 10.0
GRID = "epochs: 2\nseeds: [0]\nweights:\n  '5': [3.0]\n"
OUR_FAULT = ("Traceback", "Exception ignored", "Fatal Python error", "core dumped", "SIGSEGV", "Aborted")


@dataclass
class Program:
    """A command under test, in its own root."""

    kind: str
    root: Path
    arguments: list[str]
    forked: bool = False  # without the seconds in which libraries load

    @property
    def log(self) -> Path:
        return self.root / "output.txt"

    @property
    def experiments(self) -> list[Experiment]:
        """What the command has made, by name; not the parent of a sweep."""
        found = [f for f in self.root.glob("broken*_*") if (f / "lineage.jsonl").exists()]
        return [Experiment(f) for f in sorted(found, key=lambda f: f.name.rsplit("_", 2)[0])]

    def phase(self) -> str:
        """From the files alone."""
        made = self.experiments
        if not made:
            return "start"
        finished = sum(e.status() == "finished" for e in made)
        return "end" if finished == (2 if self.kind == "sweep" else 1) else "training"

    def begin(self, mark: str) -> subprocess.Popen[bytes] | Forked:
        with open(self.log, "ab") as log, open(os.devnull, "wb") as nothing:
            if self.forked:
                process: Any = Forked(lambda: self._in_a_fork(mark), nothing.fileno(), log.fileno())
            else:
                process = self._executed(mark, log)
        while process.poll() is None and not _listens(process.pid):  # Python's own start is not ours
            time.sleep(0.001)
        return process

    def _in_a_fork(self, mark: str) -> None:
        os.environ[MARK] = mark  # for what it starts
        forks.command_line(*self.arguments, "--root", self.root)

    def _executed(self, mark: str, log: Any) -> subprocess.Popen[bytes]:
        environment = {**os.environ, MARK: mark, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-m", "raysweep", *self.arguments, "--root", str(self.root)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=environment, process_group=0)

    def hashes(self) -> list[str]:
        return [weights_hash(e) for e in self.experiments]


def _listens(pid: int) -> bool:
    """Whether a process has a handler of SIGTERM."""
    with contextlib.suppress(OSError):
        caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
        return caught is not None and bool(int(caught[1], 16) & 1 << (signal.SIGTERM - 1))
    return False


def left_over(mark: str, group: int) -> list[int]:
    """Living processes of a trial: those with its mark, and those of its process group."""
    entry, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            pid = int(folder.name)
            if entry in (folder / "environ").read_bytes().split(b"\0") or os.getpgid(pid) == group:
                found.append(pid)
    return found


def names(pids: list[int]) -> list[str]:
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:80])
    return found


def undisturbed(program: Program) -> tuple[list[str], dict[str, float]]:
    """(hashes, seconds of each phase) of a program that nobody disturbs."""
    process, begun = program.begin("undisturbed"), time.monotonic()
    since, seconds = begun, dict.fromkeys(PHASES, 0.0)
    while process.poll() is None:
        phase = program.phase()
        now = time.monotonic()
        seconds[phase] += now - since
        since = now
        time.sleep(0.02)
    assert process.returncode == 0, program.log.read_text()[-3000:]
    return program.hashes(), seconds


def strike(program: Program, mark: str, phase: str, after: float, number: int) -> dict[str, Any] | None:
    """Start the program and signal it; None if it was over before the moment came."""
    process = program.begin(mark)
    while process.poll() is None and PHASES.index(program.phase()) < PHASES.index(phase):
        time.sleep(0.01)
    time.sleep(after)
    struck_in, begun = program.phase(), time.monotonic()
    if process.poll() is not None:
        return None
    os.kill(process.pid, number)  # ours to reap, so its id is still its own
    try:
        code = process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        code = 999
    seconds = time.monotonic() - begun
    if code == 0:  # the signal came during the interpreter's own end
        return None
    while (alive := left_over(mark, process.pid)) and time.monotonic() - begun - seconds < GONE_S:
        time.sleep(0.1)
    text = program.log.read_text(errors="replace")
    return {
        "phase": struck_in,
        "signal": signal.Signals(number).name,
        "code": code,
        "seconds": round(seconds, 2),
        "gone_after": round(time.monotonic() - begun - seconds, 1),
        "alive": names(alive),
        "last_line": (text.strip().splitlines() or [""])[-1],
        "faults": [word for word in OUR_FAULT if word in text],
    }


def go_on(program: Program, last_line: str) -> int:
    """Do what the last line says; returns the exit code."""
    said = re.search(r"Go on with: raysweep (.+)$", last_line)
    if said:
        arguments = shlex.split(said[1])
    elif "nothing is left to do" in last_line:
        return 0
    else:
        arguments = [*program.arguments, "--root", str(program.root)]
    pid = start(arguments, program.root / "afterwards.txt")
    deadline = time.monotonic() + LIMIT_S
    while (code := ended(pid)) is None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return code


def trial(
    make: Callable[[str], Program],
    number: int,
    expected: list[str],
    seconds: dict[str, float],
    phase: str,
    rng: random.Random,
) -> dict[str, Any]:
    """One signal; again where the program was over before."""
    for attempt in range(20):
        program = make(f"{number:03}-{attempt}")
        # Earlier each time: a machine may be faster now than when it was undisturbed.
        after, sent = rng.uniform(0, seconds[phase]) * 0.7**attempt, rng.choice(SIGNALS)
        row = strike(program, f"{os.getpid()}-{number}-{attempt}", phase, after, sent)
        if row is not None:
            row["afterwards"] = go_on(program, row["last_line"])
            row["same"] = row["afterwards"] == 0 and program.hashes() == expected
            told = "Go on with: " in row["last_line"] or "nothing is left to do" in row["last_line"]
            row["good"] = row["code"] == 130 and told and not row["faults"] and not row["alive"] and row["same"]
            return {"number": number, "kind": program.kind, "after": round(after, 3), **row}
    raise AssertionError(f"no moment found in phase {phase}; it takes {seconds[phase]:.2f} s")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=("run", "sweep"), default="run")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--phase", choices=PHASES, default=None)
    parser.add_argument("--forked", action="store_true", help="fork the programs, so that no library has to load")
    chosen = parser.parse_args(arguments)
    import raysweep.cli.branch  # noqa: F401
    import tests.loaded  # noqa: F401

    chosen.folder.mkdir(parents=True, exist_ok=True)
    config = write_config(chosen.folder / "config.yaml", {"num_workers": 0})
    grid = chosen.folder / "grid.yaml"
    grid.write_text(GRID)
    parent = chosen.folder / "parent"
    if chosen.kind == "sweep" and not parent.exists():
        parent.mkdir()
        assert (
            _wait(start(["run", str(config), "--name", "parent", "--root", str(parent)], chosen.folder / "parent.txt"))
            == 0
        )

    def make(name: str) -> Program:
        root = chosen.folder / f"{chosen.kind}-{chosen.seed}-{name}"
        root.mkdir()
        if chosen.kind == "run":
            return Program("run", root, ["run", str(config), "--name", "broken"], chosen.forked)
        (folder,) = parent.glob("parent_*")
        words = [
            "branch",
            "--from",
            str(folder / "checkpoint_epoch_3.pt"),
            "--weights-grid",
            str(grid),
            "--name",
            "broken",
        ]
        return Program("sweep", root, [*words, "--max-concurrent", "1"], chosen.forked)

    expected, seconds = undisturbed(make("undisturbed"))
    print(json.dumps({"kind": chosen.kind, "undisturbed": seconds}), flush=True)
    rng = random.Random(chosen.seed)
    wrong = 0
    for number in range(chosen.count):
        phase = chosen.phase or PHASES[number % 3]
        row = trial(make, number, expected, seconds, phase, rng)
        wrong += not row["good"]
        print(json.dumps(row), flush=True)
    return 1 if wrong else 0


def _wait(pid: int) -> int:
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
