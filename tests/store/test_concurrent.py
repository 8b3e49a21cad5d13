"""Many processes at one store at the same moment: a folder for each, one writer at a time, and no event lost, doubled or
torn."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import re
import shutil
import socket
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from raysweep.errors import LockedError, RaysweepError
from raysweep.report import tree
from raysweep.store import catalog, files, layout, lineage, lock, sweep
from raysweep.store import experiment as experiments
from raysweep.store.experiment import Experiment
from raysweep.store.layout import Position
from raysweep.store.lock import WriterLock
from raysweep.store.records import ExperimentConfig
from raysweep.store.records_manifest import BestEpoch, Manifest, ManifestEntry
from raysweep.store.records_sweep import SweepRecord
from raysweep.store.root import Root
from tests.store.making import make_experiment, start_python, temps

PROCESSES = 32
ROUNDS = int(os.environ.get("RAYSWEEP_ROUNDS", "5"))
FEWER = max(1, ROUNDS // 5)  # rounds of what is simpler
WHEN = datetime(2025, 1, 8, 14, 30, 22)
NAME = "exp"
PARENT = layout.make_id(NAME, WHEN)  # the children want its name in its second
KINDS = [lineage.START, lineage.RESUME, lineage.RATIO, lineage.FINISHED]
FORK = multiprocessing.get_context("fork")


# What runs in a process of its own, which never imports torch: it forks many times, and forking a process with torch in
# it is slow.


def together(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work(number, …)`` returns in each of so many processes that begin at the same moment."""
    barrier, results = FORK.Barrier(count), FORK.SimpleQueue()

    def main(number: int) -> None:
        try:
            barrier.wait(200)
            results.put((number, "returned", work(number, *arguments)))
        except BaseException:
            results.put((number, "raised", traceback.format_exc()))
            raise

    processes = [FORK.Process(target=main, args=(n,)) for n in range(count)]
    for process in processes:
        process.start()
    found = sorted(results.get() for _ in processes)
    for process in processes:
        process.join()
    raised = [text for _, how, text in found if how == "raised"]
    if raised:
        raise RuntimeError(f"{len(raised)} of {count} processes failed, the first with:\n{raised[0]}")
    return [value for _, _, value in found]


def drive(code: str, *arguments: object) -> Any:
    """Run an expression of this module in such a process; returns what it comes to."""
    text = f"import json, sys; from tests.store import test_concurrent as t; print(json.dumps(t.{code}))"
    process = start_python(text, *arguments)
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, err[-3000:]
    return json.loads(out)


def container(content: bytes) -> bytes:
    """A file like torch's."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", content)
    return sink.getvalue()


def filler(name: str, number: int) -> str:
    """A text of an event: no two alike, and mostly long enough for a torn line to be cut within it."""
    return f"{name} of {number}, " * (1, 40, 400, 1500)[number % 4] + "end"


def told(number: int) -> list[tuple[str, dict[str, Any]]]:
    """The events of child ``number``, in order."""
    return [
        (lineage.START, {"description": filler("start", number), "number": number}),
        (lineage.RESUME, {"checkpoint": filler("file", number), "experiment": PARENT, "epoch": 1}),
        (lineage.RATIO, {"old_weights": {"a": 1.0}, "new_weights": {"a": 2.0 + number}}),
        (lineage.FINISHED, {"epochs": 2, "best_acc": number / 100}),
    ]


def write_child(number: int, root: Path) -> str:
    """What a child's process does with the store, in its order; half of them also save within their epoch."""
    child = experiments.create(Root.open(root), NAME, WHEN)
    held = WriterLock.acquire(child.folder)
    try:
        parent = Experiment(root / PARENT)
        start = parent.entry("1")
        child.write_config(
            ExperimentConfig.from_json(
                {
                    "experiment_name": NAME,
                    "num_epochs": 1,
                    "sampling_weights": {"a": 2.0 + number},
                    "parent": {
                        "experiment": PARENT,
                        "epoch": 1,
                        "batch": 0,
                        "sha256": start.sha256,
                        "file": start.file,
                    },
                }
            )
        )
        lineage.open_log(child.folder, NAME, f"child {number}", WHEN)
        *beginning, end = told(number)
        for kind, details in beginning:
            lineage.record(child.folder, kind, **details)
        files.clean_temps(child.folder)  # the training begins
        for position in [Position(2, 5)] * (number % 2) + [Position(2, None)]:
            held.check()
            name = layout.checkpoint_name(position)
            data = container(f"{number} at {position}".encode() * 500)
            files.write_atomic(child.folder / name, data)
            entry = ManifestEntry(
                name, len(data), sha256(data).hexdigest(), *position, WHEN.isoformat(), {"val_acc": 0.5}
            )
            child.write_manifest(Manifest([entry], BestEpoch(2, name) if position.batch is None else None))
        lineage.record(child.folder, end[0], **end[1])
    finally:
        held.release()
    return child.id


