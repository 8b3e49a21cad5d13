"""Keeping trackers up to date while something trains: listens to the events that reach the driver.

TensorBoard is written here, which takes milliseconds. Each of the others has a process of its own (``process``) that is
told which experiment has news. Nothing of this raises, and nothing is waited for before the end.
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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from raysweep.cluster.metrics import Gauges
from raysweep.config.settings import TrackersSection
from raysweep.errors import Interrupted, RaysweepError
from raysweep.events import BranchEnded, EpochDone, Event, ExperimentFinished, ExperimentStarted, Note, Progress, opened
from raysweep.store import lineage
from raysweep.store.commands import continue_command
from raysweep.store.experiment import FAILED, FINISHED, INTERRUPTED, Experiment
from raysweep.store.lock import WriterLock
from raysweep.store.root import Root
from raysweep.trackers import base as trackers
from raysweep.trackers import snapshot
from raysweep.trackers.state import TrackerState
from raysweep.trackers.worker import reason

WAIT_S = 30.0  # at the end, for trackers that are behind
WAIT_TERMINATED_S = 5.0  # who sends SIGTERM will not wait long
_BOARD = "tensorboard"
_ENDED = (FINISHED, FAILED, INTERRUPTED)


@contextlib.contextmanager
def following(progress: Progress) -> Iterator[Follower]:
    """A progress that also keeps the trackers of every experiment it hears of up to date; at the end, whatever that is,
    it waits for them at most ``WAIT_S``."""
    follower = Follower(progress)
    wait_s = WAIT_S
    try:
        yield follower
    except Interrupted as error:
        wait_s = WAIT_TERMINATED_S if error.reason == "SIGTERM" else WAIT_S
        raise
    finally:
        follower.close(wait_s)


def catch_up(experiments: Iterable[Experiment], progress: Progress) -> None:
    """Bring the trackers up to date with experiments that have ended."""
    with following(progress) as follower:
        for experiment in experiments:
            follower.ended(experiment)


class Process:
    """One tracker's process. What it answers is collected by a thread and looked at by :class:`Follower`."""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "raysweep.trackers.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C is for the training. A session of its own would share the CPUs with it evenly, however nice it is
            # (sched_autogroup).
            process_group=0,
        )
        assert self.process.stdin is not None
        self.pipe = self.process.stdin.fileno()
        os.set_blocking(self.pipe, False)  # a process that hangs must not stop whoever asks it
        self.asked: dict[str, int] = {}  # folder → number of the newest request
        self.unsent: dict[str, int] = {}
        self.answers: deque[dict[str, Any]] = deque()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self.answers.append(json.loads(line))

    def ask(self, folder: str) -> None:
        """Ask for an experiment to be brought up to date."""
        self.asked[folder] = self.unsent[folder] = self.asked.get(folder, 0) + 1
        self.send()

    def send(self) -> bool:
        """Send the requests that the pipe takes; whether it took all."""
        for folder, number in list(self.unsent.items()):
            root = Root.at(Path(folder).parent).address
            if not self._write({"folder": folder, "root": root, "number": number}):
                return False
            del self.unsent[folder]
        return True

    def _write(self, request: dict[str, Any]) -> bool:
        try:
            return os.write(self.pipe, (json.dumps(request) + "\n").encode()) > 0
        except BlockingIOError:
            return False
        except OSError:  # it is gone; the end will tell
            return True

    def end(self) -> bool:
        """Say that there will be no more requests; whether the pipe took that."""
        return self.send() and self._write({"end": True})

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """End it and what it has started, and wait for that."""
        if self.running:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(timeout=5)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class Follower:
    """See :func:`following`. Called with events it passes them on first."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.gauges = Gauges()
        self.folders: dict[str | None, Path] = {}  # branch → folder; None: of a single run
        self.known: set[Path] = set()  # the same folders: a sweep may have ten thousand
        self.ready: set[Path] = set()  # those that have ended and need nothing more
        self.sections: dict[Path, TrackersSection] = {}
        self.board: trackers.Tracker | None = None
        self.processes: dict[str, Process] = {}
        self.told: set[str] = set()  # trackers whose trouble the terminal has shown
        self.trouble: dict[tuple[Path, str], str] = {}  # (folder, tracker) → the first trouble
        self.behind: set[tuple[Path, str]] = set()

    def __call__(self, event: Event) -> None:
        self.progress(event)
        self.gauges(event)
        branch, told = opened(event)
        match told:
            case ExperimentStarted(folder=folder):
                self._follow(branch, Root.locate(folder).absolute())
                # No board yet: the first step must not wait for an import, and there is no point to write.
                self._sync(self.folders[branch], board=False)
            case ExperimentFinished() if branch is not None:
                pass  # its BranchEnded comes at once, too
            case EpochDone() | ExperimentFinished() | BranchEnded() if branch in self.folders:
                self._sync(self.folders[branch])
        if self.processes:
            self._listen()

    def ended(self, experiment: Experiment) -> None:
        """Bring the trackers of an experiment that has ended up to date where they are behind."""
        folder = experiment.folder.absolute()
        if folder not in self.known:
            self._follow(str(folder), folder)

    def _follow(self, branch: str | None, folder: Path) -> None:
        self.folders[branch] = folder
        self.known.add(folder)

    def _sync(self, folder: Path, board: bool = True, only_behind: bool = False) -> None:
        try:
            Root.at(folder.parent).refresh(folder, patient=False)  # the branch may train on another machine
            section = self.sections.get(folder) or snapshot.section(Experiment(folder).config())
            self.sections[folder] = section
            told = snapshot.read(folder)
        except Exception as error:
            self._failed(folder, _BOARD, reason(error))
            return
        others = trackers.asked_for(section)
        self.ready.discard(folder)
        if board and section.tensorboard:
            try:
                self.board = self.board or trackers.make(_BOARD)
                self.board.sync(told)
                self.behind.discard((folder, _BOARD))
            except Exception as error:
                self._failed(folder, _BOARD, reason(error))
        if board and told.status in _ENDED and not others and (folder, _BOARD) not in self.behind:
            self.ready.add(folder)
            del self.sections[folder]
        for name in others:
            try:
                if only_behind and TrackerState(folder, name).current(told):
                    continue
                if name not in self.processes:
                    trackers.check(section)
                    self.processes[name] = Process(name)
                self.processes[name].ask(str(folder))
            except Exception as error:
                self._failed(folder, name, reason(error))

    def _failed(self, folder: Path, name: str, why: str) -> None:
        self.behind.add((folder, name))
        self.trouble.setdefault((folder, name), why)
        if name not in self.told:
            self.told.add(name)
            self.progress(Note(f"{trackers.title(name)} cannot be written: {why}. Training is not affected."))

    def _listen(self) -> None:
        for name, process in self.processes.items():
            process.send()
            while process.answers:
                answer = process.answers.popleft()
                folders = [answer["folder"]] if answer["folder"] else list(process.asked)
                for folder in map(Path, folders):
                    if answer["error"]:
                        self._failed(folder, name, answer["error"])
                    else:
                        self.behind.discard((folder, name))
                    if process.asked.get(str(folder)) == answer["number"]:
                        del process.asked[str(folder)]

    def close(self, wait_s: float) -> None:
        """Bring everything up to date, wait for that at most so many seconds, and note in the experiments' logs what could
        not be done."""
        begun = time.monotonic()
        try:
            for folder in self.known - self.ready:
                self._sync(folder, only_behind=True)
            self._wait(wait_s)
        except KeyboardInterrupt:  # the training has ended; only the trackers are given up
            pass
        finally:
            for name, process in self.processes.items():
                late = process.running
                process.kill()
                self._listen()
                code = process.process.returncode
                for late_one in list(process.asked):
                    waited = time.monotonic() - begun
                    why = f"no answer in {waited:.0f} s" if late else f"its process ended with code {code}"
                    self._failed(Path(late_one), name, why)
        self._note()

    def _wait(self, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        left = set(self.processes.values())
        while any(p.running for p in self.processes.values()) and time.monotonic() < deadline:
            left = {p for p in left if not p.end()}
            self._listen()
            time.sleep(0.02)

    def _note(self) -> None:
        """One note for each tracker of each experiment that had trouble; the experiments have ended, so nobody writes."""
        for (folder, name), why in self.trouble.items():
            now = (
                f"it is behind; `{continue_command(Root.at(folder.parent), folder.name)}` brings it up to date"
                if (folder, name) in self.behind
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
