"""Bring trackers up to date while something trains, on every event that reaches the driver.

TensorBoard is written in the driver's process, which takes milliseconds. Every other tracker has a process of its own
(:mod:`raysweep.trackers.worker`), which gets the names of experiments that have something new. Nothing here raises an error, and nothing
waits for a tracker before the training has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raysweep.cluster.metrics import Gauges
from raysweep.config.tracking import TrackersSection
from raysweep.errors import Interrupted, RaysweepError
from raysweep.events import BranchEnded, EpochDone, Event, ExperimentFinished, ExperimentStarted, Note, Progress, opened
from raysweep.store import gate, lineage
from raysweep.store.commands import continue_command
from raysweep.store.experiment import FAILED, FINISHED, INTERRUPTED, Experiment
from raysweep.store.lock import WriterLock
from raysweep.store.root import Root
from raysweep.trackers import base as trackers
from raysweep.trackers import credentials, snapshot
from raysweep.trackers.snapshot import Snapshot
from raysweep.trackers.state import TrackerState
from raysweep.trackers.worker import Answer, Request, reason

WAIT_S = 30.0  # to wait at the end for trackers that are out of sync
WAIT_TERMINATED_S = 5.0  # the same after SIGTERM, which SIGKILL follows soon
_BOARD = "tensorboard"
_ENDED = (FINISHED, FAILED, INTERRUPTED)


@contextlib.contextmanager
def dispatching(progress: Progress, section: TrackersSection | None = None) -> Iterator[Dispatcher]:
    """A progress that also brings the trackers of every experiment up to date whose events it gets.

    ``section`` is what the user asked for, if addresses in it may have credentials, which no experiment's folder has. On leaving, with or without an error, it waits at most ``WAIT_S`` for trackers that are out of sync.
    """
    if section is not None and (note := credentials.keep(section)) is not None:
        progress(note)
    dispatcher = Dispatcher(progress)
    wait_s = WAIT_S
    try:
        yield dispatcher
    except Interrupted as error:
        wait_s = WAIT_TERMINATED_S if error.reason in ("SIGTERM", "SIGHUP") else WAIT_S
        raise
    finally:
        dispatcher.close(wait_s)


def catch_up(experiments: Iterable[Experiment], progress: Progress) -> None:
    """Bring the trackers up to date with experiments that have ended."""
    with dispatching(progress) as dispatcher:
        for experiment in experiments:
            dispatcher.ended(experiment)


class Process:
    """The process of one tracker. A thread collects its answers, and :class:`Dispatcher` reads them."""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "raysweep.trackers.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=credentials.environment(),
            # A process group of its own, because Ctrl-C is meant for the training only. A session of its own would take
            # half of the CPUs from the training, whatever its priority (the kernel's sched_autogroup).
            process_group=0,
        )
        assert self.process.stdin is not None
        self.pipe = self.process.stdin.fileno()
        os.set_blocking(self.pipe, False)  # a process that hangs must not block this one
        self.asked: dict[str, int] = {}  # folder → number of its newest request, until that is answered
        self.unsent: dict[str, int] = {}
        self.answers: deque[Answer] = deque()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError, TypeError):  # half a line of a process that was killed
                self.answers.append(Answer(**json.loads(line)))

    def ask(self, folder: str) -> None:
        """Request that an experiment is brought up to date."""
        self.asked[folder] = self.unsent[folder] = self.asked.get(folder, 0) + 1
        self.send()

    def send(self) -> bool:
        """Write the waiting requests to the pipe; False if the pipe is full before all are written."""
        for folder, number in list(self.unsent.items()):
            root = Root.at(Path(folder).parent).address
            if not self._write(asdict(Request(folder, root, number))):
                return False
            del self.unsent[folder]
        return True

    def _write(self, message: Mapping[str, Any]) -> bool:
        try:
            return os.write(self.pipe, (json.dumps(message) + "\n").encode()) > 0
        except BlockingIOError:
            return False
        except OSError:  # the process has died; Dispatcher.close reports that
            return True

    def end(self) -> bool:
        """Tell the process that no more requests follow; False if the pipe is full."""
        return self.send() and self._write({"end": True})

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """Kill the process and those that it has started, and wait until it has ended."""
        if self.running:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(timeout=5)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class Dispatcher:
    """See :func:`dispatching`. It passes every event on first."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.gauges = Gauges()
        self.folders: dict[str | None, Path] = {}  # branch → folder; None: the experiment of a single run
        self.known: set[Path] = set()  # the same folders as a set, because a sweep may have ten thousand
        self.ready: set[Path] = set()  # folders of experiments that have ended and are up to date
        self.sections: dict[Path, TrackersSection] = {}
        self.board: trackers.Tracker | None = None
        self.processes: dict[str, Process] = {}
        self.warned: set[str] = set()  # trackers whose first error was printed
        self.errors: dict[tuple[Path, str], str] = {}  # (folder, tracker) → its first error
        self.out_of_sync: set[tuple[Path, str]] = set()

    def __call__(self, event: Event) -> None:
        self.progress(event)
        self.gauges(event)
        branch, inner = opened(event)
        match inner:
            case ExperimentStarted(folder=folder):
                self._add(branch, Root.locate(folder).absolute())
                # Without TensorBoard: there is no point to write yet, and its import would delay the first step.
                self._sync(self.folders[branch], board=False)
            case ExperimentFinished() if branch is not None:
                pass  # the branch's BranchEnded follows at once
            case EpochDone() | ExperimentFinished() | BranchEnded() if branch in self.folders:
                self._sync(self.folders[branch])
        if self.processes:
            self._read_answers()

    def ended(self, experiment: Experiment) -> None:
        """Check at the end whether the trackers of an experiment that has ended are out of sync, and update them."""
        folder = experiment.folder.absolute()
        if folder not in self.known:
            self._add(str(folder), folder)

    def _add(self, branch: str | None, folder: Path) -> None:
        self.folders[branch] = folder
        self.known.add(folder)

    def _sync(self, folder: Path, board: bool = True, only_out_of_sync: bool = False) -> None:
        if gate.lost(folder) is not None:  # another process trains it, and brings its trackers up to date
            return
        try:
            Root.at(folder.parent).refresh(folder, patient=False)  # the branch may train on another machine
            section = self.sections.get(folder) or snapshot.section(Experiment(folder).config())
            self.sections[folder] = section
            current = snapshot.read(folder)
        except Exception as error:
            self._failed(folder, _BOARD, reason(error))
            return
        others = trackers.asked_for(section)
        self.ready.discard(folder)
        if board:
            if section.tensorboard:
                self._write_board(folder, current)
            if current.status in _ENDED and not others and (folder, _BOARD) not in self.out_of_sync:
                self.ready.add(folder)
                del self.sections[folder]
        for name in others:
            try:
                if not (only_out_of_sync and TrackerState(folder, name).has_all(current)):
                    self._ask(name, folder, section)
            except Exception as error:
                self._failed(folder, name, reason(error))

    def _write_board(self, folder: Path, current: Snapshot) -> None:
        try:
            self.board = self.board or trackers.make(_BOARD)
            self.board.sync(current)
            self.out_of_sync.discard((folder, _BOARD))
        except Exception as error:
            self._failed(folder, _BOARD, reason(error))

    def _ask(self, name: str, folder: Path, section: TrackersSection) -> None:
        if name not in self.processes:
            trackers.check(section)
            self.processes[name] = Process(name)
        self.processes[name].ask(str(folder))

    def _failed(self, folder: Path, name: str, why: str) -> None:
        self.out_of_sync.add((folder, name))
        self.errors.setdefault((folder, name), why)
        if name not in self.warned:
            self.warned.add(name)
            self.progress(
                Note(f"{trackers.title(name)} cannot be written: {why.rstrip('.')}. Training is not affected.")
            )

    def _read_answers(self) -> None:
        for name, process in self.processes.items():
            process.send()
            while process.answers:
                answer = process.answers.popleft()
                for folder in [answer.folder] if answer.folder else list(process.asked):
                    if answer.error:
                        self._failed(Path(folder), name, answer.error)
                    else:
                        self.out_of_sync.discard((Path(folder), name))
                    if process.asked.get(folder) == answer.number:
                        del process.asked[folder]

    def close(self, wait_s: float) -> None:
        """Bring every tracker up to date, waiting at most ``wait_s`` seconds, and write errors into the experiments' logs."""
        begun = time.monotonic()
        try:
            for folder in self.known - self.ready:
                self._sync(folder, only_out_of_sync=True)
            self._wait(wait_s)
        except KeyboardInterrupt:  # the training has ended, so this gives up the trackers only
            pass
        finally:
            for name, process in self.processes.items():
                late = process.running
                process.kill()
                self._read_answers()
                code = process.process.returncode
                for folder_name in list(process.asked):
                    waited = time.monotonic() - begun
                    why = f"no answer in {waited:.0f} s" if late else f"its process ended with code {code}"
                    self._failed(Path(folder_name), name, why)
        self._log_errors()

    def _wait(self, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        left = set(self.processes.values())
        while any(p.running for p in self.processes.values()) and time.monotonic() < deadline:
            left = {p for p in left if not p.end()}
            self._read_answers()
            time.sleep(0.02)

    def _log_errors(self) -> None:
        """Write one note into the log of each experiment for every tracker that had an error. The experiments have ended, so
        no other process writes to them."""
        for (folder, name), why in self.errors.items():
            if gate.lost(folder) is not None:
                continue
            now = (
                f"it is out of sync; `{continue_command(Root.at(folder.parent), folder.name)}` brings it up to date"
                if (folder, name) in self.out_of_sync
                else "it is up to date again"
            )
            with contextlib.suppress(RaysweepError, OSError):
                lock = WriterLock.acquire(folder)
                try:
                    lineage.record(
                        folder, lineage.NOTE, text=f"{trackers.title(name)} could not be written: {why}; {now}"
                    )
                finally:
                    lock.release()
