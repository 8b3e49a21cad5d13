"""The disk fails at any call of a run: what was committed stays, the error says it, and going on gives the same bits.

``python -m tests.launch.disk_faults FOLDER [--rounds 5] [--mode EIO,ENOSPC,EACCES,full,read-only] [--from N] [--to N] [--step N]``
prints a JSON line per trial: in each round every call fails, in one of the modes in turn. Each command is forked from this process, which has everything imported.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysweep.store import layout, lineage
from raysweep.store.experiment import Experiment
from tests.conftest import SMALL_NET, draw_classes, weights_hash
from tests.launch.faulty_disk import MODES, READ_ONLY, FaultyDisk

SETTINGS: dict[str, Any] = {
    "model": SMALL_NET,
    "training": {"epochs": 2, "batch_size": 10, "augment": {"crop_padding": 1, "flip": False}},
    "sampling": {"samples_per_epoch": 20, "weights": {"dog": 4.0}},
    "checkpoint": {"every_n_batches": 1},
    "scaling": {"num_workers": 0, "threads": 1},
    "experiment": {"name": "small"},
}
LIMIT_S = 240.0
PICTURE = re.compile("|".join(map(re.escape, (layout.HISTORY_PNG, layout.CONFUSION, layout.REPORT))))
# What a run does without: it goes on and ends well.
SPARE = (
    "rmdir .tmp-",  # of the test whether the root can be written to
    "cache",  # a lock's file, or what is left of the decoding
    "raw.npy",
    layout.FENCE,  # the kernel's lock is asked for, the lock's file decides
    f"reflink {layout.BEST}",  # it is copied
    "remove checkpoint_epoch_",  # the next writer removes it
    f"remove {layout.LOCK}",  # nobody holds it when the process has ended
    "tensorboard",
    "events.out.tfevents",
    layout.REPORT,
    layout.CONFUSION,
    layout.HISTORY_PNG,
)
WHOLE = (layout.BEST, layout.HISTORY_CSV, layout.HISTORY_PNG, layout.CONFUSION, layout.REPORT)
DRAW_AGAIN = "To draw them again: raysweep continue"
OUR_FAULT = ("Traceback", "Exception ignored", "Fatal Python error")
REMEDY = re.compile(r"Free space|[Mm]ake (the folder|it) writable|Check the disk|Choose another")


@dataclass(frozen=True)
class Trial:
    """What came of one failed call."""

    at: int
    mode: str
    failed: str  # the call and its file
    code: int
    error: str  # as it was told
    wrong: list[str]  # what should not be


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    told: str


def load() -> None:
    """Import, in the process that forks, what takes seconds."""
    import raysweep.cli.verify
    import raysweep.tools.derived
    import raysweep.tools.replay  # noqa: F401
    import tests.loaded  # noqa: F401


def small_pictures() -> None:
    """Drawing takes longer than all the rest, and touches no disk."""
    from raysweep.report import figures

    empty = figures.new_figure(0.1, 0.1)
    figures.confusion_png = lambda found, title: figures.png(empty, found.sha256)
    figures.history_png = lambda experiment: figures.png(empty, figures.history_source(experiment))


def commands(lines: list[list[str]], log: Path, disk: FaultyDisk | None = None) -> list[Ended]:
    """Run commands of the command line, one after the other, in one fork, on a disk that may fail."""
    logs = [log.with_name(f"{log.name}.{i}.txt") for i in range(len(lines))]
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.environ.pop("RAYSWEEP_CACHE", None)  # the images are decoded into the root
            small_pictures()
            for arguments, path in zip(lines, logs, strict=True):
                code = run_here(arguments, path, disk)
                with open(path, "a") as out:
                    out.write(f"\n{code}")
        finally:
            os._exit(0)
    deadline = time.monotonic() + LIMIT_S
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    found = []
    for path in logs:
        told, _, code = path.read_text(errors="replace").rpartition("\n")
        found.append(
            Ended(int(code), told) if code.lstrip("-").isdecimal() else Ended(999, f"it was killed: {told} {code}")
        )
    return found


def run_here(arguments: list[str], log: Path, disk: FaultyDisk | None) -> int:
    """Run the program in this process; returns its exit code."""
    from raysweep.cli.entry import entry

    with open(log, "wb", buffering=0) as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", closefd=False) for fd in (1, 2))  # not those of pytest
    sys.argv = ["raysweep", *arguments]
    try:
        if disk is not None:
            disk.install()
        entry()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(bool(error.code))
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    if disk is not None and disk.failed is None:
        disk.tell()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


class Trials:
    """Trials in folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        draw_classes(folder / "images" / "train", {"cat": 8, "dog": 4}, size=8)
        draw_classes(folder / "images" / "val", {"cat": 3, "dog": 3}, size=8, seed=1)
        self.config = folder / "config.json"  # JSON is YAML
        self.config.write_text(json.dumps(SETTINGS | {"data": {"path": str(folder / "images")}}))
        root = folder / "whole"
        root.mkdir()
        (ended,) = commands([self.run(root)], root, self.disk(root, 0, "EIO"))
        assert ended.code == 0, ended.told
        (experiment,) = experiments(root)
        self.expected = weights_hash(experiment)
        self.calls: list[str] = self.note(root)["calls"]
        for module in self.note(root)["modules"]:  # so that no other fork has to load it
            with contextlib.suppress(ImportError):
                importlib.import_module(module)

    def run(self, root: Path) -> list[str]:
        return ["run", str(self.config), "--root", str(root)]

    def disk(self, root: Path, at: int, mode: str) -> FaultyDisk:
        return FaultyDisk(root, at, mode, root.with_suffix(".json"))

    def note(self, root: Path) -> dict[str, Any]:
        return dict(json.loads(root.with_suffix(".json").read_text()))

    def one(self, at: int, mode: str, then: int = 0) -> Trial | None:
        """Let call ``at`` of a run fail, look at what is left, and go on; None if it has fewer calls.

        Args:
            then: which call of the first try to go on fails, too; 0: none.
        """
        root = self.folder / f"{mode}-{at}-{then}"
        root.mkdir()
        ended, note, wrong = self.fault(self.run(root), root, at, mode)
        if note["failed"] is None:
            return None
        if then:
            _, after, more = self.fault(self.go_on(root), root, then, mode)
            wrong += [f"going on, where {after['failed']} failed: {text}" for text in more]
        went_on, checked = commands([self.go_on(root), self.verify(root)], root.with_suffix(".again"))
        if went_on.code or checked.code:
            wrong.append(f"going on: {went_on.told}\n{checked.told}")
        else:
            wrong += self.complaints_afterwards(root)
        errors = [line for line in ended.told.splitlines() if line.startswith("error:")]
        return Trial(at, mode, note["failed"], ended.code, " ".join(errors), wrong)

    def fault(self, arguments: list[str], root: Path, at: int, mode: str) -> tuple[Ended, dict[str, Any], list[str]]:
        """Let call ``at`` of a command fail: how it ended, the disk's note, and what is wrong with what is left."""
        (ended,) = commands([arguments], root.with_suffix(f".{arguments[0]}-{at}"), self.disk(root, at, mode))
        note = self.note(root)
        if note["failed"] is None:
            return ended, note, []
        wrong = complaints(ended, note, root)
        for name, files in note["committed"].items():
            now = {e.file for e in Experiment(root / name).manifest().ends}
            wrong += [f"{file} was committed and is lost" for file in files if file not in now]
        made = begun(root)
        if mode != READ_ONLY:  # else nothing can be removed
            wrong += [f"{e.folder} has no event" for e in experiments(root) if not lineage.read(e.folder)]
        ended_early = ended.code == 1 and bool(made) and made[0].status() == "finished"
        told = ended_early or (ended.code == 0 and DRAW_AGAIN in ended.told)
        (looked,) = commands([self.verify(root)], root.with_suffix(".verify"))
        faults = [line for line in looked.told.splitlines() if line.startswith("FAULT")]
        return ended, note, wrong + [fault for fault in faults if not (told and PICTURE.search(fault))]

    def verify(self, root: Path) -> list[str]:
        return ["verify", "--root", str(root)]

    def go_on(self, root: Path) -> list[str]:
        made = begun(root)
        return ["continue", made[0].id, "--root", str(root)] if made else self.run(root)

    def every(
        self, rounds: int, modes: Sequence[str] = tuple(MODES), calls: range = range(1, 10_000)
    ) -> Iterator[Trial]:
        """In each round let every call fail, in one of the modes in turn; after each fourth, the first try to go on
        fails, too."""
        for turn in range(rounds):
            for at in calls:
                then = 1 + at * 7 % 50 if at % 4 == 0 else 0
                if (trial := self.one(at, modes[(at + turn) % len(modes)], then)) is None:
                    break
                yield trial

    def complaints_afterwards(self, root: Path) -> list[str]:
        """What is wrong with an experiment that was gone on with."""
        done = begun(root)
        if [e.status() for e in done] != ["finished"]:
            return [f"afterwards: {[(e.id, e.status()) for e in done]}"]
        folder, wrong = done[0].folder, []
        if weights_hash(done[0]) != self.expected:
            wrong.append("other bits")
        events = lineage.read(folder)
        kinds = [e.type for e in events]
        if [e.seq for e in events] != list(range(1, len(events) + 1)):
            wrong.append(f"events are numbered {[e.seq for e in events]}")
        if kinds.count(lineage.START) != 1 or kinds.count(lineage.FINISHED) != 1:
            wrong.append(f"events {kinds}")
        people = (folder / layout.CHANGES).read_text()
        wrong += [
            f"event {e.seq} is {n} times in the log for people"
            for e in events
            if (n := people.count(f"] #{e.seq}\n")) != 1
        ]
        wrong += [f"left over: {p.name}" for p in folder.rglob(f"{layout.TEMP_PREFIX}*")]
        wrong += [f"{name} is missing" for name in WHOLE if not (folder / name).is_file()]
        if (folder / layout.LOCK).exists():
            wrong.append("the lock is left")
        return wrong