def complaints(root: Path) -> Iterator[tuple[str, str]]:
    """(kind, text) of what a reader sees in the root that never is so."""
    for experiment in catalog.experiments(Root.open(root)):
        row = catalog.summary(experiment)
        if row.status not in (experiments.RUNNING, experiments.FINISHED) or row.note is not None:
            yield "alarm", f"{experiment.id} is {row.status}: {row.note}"
        events = lineage.read(experiment.folder)
        if experiment.id == PARENT or not events:
            continue
        expected = told(events[0].fields["number"])[: len(events)]
        if [(e.type, e.fields) for e in events] != expected:
            yield "torn", f"{experiment.id} tells {str(events)[:300]}"
    nodes = tree.build(Root.open(root))
    for i, node in nodes.items():
        if (node.parent is None) != (i == PARENT):
            yield "torn", f"{i} has the parent {node.parent}"
    if len(list(tree.lines(nodes))) != len(nodes) or len(tree.rows(nodes)) != len(nodes):
        yield "torn", "not every experiment is in the tree"


def read_until(done: Any, root: Path, results: Any) -> None:
    """List and draw the tree again and again, once more after the end."""
    seen: list[tuple[str, str]] = []
    listings, last = 0, False
    while not last:
        last = done.is_set()
        try:
            seen += complaints(root)
        except Exception:
            seen.append(("raised", traceback.format_exc()))
        listings += 1
        time.sleep(0.005)
    results.put((listings, seen))


def run_children(folder: str, rounds: str) -> dict[str, Any]:
    """All rounds: in each a root with one parent, its children, and a reader."""
    made, listings, seen = [], 0, []
    fsync = os.fsync
    for number in range(int(rounds)):
        # Waiting for the disk spreads the processes out; every second round is without it, and denser.
        os.fsync = fsync if number % 2 == 0 else lambda fd: None
        root = Path(folder) / f"{number}"
        done, results = FORK.Event(), FORK.SimpleQueue()
        reader = FORK.Process(target=read_until, args=(done, root, results))
        reader.start()
        made.append(together(PROCESSES, write_child, root))
        done.set()
        count, wrong = results.get()
        reader.join()
        listings += count
        seen += [(kind, f"round {number}: {text}") for kind, text in wrong]
    return {"made": made, "listings": listings, "seen": seen, "torch": "torch" in sys.modules}


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


@dataclass(frozen=True)
class Raced:
    """What all rounds have left."""

    roots: list[Path]
    before: list[dict[str, tuple[bytes, int]]]  # the parent's folder of each round before its children
    made: list[list[str]]  # ids of the children of each round, by their number
    listings: int
    seen: list[tuple[str, str]]  # what the readers complain of

    def complaints(self, kind: str) -> list[str]:
        return [text for k, text in self.seen if k == kind]


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raced]:
    folder = tmp_path_factory.mktemp("roots")
    roots = [folder / f"{n}" for n in range(ROUNDS)]
    for root in roots:
        parent = make_experiment(root / PARENT, [(1, None)], best=1, sampling_weights={"a": 1.0})
        lineage.record(parent.folder, lineage.FINISHED, epochs=1)
    before = [content(root / PARENT) for root in roots]
    result = drive("run_children(*sys.argv[1:])", folder, ROUNDS)
    assert not result["torch"]
    yield Raced(roots, before, result["made"], result["listings"], result["seen"])
    shutil.rmtree(folder)


def test_every_child_has_a_folder_and_all_of_its_events_once(raced: Raced) -> None:
    for root, made in zip(raced.roots, raced.made, strict=True):
        assert set(made) == {layout.make_id(NAME, WHEN, n) for n in range(2, PROCESSES + 2)}
        assert {p.name for p in root.iterdir()} - {layout.CACHES} == {*made, PARENT}
        for number, name in enumerate(made):
            check_child(root / name, number)


def test_the_parent_is_unchanged_and_has_all_children(raced: Raced) -> None:
    for root, made, before in zip(raced.roots, raced.made, raced.before, strict=True):
        assert content(root / PARENT) == before
        nodes = tree.build(Root.open(root))
        assert sorted(nodes[PARENT].children) == sorted(made)
        assert [nodes[name].change for name in made] == [{"a": (1.0, 2.0 + n)} for n in range(PROCESSES)]
        rows = [catalog.summary(e) for e in catalog.experiments(Root.open(root))]
        assert [r.id for r in rows] == [layout.make_id(NAME, WHEN, n) for n in range(1, PROCESSES + 2)]
        assert {r.status for r in rows} == {experiments.FINISHED}
        assert {r.parent and r.parent.experiment for r in rows[1:]} == {PARENT}


