"""The gate of a folder: who has lost it changes nothing in it, and what is changed under it is changed by one at a time."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from raysweep.errors import LockedError, StoreError
from raysweep.store import fence, files, gate, layout, lineage, lock
from raysweep.store.experiment import Experiment
from raysweep.store.lock import WriterLock
from raysweep.store.records import ExperimentConfig
from raysweep.store.records_manifest import Manifest
from tests.store.making import make_experiment

FORK = multiprocessing.get_context("fork")
ELSEWHERE = {"host": "elsewhere", "pid": 77, "started": "1", "since": "2025-01-08T14:30:22", "boot": "another"}


def taken(folder: Path, token: str = "theirs") -> None:
    """Another machine takes the folder over."""
    (folder / layout.LOCK).write_text(json.dumps({**ELSEWHERE, "token": token}))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return make_experiment(tmp_path / "root" / "base_20250108_143022", [(1, None), (2, 5)], best=1)


CHANGES = {
    "write": lambda f: files.write_atomic(f / layout.HISTORY_CSV, b"epoch\n"),
    "stream": lambda f: files.write_stream(f / layout.BEST, lambda sink: sink.write(b"x")),
    "json": lambda f: files.write_json(f / layout.MANIFEST, {}),
    "append": lambda f: files.append_line(f / layout.LINEAGE, "x\n"),
    "best": lambda f: files.clone_or_copy(f / "checkpoint_epoch_1.pt", f / layout.BEST),
    "remove": lambda f: files.remove(f / "checkpoint_epoch_2_batch_5.pt"),
    "temps": lambda f: files.clean_temps(f),
    "event": lambda f: lineage.record(f, lineage.FAILED, reason="it stood still"),
    "log": lambda f: lineage.open_log(f, "base", "", lineage.datetime.now()),
    "configuration": lambda f: Experiment(f).write_config(ExperimentConfig()),
    "manifest": lambda f: Experiment(f).write_manifest(Manifest(())),
    "a folder within": lambda f: files.write_atomic(f / layout.TRACEBACKS / "branch.txt", b"x"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("known", [False, True], ids=["finds out", "knows"])
def test_who_has_lost_a_folder_changes_nothing_in_it(experiment, change, known):
    folder = experiment.folder
    (folder / layout.TRACEBACKS).mkdir()
    held = WriterLock.acquire(folder)
    taken(folder)
    (folder / f"{layout.TEMP_PREFIX}theirs").touch()
    before = content(folder)
    if known:
        with pytest.raises(LockedError):
            files.write_json(folder / layout.MANIFEST, {})
        (folder / layout.LOCK).unlink()  # they have finished
        del before[layout.LOCK]
    with pytest.raises(LockedError, match=r"taken by process 77 on elsewhere\. This process stops writing"):
        change(folder)
    held.release()
    with pytest.raises(LockedError, match="taken by process 77 on elsewhere"):  # it remembers, whoever asks
        change(folder)
    assert content(folder) == before


def test_a_process_that_lost_a_folder_may_take_it_again(experiment):
    held = WriterLock.acquire(experiment.folder)
    taken(experiment.folder)
    with pytest.raises(LockedError):
        lineage.record(experiment.folder, lineage.NOTE, text="late")
    held.release()
    again = WriterLock.acquire(experiment.folder, steal=True)
    lineage.record(experiment.folder, lineage.NOTE, text="in time")
    again.release()
    assert [e.fields.get("text") for e in lineage.read(experiment.folder)] == [None, "in time"]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_folder_that_another_one_writes_to_is_not_changed_beside_it(experiment, change):
    (experiment.folder / layout.TRACEBACKS).mkdir()
    taken(experiment.folder)
    before = content(experiment.folder)
    with pytest.raises(LockedError, match=r"is being written by process 77 on elsewhere since 2025-01-08T14:30:22\."):
        change(experiment.folder)
    assert content(experiment.folder) == before


@pytest.mark.parametrize("change", [c for name, c in CHANGES.items() if name != "a folder within"])
def test_a_folder_without_a_writer_may_be_changed(experiment, change):
    before = content(experiment.folder)
    change(experiment.folder)
    assert (content(experiment.folder) != before) or change is CHANGES["temps"]


def test_a_process_that_was_given_the_token_writes_for_its_owner_until_it_is_renewed(experiment):
    held = WriterLock.acquire(experiment.folder)
    gate.leave(experiment.folder)  # as in another process
    WriterLock(experiment.folder, held.token).join()
    lineage.record(experiment.folder, lineage.NOTE, text="from a worker")
    fresh = held.renew()
    gate.enter(experiment.folder, held.token)  # the worker of the attempt before
    with pytest.raises(LockedError):
        lineage.record(experiment.folder, lineage.NOTE, text="late")
    gate.enter(experiment.folder, fresh.token)
    lineage.record(experiment.folder, lineage.NOTE, text="from the next worker")
    with pytest.raises(LockedError):
        WriterLock(experiment.folder, "guessed").join()
    held.release()
    assert lock.holder(experiment.folder) is None


def test_files_of_the_user_have_no_writer(tmp_path):
    files.write_atomic(tmp_path / "report.html", b"x")
    files.append_line(tmp_path / "notes.txt", "x\n")
    files.remove(tmp_path / "notes.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_what_a_tracker_has_got_is_told_also_while_another_process_trains(experiment):
    taken(experiment.folder)
    files.write_json(experiment.folder / layout.tracker_name("mlflow"), {"rows": 1})


def _many_events(folder: Path, number: int) -> None:
    for i in range(10):
        lineage.record(folder, lineage.NOTE, text=f"{number}.{i}")


@pytest.mark.parametrize("held", [False, True], ids=["no writer", "one writer"])
def test_processes_of_one_writer_number_their_events_without_a_gap(experiment, held):
    if held:
        WriterLock.acquire(experiment.folder)
    processes = [FORK.Process(target=_many_events, args=(experiment.folder, n)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    events = lineage.read(experiment.folder)
    assert [e.seq for e in events] == list(range(1, 42))
    told = sorted(e.fields["text"] for e in events if e.type == lineage.NOTE)
    assert told == sorted(f"{n}.{i}" for n in range(4) for i in range(10))


def test_who_takes_a_folder_over_waits_for_a_change_that_has_begun(experiment, monkeypatch):
    """The check and the rename are one: in between nobody can take the folder."""
    folder, within, go_on = experiment.folder, threading.Event(), threading.Event()
    WriterLock.acquire(folder)
    replace = os.replace

    def slow(*arguments) -> None:
        if not within.is_set():
            within.set()
            assert go_on.wait(60)
        replace(*arguments)

    taken_by: list[WriterLock] = []

    def steal() -> None:
        monkeypatch.setattr(gate, "boot", lambda: "another")
        monkeypatch.setattr(gate.socket, "gethostname", lambda: "elsewhere")
        taken_by.append(WriterLock.acquire(folder, steal=True))

    monkeypatch.setattr(os, "replace", slow)
    writer = threading.Thread(target=files.write_atomic, args=(folder / layout.HISTORY_CSV, b"whole\n"))
    writer.start()
    assert within.wait(60)
    thief = threading.Thread(target=steal)
    thief.start()
    thief.join(0.1)
    assert taken_by == []
    go_on.set()
    writer.join()
    thief.join()
    assert (folder / layout.HISTORY_CSV).read_bytes() == b"whole\n"
    assert lock.holder(folder).token == taken_by[0].token


@pytest.mark.parametrize("change", [pytest.param(c, id=name) for name, c in CHANGES.items() if name != "remove"])
def test_a_gate_that_cannot_be_opened_is_told_as_any_other_file(experiment, monkeypatch, change):
    (experiment.folder / layout.TRACEBACKS).mkdir()
    before = content(experiment.folder)

    def read_only(folder: Path) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder / layout.FENCE))

    monkeypatch.setattr(fence, "_opened", read_only)
    with pytest.raises(StoreError, match=rf"{experiment.folder}.* Read-only file system\. Make the folder writable\."):
        change(experiment.folder)
    assert content(experiment.folder) == before


@pytest.mark.parametrize("mark", [layout.CONFIG, layout.SWEEP, layout.LINEAGE, layout.LOCK])
def test_whatever_tells_a_folder_of_ours_it_has_a_gate(tmp_path, mark):
    (tmp_path / mark).touch()
    files.write_atomic(tmp_path / "report.html", b"x")
    assert (tmp_path / layout.FENCE).exists()
