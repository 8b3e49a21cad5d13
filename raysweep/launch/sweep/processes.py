"""The branches of a sweep in processes of this machine, without Ray, whose start takes longer than a small branch trains.

Each process trains one branch after another, with the function that a Tune actor calls, so the bits are the same. What all branches
share it reads from a file; a connection carries events one way, and names of branches and the request to stop the other. A
process that dies is replaced, and its branch continues from its newest checkpoint, at most ``scaling.max_failures`` times. If
this process dies, the connection ends, and each branch saves and ends.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter, deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

from raysweep import _scratch
from raysweep.cluster import signals
from raysweep.cluster.channel import Sparse
from raysweep.cluster.signals import StopFlag
from raysweep.config.grid import Point
from raysweep.errors import RaysweepError
from raysweep.events import BranchEnded, BranchEvent, BranchStarted, Event, Progress
from raysweep.launch.sweep.branch import BATCH_EVERY_S, Shared, attempt
from raysweep.launch.sweep.tracebacks import Tracebacks
from raysweep.launch.sweep.tune import TuneOutcome, Work
from raysweep.store.experiment import Experiment
from raysweep.store.results import Results

POLL_S = 0.5
GONE = "the end of the process that had started it"
_PROGRAM = "import sys; from raysweep.launch.sweep import processes; processes.serve(int(sys.argv[1]), sys.argv[2])"
_SHARED = "shared.pickle"
_PRINTED = 10_000  # characters that are kept of what a process printed


# --- in a process that trains ---------------------------------------------------------------------------------------------


class _Reporter:
    """Sends a branch's events through the connection, and hears the request to stop."""

    def __init__(self, driver: Connection, branch: str) -> None:
        self.driver, self.branch = driver, branch
        self.reason: str | None = None
        self.sparse = Sparse(BATCH_EVERY_S)

    def __call__(self, event: Event) -> None:
        if self.sparse.passes(event):
            self.send(event)

    def send(self, event: Event) -> None:
        try:
            self.driver.send(BranchEvent(self.branch, event))
        except OSError:
            self.reason = self.reason or GONE

    def should_stop(self) -> str | None:
        try:
            if self.reason is None and self.driver.poll():
                self.reason = self.driver.recv()
        except (EOFError, OSError):
            self.reason = GONE
        return self.reason

    def complete(self, experiment: Experiment) -> None:
        """Nobody searches here."""


def serve(descriptor: int, folder: str) -> None:
    """The program. Signals are for the driver: a terminal and a cluster's scheduler send them to all processes."""
    for number in signals.NUMBERS:
        signal.signal(number, signal.SIG_IGN)
    work(Connection(descriptor), Path(folder))


def work(driver: Connection, folder: Path) -> None:
    """Train the branches that arrive through the connection, until it ends."""
    with open(folder / _SHARED, "rb") as file:
        shared: Shared = pickle.load(file)
    while True:
        try:
            message = driver.recv()
        except (EOFError, OSError):
            return
        if isinstance(message, str):  # the request to stop, which came after a branch had ended
            return
        name, again = message
        reporter = _Reporter(driver, name)
        reporter.send(attempt(shared.points[name], shared, reporter, again))
        if reporter.reason is not None:
            return


# --- in the driver --------------------------------------------------------------------------------------------------------


@dataclass
class _Process:
    """One that trains, and the file with what it prints."""

    program: subprocess.Popen[bytes]
    connection: Connection
    printed: Path
    branch: str | None = None

    def end(self) -> int:
        """Wait until it has ended; returns its exit code, minus the number of a signal that killed it."""
        self.connection.close()
        return self.program.wait()

    def said(self) -> str:
        """The end of what it printed."""
        return self.printed.read_text(errors="replace")[-_PRINTED:].strip() if self.printed.exists() else ""


def gpu_of(slot: int, gpus: float) -> str | None:
    """``CUDA_VISIBLE_DEVICES`` of a process, where each branch gets so many GPUs; None where it has none.

    >>> [gpu_of(slot, 0.5) for slot in range(4)], gpu_of(1, 2)
    (['0', '0', '1', '1'], '2,3')
    """
    if not gpus:
        return None
    if gpus < 1:
        return str(slot // int(1 / gpus + 1e-9))
    return ",".join(str(int(gpus) * slot + n) for n in range(int(gpus)))


def _of_mine(gpus: str) -> str:
    """These GPUs, by the names that they have for this process: it may see only some of the machine's."""
    mine = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return ",".join(mine[int(n)] for n in gpus.split(",")) if mine else gpus


def _start(folder: Path, slot: int, gpu: str | None) -> _Process:
    """A new process, which reads in ``folder`` what all branches share."""
    ours, theirs = Pipe()
    printed = folder / f"printed-{slot}.txt"
    with open(printed, "wb") as out:
        program = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), str(folder)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_paths(), **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": _of_mine(gpu)})},
            start_new_session=True,  # a terminal's Ctrl-C is for the driver
        )
    theirs.close()
    return _Process(program, ours, printed)