def test_who_reads_meanwhile_sees_no_torn_event_and_no_error(raced: Raced) -> None:
    assert raced.listings > 2 * ROUNDS
    assert raced.complaints("torn") == []
    assert raced.complaints("raised") == []


def test_who_reads_meanwhile_is_not_alarmed(raced: Raced) -> None:
    found = raced.complaints("alarm")
    assert found == [], f"{len(found)} false alarms in {raced.listings} listings"


def check_child(folder: Path, number: int) -> None:
    """Every file is there, whole, and holds exactly what this child wrote."""
    lines = (folder / layout.LINEAGE).read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    assert [e["seq"] for e in events] == [1, 2, 3, 4]
    assert [(e["type"], {k: e[k] for k in e if k not in ("seq", "time", "type")}) for e in events] == told(number)
    text = (folder / layout.CHANGES).read_text(encoding="utf-8")
    assert text.startswith(f"EXPERIMENT LOG - {NAME}\nStarted: {WHEN.isoformat()}\nDescription: child {number}\n")
    assert re.findall(r"^\[.*\] #(\d+)\nChange Type: (.*)$", text, re.MULTILINE) == [
        (str(n), kind) for n, kind in enumerate(KINDS, start=1)
    ]
    for name in ("start", "file"):
        assert text.count(filler(name, number)) == 1
    experiment = Experiment(folder)
    assert experiment.config().sampling_weights == {"a": 2.0 + number}
    assert [(e.file, e.verify(folder)) for e in experiment.entries()] == [("checkpoint_epoch_2.pt", None)]
    assert experiment.newest_good()[1] == []
    within = {"checkpoint_epoch_2_batch_5.pt"} if number % 2 else set()
    expected = {layout.CONFIG, layout.LINEAGE, layout.CHANGES, layout.MANIFEST, layout.FENCE, "checkpoint_epoch_2.pt"}
    assert {p.name for p in folder.iterdir()} == expected | within  # neither lock nor temporary files


# The same second, and nothing there yet


def make_both(number: int, root: Path) -> tuple[str, str]:
    made = sweep.create(Root.open(root), NAME, WHEN)
    made.write_record(SweepRecord.from_json({"name": NAME, "number": number, "branches": []}))
    return made.id, experiments.create(Root.open(root), NAME, WHEN).id


def run_sweeps(folder: str, rounds: str) -> list[list[tuple[str, str]]]:
    return [together(PROCESSES, make_both, Path(folder) / f"{n}" / "new" / "root") for n in range(int(rounds))]


def test_sweeps_of_one_name_and_second_are_as_many_as_were_made_also_in_a_root_that_none_has_made(
    tmp_path: Path,
) -> None:
    for number, made in enumerate(drive("run_sweeps(*sys.argv[1:])", tmp_path, FEWER)):
        root = tmp_path / f"{number}" / "new" / "root"
        found = sweep.all_sweeps(Root.open(root))
        assert len(found) == PROCESSES
        assert {s.id: s.record().more["number"] for s in found} == {ids[0]: n for n, ids in enumerate(made)}
        assert len({ids[1] for ids in made}) == PROCESSES
        assert {p.name for p in root.iterdir()} == {layout.SWEEPS, *(ids[1] for ids in made)}


# One experiment, many writers


def try_once(number: int, folder: Path, all_tried: Any) -> tuple[str, int, str]:
    """Take the lock and keep it until all have tried."""
    try:
        held = WriterLock.acquire(folder)
    except LockedError as error:
        all_tried.wait(200)
        return "lost", os.getpid(), str(error)
    all_tried.wait(200)
    held.check()
    held.release()
    return "won", os.getpid(), ""


def die_holding(number: int, folder: Path, dead: Any) -> None:
    WriterLock.acquire(folder)
    dead.put(os.getpid())


def run_tries(folder: str, rounds: str, before: str) -> list[list[tuple[str, int, str]]]:
    found = []
    for number in range(int(rounds)):
        experiment = Path(folder) / f"{number}"
        experiment.mkdir()
        if before == "a dead holder":
            dead = FORK.SimpleQueue()
            together(1, die_holding, experiment, dead)
            assert lock.holder(experiment).pid == dead.get()
        found.append(together(PROCESSES, try_once, experiment, FORK.Barrier(PROCESSES)))
    return found


