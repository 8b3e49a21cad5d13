"""A writer that stands still in the middle of a save, while another machine takes the folder over and finishes, loses nothing
of what that one has committed, wherever it stood."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raysweep.errors import LockedError
from raysweep.store import fence, files, gate, layout, lineage, lock
from raysweep.store.experiment import Experiment
from raysweep.store.lock import WriterLock
from tests.conftest import Recorder, small_settings

CALLS = (
    "open",
    "write",
    "ftruncate",
    "fsync",
    "close",
    "replace",
    "pread",
)  # of files.py; unlink is a method of a path
TOOK, STANDS_STILL = 0, 7  # how the other machine ends


class Paused:
    """Counts the system calls of the store in this process, and hands over at one of them, before it is made.

    Args:
        at: which call, from 0.
        other: what happens meanwhile; returns whether it could happen: not while a change is under way, then at the next call.
    """

    def __init__(self, at: int, other: Callable[[], bool]) -> None:
        self.at, self.other = at, other
        self.count, self.happened, self.asked = 0, False, 0
        self.within = False  # the other's own calls are not counted

    def call(self) -> None:
        if self.within:
            return
        self.count += 1
        if self.count > self.at and not self.happened:
            self.asked += 1
            self.within = True
            self.happened = self.other()
            self.within = False

    @contextlib.contextmanager
    def watching(self, folder: Path) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for module in (files, fence):
                patch.setattr(module, "os", _Counted(self))
            unlink = Path.unlink

            def counted(path: Path, missing_ok: bool = False) -> None:
                if path.parent == folder:
                    self.call()
                unlink(path, missing_ok)

            patch.setattr(Path, "unlink", counted)
            yield


class _Counted:
    """The module ``os``, whose calls are told."""

    def __init__(self, paused: Paused) -> None:
        self.paused = paused

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if name not in CALLS:
            return found

        def told(*arguments: Any, **named: Any) -> Any:
            self.paused.call()
            return found(*arguments, **named)

        return told


def content(folder: Path) -> dict[str, bytes]:
    """What is committed: all but locks and temporary files."""
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {n: p.read_bytes() for n, p in found.items() if not p.name.startswith((layout.TEMP_PREFIX, ".writer"))}


def on_another_machine(work: Callable[[], None]) -> bool:
    """Do something in a process that is, for the store, on another machine; False if the folder was just being changed."""
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            files.os = fence.os = os
            gate._tokens.clear()
            gate.boot, socket.gethostname = (lambda: "another"), (lambda: "elsewhere")
            lock.PATIENCE_S = 0.0
            work()
            code = TOOK
        except LockedError as error:
            code = STANDS_STILL if "It may be suspended" in str(error) else 9
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (TOOK, STANDS_STILL)
    return code == TOOK


@dataclass
class Half:
    """An experiment whose second epoch has begun, and what its writer would write at the end of that."""

    experiment: Experiment
    state: dict[str, Any]
    metrics: dict[str, float]
    predictions: dict[str, Any]

    def save(self, folder: Path, token: str) -> None:
        from raysweep.training.checkpointing import CheckpointWriter

        writer = CheckpointWriter(folder, token, self.state["classes"], "val_acc")
        writer.mid_epoch({**self.state, "current_batch": 2}, 2, 2)
        writer.epoch_end(dict(self.state), 2, dict(self.metrics), self.predictions)
        lineage.record(folder, lineage.FINISHED, epochs=2)


@pytest.fixture(scope="module")
def half(tmp_path_factory) -> Half:
    import numpy as np

    from raysweep.launch import run as launching
    from raysweep.launch import runner
    from raysweep.launch.workers import start as workers
    from raysweep.plan import experiment as experiment_plan
    from raysweep.store import checkpoint
    from raysweep.training.checkpointing import CheckpointWriter
    from raysweep.training.loop import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "in_this_process", lambda job, fitted, progress: train(job, Recorder()))
        patch.setattr(runner, "derive", lambda *_: None)  # no pictures
        root = tmp_path_factory.mktemp("root")
        whole = launching.run(experiment_plan.plan_experiment(small_settings(root))).experiment
    saved = dict(checkpoint.read_checkpoint(whole.folder / "checkpoint_epoch_2.pt"))
    first, second = whole.manifest().ends
    # the second epoch is the best, so that the best checkpoint is written, too
    saved["history"] = {**saved["history"], "val_acc": [*saved["history"]["val_acc"][:-1], 2.0]}
    predictions = {"labels": np.zeros(10, np.int64), "probabilities": np.full((10, 10), 0.1, np.float32)}
    folder = whole.folder.parent / "half_20250108_143022"
    folder.mkdir()
    experiment = Experiment(folder)
    shutil.copy(whole.folder / layout.CONFIG, folder)
    held = WriterLock.acquire(folder)
    lineage.record(folder, lineage.START)
    writer = CheckpointWriter(folder, held.token, saved["classes"], "val_acc")
    state = dict(checkpoint.read_checkpoint(whole.folder / first.file))
    writer.epoch_end(state, 1, dict(first.metrics), predictions)
    held.release()
    return Half(experiment, saved, dict(second.metrics) | {"val_acc": 2.0}, predictions)


def stopped(half: Half, folder: Path, at: int) -> Paused:
    """A writer that stands still at one of its calls, and goes on when another machine has finished the experiment."""
    after: dict[str, bytes] = {}

    def other() -> None:
        taken = WriterLock.acquire(folder, steal=True)
        lineage.record(folder, lineage.CONTINUED)
        half.save(folder, taken.token)
        taken.release()

    def take_over() -> bool:
        took = on_another_machine(other)
        after.update(content(folder) if took else {})
        return took

    held = WriterLock.acquire(folder)
    paused = Paused(at, take_over)
    with paused.watching(folder):
        with contextlib.suppress(LockedError):  # if it was stopped after its last change, there is none
            half.save(folder, held.token)
        if paused.happened:
            with pytest.raises(LockedError, match=r"lock of this writer was removed\. This process stops writing"):
                lineage.record(folder, lineage.FAILED, reason="it stood still")
        held.release()
    if paused.happened:
        assert content(folder) == after
    assert lock.holder(folder) is None
    return paused


def check(half: Half, folder: Path, at: int) -> Paused:
    """Stop a writer of a copy at one of its calls, and look at what is left."""
    from raysweep.store import verify

    shutil.copytree(half.experiment.folder, folder)
    paused = stopped(half, folder, at)
    experiment = Experiment(folder)
    assert experiment.status() == "finished"
    kinds = [e.type for e in lineage.read(folder)]
    theirs = [lineage.CONTINUED, lineage.FINISHED] if paused.happened else []
    assert kinds in ([lineage.START, *theirs], [lineage.START, lineage.FINISHED, *theirs])
    assert [p for e in experiment.entries() for p in verify.problems(experiment, e)] == []
    assert [p.name for p in folder.glob(f"{layout.TEMP_PREFIX}*")] == []
    WriterLock.acquire(folder).release()
    return paused


def test_a_training_that_loses_its_folder_ends_and_says_who_has_it(tmp_path):
    """From the event of an epoch on, the folder is another machine's: nothing but temporary files comes and goes in it."""
    from raysweep.events import EpochDone, Event
    from raysweep.launch import run as launching
    from raysweep.launch.workers import start as workers
    from raysweep.plan import experiment as experiment_plan
    from raysweep.training.loop import train

    after: dict[str, bytes] = {}

    class Loses(Recorder):
        def __call__(self, event: Event) -> None:
            super().__call__(event)
            if isinstance(event, EpochDone) and not after:
                (folder,) = tmp_path.glob("small_*")
                theirs = {"host": "elsewhere", "pid": 77, "since": "2025-01-08T14:30:22", "token": "theirs"}
                files.write_json(folder / layout.LOCK, theirs)
                after.update(content(folder))

    plan = experiment_plan.plan_experiment(small_settings(tmp_path, training={"epochs": 3}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "in_this_process", lambda job, fitted, progress: train(job, Loses()))
        with pytest.raises(LockedError, match=r"taken by process 77 on elsewhere\. This process stops writing"):
            launching.run(plan)
    (folder,) = tmp_path.glob("small_*")
    assert content(folder) == after
    assert [e.type for e in lineage.read(folder)] == [lineage.START]
    assert lock.holder(folder).token == "theirs"


@pytest.mark.parametrize("at", [0, 33, 66, 99])
def test_a_writer_that_was_stopped_changes_nothing_when_it_wakes(half, tmp_path, at):
    assert check(half, tmp_path / "copy", at).happened


@pytest.mark.slow
def test_a_writer_that_was_stopped_at_any_call_changes_nothing_when_it_wakes(half, tmp_path):
    at, waited = 0, 0
    while (paused := check(half, tmp_path / "copy", at)).happened:
        waited += paused.asked > 1
        shutil.rmtree(tmp_path / "copy")
        at += 1
    assert at > 60  # every file of a save
    assert waited > 20  # in the middle of a change, whose end the other machine waits for