def _paths() -> dict[str, str]:
    """Where modules are found, as in this process: also those of a script's own folder, or of tests."""
    return {"PYTHONPATH": os.pathsep.join([p or os.getcwd() for p in sys.path])}


@dataclass
class _Driver:
    """The branches that wait, those that are trained, and what is told of them."""

    work: Work
    progress: Progress
    flag: StopFlag
    ended: TuneOutcome
    waiting: deque[Point]
    folder: Path  # for files of the processes
    begun: set[str] = field(default_factory=set)
    died: Counter[str] = field(default_factory=Counter)
    slots: dict[int, _Process] = field(default_factory=dict)
    stopped: bool = False

    def __post_init__(self) -> None:
        self.tell, self.results = Tracebacks(self.work.sweep, self.progress), Results(self.work.sweep)
        with open(self.folder / _SHARED, "wb") as file:
            pickle.dump(self.work.shared, file, protocol=5)

    def told(self, branch: str, event: Event) -> None:
        match event:
            case BranchEnded(status="failed", reason=reason):
                self.ended.failed[branch] = reason
        self.tell(BranchEvent(branch, event))
        self.results.told(BranchEvent(branch, event))

    def run(self) -> None:
        """Train all branches. Whatever happens, no process stays."""
        try:
            while self.fill():
                self.hear()
                self.results.write_when_due(self.ended.failed)
                if self.flag.reason is not None and not self.stopped:
                    self.stopped = True
                    self.waiting.clear()
                    for process in self.slots.values():
                        with contextlib.suppress(OSError):
                            process.connection.send(self.flag.reason)
        finally:
            for process in self.slots.values():
                process.end()
            with contextlib.suppress(RaysweepError):  # however it ended, the files say what is known
                self.results.write(self.ended.failed)

    def fill(self) -> bool:
        """Give a branch to every process that has none; returns whether any branch is trained."""
        for slot in range(self.work.limit.count):
            process = self.slots.get(slot)
            if process is not None and process.branch is not None:
                continue
            if not self.waiting or self.stopped:
                if process is not None:
                    self.slots.pop(slot).end()
                continue
            if process is None:
                process = self.slots[slot] = _start(self.folder, slot, gpu_of(slot, self.work.gpus))
            point = self.waiting.popleft()
            process.branch = point.name
            self.told(point.name, BranchStarted())
            with contextlib.suppress(OSError):
                process.connection.send((point.name, point.name in self.begun))
            self.begun.add(point.name)
        return bool(self.slots)

    def hear(self) -> None:
        """Take what has arrived, and notice processes that have died."""
        by_connection = {p.connection: (slot, p) for slot, p in self.slots.items()}
        for ready in wait(list(by_connection), POLL_S):
            assert isinstance(ready, Connection)
            slot, process = by_connection[ready]
            assert process.branch is not None
            try:
                event = ready.recv().event
            except (EOFError, OSError):
                self.lost(slot, process, process.branch)
                continue
            self.told(process.branch, event)
            if isinstance(event, BranchEnded):
                process.branch = None

    def lost(self, slot: int, process: _Process, branch: str) -> None:
        """A process has died: its branch continues in another, unless that has happened too often."""
        del self.slots[slot]
        code = process.end()
        self.died[branch] += 1
        if self.died[branch] <= self.work.retries and not self.stopped:
            self.waiting.appendleft(self.work.shared.points[branch])
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        said = process.said()
        last = said.splitlines()[-1][:300] if said else ""
        more = " If it was memory: a smaller training.batch_size, or fewer branches at once (--max-concurrent)."
        reason = f"Its process {how}{f' ({last})' if last else ''}.{more if code == -signal.SIGKILL else ''}"
        self.told(branch, BranchEnded("failed", reason, said or reason))


def launch(work: Work, progress: Progress) -> TuneOutcome:
    """Train all branches; returns when none is left or when a signal asked to stop and all have saved.

    It takes the place of :func:`raysweep.launch.sweep.tune.launch`. There is no search and no scheduler here: planning has seen to it.
    """
    ended = TuneOutcome()
    flag = StopFlag()
    with signals.signals(flag):
        if flag.reason is None and work.points:
            with _scratch.within("sweep") as folder:
                _Driver(work, progress, flag, ended, deque(work.points), folder).run()
    ended.stopped = flag.reason
    return ended