@pytest.mark.parametrize("before", [pytest.param("nobody", marks=pytest.mark.slow), "a dead holder"])
def test_of_many_that_want_to_write_one_gets_the_lock_and_the_others_are_told_who(tmp_path: Path, before: str) -> None:
    for number, said in enumerate(drive("run_tries(*sys.argv[1:])", tmp_path, FEWER, before)):
        winners = [pid for how, pid, _ in said if how == "won"]
        assert len(winners) == 1
        folder = tmp_path / f"{number}"
        named = f"{folder} is being written by process {winners[0]} on {socket.gethostname()} since "
        assert [text for how, _, text in said if how == "lost" and not text.startswith(named)] == []
        assert [p.name for p in folder.iterdir()] == [layout.FENCE]  # neither the lock nor a temporary file


def take_turns(number: int, folder: Path, turns: int) -> list[str]:
    """Write alone so many times; a quarter of the processes die with the lock in their last turn."""
    wrong: list[str] = []
    who = re.compile(rf"process \d+ on {re.escape(socket.gethostname())} since \d{{4}}-")
    end = time.monotonic() + 120
    while turns and time.monotonic() < end:
        try:
            held = WriterLock.acquire(folder)
        except LockedError as error:
            if not who.search(str(error)):
                wrong.append(f"refused with: {error}")
            time.sleep(random.random() * 0.02)
            continue
        except RaysweepError as error:
            wrong.append(f"{type(error).__name__} instead of a LockedError: {error}")
            continue
        try:
            os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            wrong.append("two write at once")
        files.clean_temps(folder)  # as every writer does when it begins
        lineage.record(folder, lineage.NOTE, number=number, turn=turns)
        try:
            held.check()
        except LockedError as error:
            wrong.append(f"lost while writing: {error}")
        (folder / "inside").unlink(missing_ok=True)
        turns -= 1
        if turns or number % 4:
            held.release()
    if turns:
        wrong.append(f"{turns} turns were not had within two minutes")
    return wrong[:3]


def run_turns(folder: str, turns: str) -> list[list[str]]:
    return together(PROCESSES, take_turns, Path(folder), int(turns))


def test_all_write_in_turn_and_never_two_at_once_also_when_some_die_with_the_lock(tmp_path: Path) -> None:
    turns = max(2, FEWER // 3)
    wrong = drive("run_turns(*sys.argv[1:])", tmp_path, turns)
    assert [w for of_one in wrong for w in of_one] == []
    events = lineage.read(tmp_path)  # raises where a number is missing or twice
    expected = sorted((n, t) for n in range(PROCESSES) for t in range(1, turns + 1))
    assert sorted((e.fields["number"], e.fields["turn"]) for e in events) == expected
    assert (tmp_path / layout.CHANGES).read_text().count("Change Type: NOTE") == len(expected)
    assert temps(tmp_path) == []


# Moments that are rare in a race, made to happen


def test_a_run_that_ends_while_it_is_looked_at_is_not_called_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lineage.record(tmp_path, lineage.START)
    held = WriterLock.acquire(tmp_path)
    look = lock.holder

    def ends_before(folder: Path) -> Any:
        monkeypatch.setattr(lock, "holder", look)
        lineage.record(tmp_path, lineage.FINISHED)
        held.release()
        return look(folder)

    monkeypatch.setattr(lock, "holder", ends_before)
    assert Experiment(tmp_path).status() in (experiments.RUNNING, experiments.FINISHED)


def test_a_run_that_begins_and_ends_while_it_is_looked_at_is_not_called_one_of_the_old_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = lock.holder

    def all_of_it(folder: Path) -> Any:
        monkeypatch.setattr(lock, "holder", look)
        for kind in (lineage.START, lineage.FINISHED):
            lineage.record(tmp_path, kind)
        return look(folder)

    monkeypatch.setattr(lock, "holder", all_of_it)
    assert Experiment(tmp_path).status() in (experiments.RUNNING, experiments.FINISHED)


def test_between_the_first_checkpoint_and_the_first_manifest_no_reader_is_alarmed(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path / PARENT)
    held = WriterLock.acquire(experiment.folder)
    data = container(b"state")
    files.write_atomic(experiment.folder / layout.checkpoint_name(Position(1, 5)), data)
    row = catalog.summary(experiment)
    assert (row.status, row.note) == (experiments.RUNNING, None)
    held.release()


def test_whoever_asks_for_the_lock_while_its_holder_cleans_up_is_told_who_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WriterLock.acquire(tmp_path)
    replace = os.replace

    def clean_first(source: Any, target: Any) -> None:
        files.clean_temps(tmp_path)  # the holder begins to train at this moment
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", clean_first)
    with pytest.raises(LockedError, match=f"process {os.getpid()} on "):
        WriterLock.acquire(tmp_path)