def begun(root: Path) -> list[Experiment]:
    """Those that can be gone on with."""
    return [e for e in experiments(root) if lineage.read(e.folder)]


def experiments(root: Path) -> list[Experiment]:
    return [Experiment(f) for f in sorted(root.glob("small_*"))]


def complaints(ended: Ended, note: dict[str, Any], root: Path) -> list[str]:
    """What is wrong with the way in which a command has ended."""
    wrong = [f"{word!r} was printed: {ended.told[-1500:]}" for word in OUR_FAULT if word in ended.told]
    errors = [line for line in ended.told.splitlines() if line.startswith("error: ")]
    if ended.code == 0:
        wrong += [] if any(part in note["failed"] for part in SPARE) else ["it ended well"]
        return wrong + [f"it ended well and told {e}" for e in errors]
    if ended.code not in (1, 2):  # 2: the root, or the cache of the images
        wrong.append(f"it ended with {ended.code}")
    if len(errors) != 1:
        return [*wrong, f"{len(errors)} errors: {ended.told[-1500:]}"]
    if str(root) not in errors[0]:
        wrong.append(f"no path: {errors[0]}")
    if not REMEDY.search(errors[0]):
        wrong.append(f"no remedy: {errors[0]}")
    return wrong


def sample(folder: Path, count: int) -> None:
    """Print a trial of one call of each part of a run, each part in another way."""
    load()
    trials, modes = Trials(folder), list(MODES)
    random.shuffle(modes)
    part = len(trials.calls) / count
    for i in range(count):
        at = random.randint(round(i * part) + 1, round((i + 1) * part))
        while (trial := trials.one(at, modes[i % len(modes)])) is None:  # this run has made a few calls less
            at -= 1
        print(json.dumps(vars(trial)), flush=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--mode", default=",".join(MODES))
    parser.add_argument("--from", dest="first", type=int, default=1)
    parser.add_argument("--to", dest="last", type=int, default=10_000)
    parser.add_argument("--step", type=int, default=1)
    chosen = parser.parse_args(arguments)
    load()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    trials, wrong = Trials(chosen.folder), 0
    print(json.dumps({"calls": len(trials.calls)}), flush=True)
    for trial in trials.every(chosen.rounds, chosen.mode.split(","), range(chosen.first, chosen.last + 1, chosen.step)):
        wrong += bool(trial.wrong)
        print(json.dumps(vars(trial)), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
