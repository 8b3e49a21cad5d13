"""Every file event of a training's saves, one by one: a kill or a fault there, and what becomes of the training.

Run as a program of its own, because it forks: ``python -m tests.training.events FOLDER STEP`` prints one JSON line
per event. The folder gets a training that was interrupted after its first epoch. For every event (a file opened for
writing, a write, fsync, rename, link, removal) of what is still to do, a forked process goes on with a copy of it and
meets its fate there; another one then continues.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raysweep.errors import Interrupted, RaysweepError
from raysweep.launch import resume as resuming
from raysweep.launch import run as launching
from raysweep.launch import runner
from raysweep.plan import experiment as experiment_plan
from raysweep.store import lineage
from raysweep.store.experiment import Experiment
from raysweep.store.root import Root
from tests.conftest import Recorder, small_settings, weights_hash

NAMES = ("open", "write", "fsync", "replace", "link", "unlink", "ftruncate", "mkdir", "rmdir")
CAN_FAIL = ("open", "write", "fsync", "replace")  # a fault there must be told; the others have a way around
SECTIONS = {
    "training": {"epochs": 2, "batch_size": 50},
    "sampling": {"samples_per_epoch": 150},
    "checkpoint": {"every_n_batches": 2},
    "model": {"options": {"widths": [4, 4, 8, 8], "dropout": 0.2}},
}
EPOCH = 3  # batches of one epoch


class Events:
    """Counts the file events of this process and lets the chosen one meet its fate."""

    def __init__(self, chosen: int | None, fate: Callable[[str, Callable[..., Any], tuple[Any, ...]], None]) -> None:
        self.seen: list[str] = []
        self.of_tracker: list[bool] = []  # of each event: whether it was TensorBoard's and not the training's
        self.of_fence: list[bool] = []  # of each event: whether it was the file that the kernel's locks are on
        self.chosen, self.fate = chosen, fate

    def watch(self) -> None:
        for name in NAMES:
            setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not (len(args) > 1 and args[1] & os.O_CREAT):
                return real(*args, **kwargs)
            self.seen.append(name)
            path = f"/proc/self/fd/{args[0]}" if isinstance(args[0], int) else args[0]
            real_path = os.path.realpath(path)
            self.of_tracker.append("tensorboard" in real_path)
            self.of_fence.append(real_path.endswith(".writer.fence"))
            if len(self.seen) - 1 == self.chosen:
                self.fate(name, real, args)
            return real(*args, **kwargs)

        return call


def killed_before(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_within(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Half of a write has reached the file."""
    if name == "write":
        real(args[0], args[1][: len(args[1]) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def failed(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> None:
    number = errno.ENOSPC if name == "write" else errno.EIO
    raise OSError(number, os.strerror(number))


def in_a_fork(work: Callable[[], Any]) -> tuple[int, Any]:
    """Do ``work`` in a forked process; returns its exit status as ``os.waitstatus_to_exitcode`` tells, and its result."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        code = 1
        with contextlib.suppress(BaseException):
            answer = json.dumps(work()).encode()
            with open(writer, "wb") as pipe:
                pipe.write(answer)
            code = 0
        os._exit(code)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, json.loads(answer) if answer else None


def go_on(root: Path, events: Events | None = None) -> dict[str, Any]:
    """Continue the one experiment under ``root``; what was seen, told, and reached."""
    (folder,) = root.glob("small_*")
    if events is not None:
        events.watch()
    try:
        experiment = resuming.continue_experiment(Root.open(root), folder.name).experiment
    except RaysweepError as error:
        return {"seen": events.seen if events else [], "error": f"{type(error).__name__}: {error}"}
    seen, of_tracker, of_fence = (events.seen, events.of_tracker, events.of_fence) if events else ([], [], [])
    return {
        "seen": seen,
        "of_tracker": of_tracker,
        "of_fence": of_fence,
        "hash": weights_hash(experiment),
        "status": experiment.status(),
    }


def what_is_left(folder: Path) -> dict[str, Any]:
    """The state of a folder at rest: every committed checkpoint verifies, or that is said."""
    experiment = Experiment(folder)
    good, problems = experiment.newest_good()
    log = [e.type for e in lineage.read(folder)]
    best = experiment.manifest().best
    link = folder / "best_checkpoint.pt"
    return {
        "newest": good.file if good else None,
        "problems": problems,
        "log": log,
        "files": sorted(p.name for p in folder.iterdir()),  # a temporary file that stayed would be among them
        "best": bool(best) and link.exists() and link.read_bytes() == (folder / best.file).read_bytes(),
        "history": [line.split(",")[:5] for line in (folder / "training_history.csv").read_text().splitlines()],
    }


def prepare(root: Path) -> None:
    """A training that was interrupted at the end of its first epoch."""
    from raysweep.launch.workers import start as workers
    from raysweep.training.loop import train

    workers.in_this_process = lambda job, *_: train(job, Recorder(stop_after=EPOCH))  # type: ignore[assignment]
    with contextlib.suppress(Interrupted):
        launching.run(experiment_plan.plan_experiment(small_settings(root, **SECTIONS)))
    workers.in_this_process = lambda job, *_: train(job, Recorder())  # type: ignore[assignment]
    runner.derive = lambda *_: None  # pictures are not saves


def main(work: Path, step: int) -> None:
    base = work / "base"
    prepare(base)

    def copy(name: str) -> tuple[Path, Path]:
        root = work / name
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(base, root, symlinks=True)
        return root, next(root.glob("small_*"))

    root, folder = copy("undisturbed")
    _, undisturbed = in_a_fork(lambda: go_on(root, Events(None, failed)))
    print(json.dumps({"event": None, **undisturbed, "after": what_is_left(folder)}), flush=True)
    for number, name in enumerate(undisturbed["seen"]):
        if number % step:
            continue
        for how, fate in {"before": killed_before, "within": killed_within, "fault": failed}.items():
            if (how == "within" and name != "write") or (how == "fault" and name not in CAN_FAIL):
                continue
            root, folder = copy("broken")
            code, told = in_a_fork(lambda r=root, n=number, f=fate: go_on(r, Events(n, f)))  # type: ignore[misc]
            left = what_is_left(folder)
            again, end = in_a_fork(lambda r=root: go_on(r))  # type: ignore[misc]
            tracker = undisturbed["of_tracker"][number]
            row = {
                "event": number,
                "name": name,
                "tracker": tracker,
                "fence": undisturbed["of_fence"][number],
                "how": how,
                "code": code,
                "told": told,
                "left": left,
            }
            print(json.dumps({**row, "again": again, "end": end, "after": what_is_left(folder)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
