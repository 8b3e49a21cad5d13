"""A writer that stood still, lost its lock, and goes on: what the next one has committed on an object store stays as it is."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raysweep.errors import LockedError, RaysweepError, StoreError
from raysweep.store import files, layout, lineage
from raysweep.store.experiment import Experiment
from raysweep.store.lock import WriterLock
from raysweep.store.records_manifest import Manifest, ManifestEntry
from raysweep.store.remote import bucket
from raysweep.store.remote.bucket import Bucket, Changed
from raysweep.store.root import Root
from tests.store.remote.between import Between, Request, every
from tests.store.remote.objectstore import BUCKET, Server, emptied
from tests.store.remote.test_mirror import commit, make

MID = "checkpoint_epoch_2_batch_7.pt"


@pytest.fixture
def server(s3_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(bucket, "_ATTEMPTS", 2)
    with emptied(s3_port, tmp_path / "machines") as found:
        yield found


def begin(root: Root, name: str = "base") -> Experiment:
    """An epoch, and a checkpoint within the next one."""
    made = make(root, name)
    size, digest = files.write_stream(made.folder / MID, lambda sink: sink.write(b"middle" * 1000))
    entry = ManifestEntry(MID, size, digest, 2, 7, "2026-01-01T00:00:00", {})
    manifest = made.manifest()
    made.write_manifest(Manifest([*manifest.entries, entry], manifest.best))
    return made


def save(made: Experiment) -> None:
    """The next epoch, as a training commits it: the checkpoint within it goes, and an event tells of it."""
    ends = made.manifest().ends
    commit(made, ends[-1].epoch + 1, f"{made.folder} {ends[-1].epoch}".encode() * 1000)
    manifest = made.manifest()
    if any(e.batch for e in manifest.entries):
        made.write_manifest(Manifest(manifest.ends, manifest.best))
        files.remove(made.folder / MID)
    lineage.record(made.folder, lineage.NOTE, text=f"epoch {ends[-1].epoch + 1}")


def etags(server: Server) -> dict[str, str]:
    rows = server.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {o["Key"]: o["ETag"] for o in rows}


class Sleeper(threading.Thread):
    """Saves, and stands still at one of its requests: before the store gets it, or before its answer is passed on."""

    def __init__(self, made: Experiment, between: Between, at: int | str, answered: bool) -> None:
        super().__init__(daemon=True)
        self.made, self.error = made, RaysweepError("it has saved")
        self.asleep, self.wake = threading.Event(), threading.Event()
        self.at = len(between.seen) + at if isinstance(at, int) else at
        self.request = ""
        if answered:
            between.after = self.sleeping
        else:
            between.decide = self.sleeping
        self.start()

    def sleeping(self, request: Request) -> None:
        here = (
            request.name.startswith("PUT") and str(self.at).startswith("*") and request.name.endswith(str(self.at)[1:])
        )
        if (here or self.at in (request.number, request.name)) and not self.asleep.is_set():
            self.request = request.name
            self.asleep.set()
            assert self.wake.wait(240)

    def run(self) -> None:
        try:
            save(self.made)
        except RaysweepError as error:
            self.error = error
        finally:
            self.asleep.set()

    def awoken(self) -> None:
        self.wake.set()
        self.join(240)
        assert not self.is_alive()


def taken_over(server: Server, at: int | str, answered: bool, name: str, last: int = 3, **store: Any) -> Sleeper:
    """One writer stands still at a request, which is a number or a name; another takes over and finishes at the epoch
    ``last``; then the first one goes on."""
    with Between(server.port, **store) as between, server.machine(f"first {name}"):
        made = begin(Root.open(server.root(name, port=between.port)))
        lock = WriterLock.acquire(made.folder)
        sleeper = Sleeper(made, between, at, answered)
        assert sleeper.asleep.wait(240)
        with server.elsewhere(f"second {name}"):
            root = Root.open(server.root(name, port=between.port))
            other = Experiment(root.path / made.id)
            held = WriterLock.acquire(other.folder, steal=True)
            root.refresh(other.folder)
            if MID not in [e.file for e in other.entries()] and (other.folder / MID).exists():
                files.remove(other.folder / MID)  # as every writer does first
            while len(other.manifest().ends) < last:
                save(other)
            lineage.record(other.folder, lineage.FINISHED, epochs=last)
            if isinstance(at, int):  # else its lock is still there
                held.release()
            assert [e.verify(other.folder) for e in other.entries()] == [None] * last
            before = etags(server)
        sleeper.awoken()
        lock.release()
    assert etags(server) == before, sleeper.request
    with server.machine(f"third {name}"):
        folder = Root.open(server.root(name)).path / made.id
        found = Experiment(folder)
        ends = [(n, None, None) for n in range(1, last + 1)]
        assert [(e.epoch, e.batch, e.verify(folder)) for e in found.entries()] == ends
        assert files.read_all(folder / layout.BEST) == files.read_all(folder / f"checkpoint_epoch_{last}.pt")
        assert lineage.read(folder)[-1].type == lineage.FINISHED
    return sleeper


@pytest.mark.parametrize("part", ["checkpoint_epoch_2.pt", pytest.param(layout.MANIFEST, marks=pytest.mark.slow)])
def test_an_upload_that_arrives_late_destroys_nothing(server, part):
    """Held back, taken over by --steal, finished; then it goes on."""
    sleeper = taken_over(server, f"PUT {part}", False, "late", last=2)
    assert sleeper.request == f"PUT {part}"
    with pytest.raises(LockedError, match=r"was taken by process \d+ on .*\. This process stops writing"):
        raise sleeper.error


@pytest.mark.parametrize("part", ["checkpoint_epoch_2.pt", pytest.param(layout.MANIFEST, marks=pytest.mark.slow)])
def test_a_late_upload_to_a_store_without_conditions_arrives_under_its_own_key(server, part):
    sleeper = taken_over(server, f"*-{part}", False, "late", last=2, conditions="ignored")
    assert layout.TEMP_PREFIX in sleeper.request
    assert isinstance(sleeper.error, LockedError)


@pytest.mark.slow
def test_a_writer_that_stops_at_any_request_and_lost_its_lock_changes_nothing(server):
    """Before the store has got the request, and before its answer has arrived."""
    with Between(server.port) as between, server.machine("counting"):
        made = begin(Root.open(server.root("counting", port=between.port)))
        WriterLock.acquire(made.folder)
        before = len(between.seen)
        save(made)
        total = len(between.seen) - before
    assert total > 20
    step = every(8)
    for at in range(random.randrange(1, step + 1), total + 1, step):
        for answered in (False, True):
            sleeper = taken_over(server, at, answered, f"{at} {answered}")
            # The event is the last thing of a save. Once the store has it, only the log for people is left, which is made from it.
            done = sleeper.request == "HEAD lineage.jsonl" or sleeper.request.endswith(layout.CHANGES)
            done = done or (answered and sleeper.request == "PUT lineage.jsonl")
            assert isinstance(sleeper.error, LockedError) or done, (at, answered, sleeper.request)


@pytest.mark.parametrize(
    "conditions", ["new", "small", *(pytest.param(c, marks=pytest.mark.slow) for c in ("ignored", "there", 400, 501))]
)
def test_a_store_without_conditions_is_noticed_and_used_without_them(server, conditions):
    with Between(server.port, conditions=conditions) as between, server.machine("only"):
        root = Root.open(server.root(port=between.port))
        assert "does not honour conditions (If-None-Match, If-Match)" in str(root.caveat())
        asked = len(between.seen)
        made = begin(root)
        with_lock = WriterLock.acquire(made.folder)
        save(made)
        with_lock.release()
        assert [e.verify(made.folder) for e in made.entries()] == [None] * 2
        root.check_writable()
        assert root.caveat() is not None
        later = [
            r for r in between.seen[asked:] if {"if-match", "if-none-match"} & set(r.headers) and r.method != "GET"
        ]
        assert later == []  # it is asked once
        assert not [k for k in server.all_keys() if layout.TEMP_PREFIX in k]


def test_a_store_that_knows_conditions_only_of_uploads_is_used_with_them(server):
    """As Cloudflare R2 and MinIO, which ignore the others or refuse them."""
    with Between(server.port, conditions="uploads") as between, server.machine("only"):
        root = Root.open(server.root(port=between.port))
        made = begin(root)
        lock = WriterLock.acquire(made.folder)
        save(made)
        lock.release()
        assert root.caveat() is None
        assert not (made.folder / MID).exists()
        assert [e.verify(made.folder) for e in made.entries()] == [None] * 2
    assert not [k for k in server.all_keys() if k.endswith((MID, layout.LOCK)) or layout.TEMP_PREFIX in k]


def test_an_object_that_was_deleted_meanwhile_is_made_again(server):
    with server.machine("a"):
        made = make(Root.open(server.root()))
        lock = WriterLock.acquire(made.folder)
        for content in (b"one", b"two"):
            files.write_atomic(made.folder / layout.HISTORY_CSV, content)
            key = f"team/experiments/{made.id}/{layout.HISTORY_CSV}"
            assert server.client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == content
            server.client.delete_object(Bucket=BUCKET, Key=key)
        lock.release()


def test_two_machines_append_to_a_log_at_the_same_moment(server):
    """Each takes the next number; the second one's request comes to the store after the first one's."""
    with server.machine("a"):
        made = make(Root.open(server.root()))
        with Between(server.port) as between, server.machine("b"):
            there = Experiment(Root.open(server.root(port=between.port)).path / made.id)
            others: list[str] = []

            def before(request: Request) -> None:
                if request.name in (f"PUT {layout.LINEAGE}", f"PUT {layout.CHANGES}") and request.name not in others:
                    others.append(request.name)
                    with server.machine("a"):
                        Root.open(server.root(), look=False)
                        lineage.record(made.folder, lineage.NOTE, text=f"other {len(others)}")

            between.decide = before
            lineage.record(there.folder, lineage.NOTE, text="mine")
    with server.machine("c"):
        found = lineage.read(Root.open(server.root()).path / made.id)
        told = files.read_all(Root.open(server.root()).path / made.id / layout.CHANGES).decode()
        assert [told.count(f"] #{n}\n") for n in range(1, 6)] == [1, 1, 1, 1, 0]
        assert [(e.seq, e.fields.get("text")) for e in found] == [
            (1, None),
            (2, "other 1"),
            (3, "mine"),
            (4, "other 2"),
        ]


def test_two_who_take_a_lock_at_the_same_moment_are_one(server):
    """Both have seen that it is free; the second one's request comes to the store after the first one's."""
    with server.machine("a"):
        made = make(Root.open(server.root()))
        with Between(server.port) as between, server.machine("b"):
            there = Experiment(Root.open(server.root(port=between.port)).path / made.id)
            won: list[WriterLock] = []

            def before(request: Request) -> None:
                if request.name == f"PUT {layout.LOCK}" and not won:
                    with server.elsewhere("a"):
                        Root.open(server.root(), look=False)
                        won.append(WriterLock.acquire(made.folder))

            between.decide = before
            with pytest.raises(LockedError, match=r"is being written by process \d+ on .* since .*--steal"):
                WriterLock.acquire(there.folder)
        with server.elsewhere("a"):
            Root.open(server.root(), look=False)
            won[0].check()
            won[0].release()


def test_a_write_whose_answer_was_lost_is_not_taken_for_another_writers(server):
    """The second try of the same request finds the object there."""
    lost: list[str] = []

    def lose(request: Request) -> str | None:
        if request.method == "PUT" and request.name not in lost:
            lost.append(request.name)
            return "reset"
        return None

    with Between(server.port, after=lose) as between, server.machine("a"):
        root = Root.open(server.root(port=between.port))
        made = begin(root)
        lock = WriterLock.acquire(made.folder)
        save(made)
        lock.release()
        assert len(lost) > 8
        assert [e.verify(made.folder) for e in made.entries()] == [None] * 2
        assert [e.seq for e in lineage.read(made.folder)] == [1, 2]
    with server.machine("b"):
        found = Experiment(Root.open(server.root()).path / made.id)
        assert [e.verify(found.folder) for e in found.entries()] == [None] * 2
        assert (found.folder / layout.CHANGES).exists()
        assert files.read_all(found.folder / layout.CHANGES).count(b"Change Type") == 2


@pytest.mark.slow  # quick twin: an upload that is cut off halfway
def test_a_large_object_is_sent_in_parts_and_counts_only_when_it_is_complete(server, monkeypatch, tmp_path):
    for name, value in (("_WHOLE", 1 << 20), ("_PART", 5 << 20)):
        monkeypatch.setattr(bucket, name, value)
    source = tmp_path / "large"
    source.write_bytes(os.urandom(12_000_000))
    with Between(server.port) as between:
        there = Bucket.parse(server.root(port=between.port))
        first = there.put("run/best", source, None)
        assert sum("partNumber" in r.query for r in between.seen if r.path.endswith("run/best")) == 3
        assert there.get("run/best", tmp_path / "copy") == first._replace(mark="")
        assert (tmp_path / "copy").read_bytes() == source.read_bytes()
        for before in (None, '"another"'):
            with pytest.raises(Changed):
                there.put("run/best", source, before)
        assert there.info("run/best") == first
        between.decide = lambda request: 403 if "partNumber=2" in request.query else None
        with pytest.raises(StoreError, match=r"run/best could not be written \(12,000,000 bytes\): access is denied"):
            there.put("run/best", source, first.etag)
        between.decide = lambda request: None
        second = there.put("run/best", source, first.etag)
        assert there.info("run/best") == second != first
    assert "Uploads" not in server.client.list_multipart_uploads(Bucket=BUCKET)  # nothing is left that costs money
