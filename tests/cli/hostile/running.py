"""Running the cases, in a process of its own: ``python -m tests.cli.hostile.running FOLDER CASES`` writes a report."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.hostile import controls, files, pickles, strangers, texts  # noqa: F401  (each adds its cases)
from tests.cli.hostile.cases import CASES, Case, Room
from tests.conftest import draw_classes

ADDRESS_SPACE = 2_000_000_000  # what a command may map besides the imports: a runaway must not take the machine along
AT_ONCE = 3  # what hangs does not keep the others waiting
BUSY = 12.0  # a machine may be so busy that a case gets one second of a CPU in twelve


@dataclass(frozen=True)
class Running:
    """A case whose fork has begun."""

    case: Case
    room: Room
    pid: int
    started: float
    arguments: list[str]
    before: dict[str, str]
    outside: dict[str, str]


def tree(folder: Path) -> dict[str, str]:
    """What lies in a folder, links not followed: path → what it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file() and path.stat().st_size < 10_000_000:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = f"mode {path.lstat().st_mode:o}"
    return {name: what for name, what in found.items() if not name.startswith(".raysweep")}


def pages(column: int) -> int:
    """Bytes that this process has mapped (0) or holds in memory (1)."""
    return int(Path("/proc/self/statm").read_text().split()[column]) * resource.getpagesize()


def cpu_seconds(pid: int) -> float:
    """What a child that has not been waited for has taken of the CPUs."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def start(case: Case, room: Room) -> Running:
    """Fork, and run the command in the child."""
    work = case.make(room)
    arguments = [] if callable(work) else [str(a) for a in work]
    if arguments and "--root" not in arguments:
        arguments += ["--root", str(room.root)]
    before, outside = tree(room.root), tree(room.outside)
    pid = os.fork()
    if pid:
        return Running(case, room, pid, time.monotonic(), arguments, before, outside)
    code = 0
    try:
        os.setsid()
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(room.folder / name, os.O_WRONLY | os.O_CREAT), number)
        os.environ["RAYSWEEP_STATE"] = str(room.folder / "state")
        resource.setrlimit(resource.RLIMIT_AS, (pages(0) + ADDRESS_SPACE,) * 2)
        room.put("resident", str(pages(1)))
        if callable(work):
            work()
        else:
            from raysweep.cli.main import main

            main(arguments)
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else int(bool(leave.code))
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def ended(running: Running) -> dict[str, Any] | None:
    """What came of a case, or None while it runs; it is killed at its limit of seconds of a CPU, or long after that."""
    waited = (time.monotonic() - running.started) / BUSY
    seconds = max(cpu_seconds(running.pid), waited)
    pid, status, usage = os.wait4(running.pid, os.WNOHANG)
    if not pid:
        if seconds <= running.case.limit_s:
            return None
        os.killpg(running.pid, signal.SIGKILL)
        pid, status, usage = os.wait4(running.pid, 0)
    room = running.room

    def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
        return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))

    return {
        "arguments": [a[:200] for a in running.arguments],
        "code": os.waitstatus_to_exitcode(status),
        "seconds": seconds,
        "growth": usage.ru_maxrss * 1024 - int((room.folder / "resident").read_text()),
        "out": (room.folder / "out").read_text(errors="replace"),
        "err": (room.folder / "err").read_text(errors="replace"),
        "made": differences(running.before, tree(room.root)),
        "touched": differences(running.outside, tree(room.outside)),
        "ran": room.marker.exists(),
        "root": str(room.root),
    }


def run_all(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Import everything once, train the experiment that is attacked, and run the cases; case → what came of it."""
    import omegaconf  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import ray.train.torch  # noqa: F401

    if any("timm" in name for name in names):  # hundreds of MB by itself, and not what a stranger has sent
        import timm  # noqa: F401
        import transformers.models.timm_wrapper.modeling_timm_wrapper  # noqa: F401

    first = Room(folder / "template", folder / "template" / "root" / "none")
    draw_classes(first.folder / "images", {"cat": 12, "dog": 8, "eel": 10})
    command = ["run", first.config(first.folder / "images"), "training.epochs=2", "experiment.name=t"]
    running = start(Case(lambda room: command, "", (0,)), first)
    while (done := ended(running)) is None:
        time.sleep(0.05)
    assert done["code"] == 0, done["err"]
    (template,) = first.root.glob("t_*")
    report: dict[str, dict[str, Any]] = {}
    waiting, now = list(enumerate(names)), dict[str, Running]()
    while waiting or now:
        while waiting and len(now) < AT_ONCE:
            number, name = waiting.pop(0)
            now[name] = start(CASES[name], Room(folder / str(number), template))
        for name, running in list(now.items()):
            if (done := ended(running)) is not None:
                report[name] = done
                del now[name]
        time.sleep(0.005)
    return report


if __name__ == "__main__":
    found = run_all(Path(sys.argv[1]), json.loads(sys.argv[2]))
    (Path(sys.argv[1]) / "report.json").write_text(json.dumps(found))
