"""A root on an object store: what is there counts, data come before the manifest, and what was cut off is never seen."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raysweep import _paths
from raysweep.errors import LockedError, NotFoundError, RootError, StoreError
from raysweep.store import catalog, evaluations, files, index, layout, lineage, resolve, retention
from raysweep.store import experiment as experiments
from raysweep.store import sweep as sweeps
from raysweep.store.experiment import Experiment
from raysweep.store.layout import Position
from raysweep.store.lock import WriterLock
from raysweep.store.records import ExperimentConfig
from raysweep.store.records_manifest import BestEpoch, Manifest, ManifestEntry
from raysweep.store.records_sweep import SweepRecord
from raysweep.store.remote import bucket, copies
from raysweep.store.remote.bucket import Bucket, Found
from raysweep.store.remote.mirror import Mirror
from raysweep.store.root import Root
from tests.store.remote.between import Between, Request
from tests.store.remote.objectstore import BUCKET, Server, emptied


@pytest.fixture
def server(s3_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(bucket, "_ATTEMPTS", 2)  # what fails here fails for ever
    with emptied(s3_port, tmp_path / "machines") as found:
        yield found


def make(root: Root, name: str = "base", epochs: int = 1) -> Experiment:
    """A committed experiment without a training."""
    experiment = experiments.create(root, name)
    experiment.write_config(ExperimentConfig.from_json({"experiment_name": name, "num_epochs": epochs, "settings": {}}))
    lineage.record(experiment.folder, lineage.START)
    for epoch in range(1, epochs + 1):
        commit(experiment, epoch)
    return experiment


def commit(experiment: Experiment, epoch: int, content: bytes | None = None) -> None:
    """A checkpoint of an epoch, as the callback commits it: data first, then the manifest, then what is derived."""
    content = content if content is not None else f"state {epoch} ".encode() * 5000
    name = layout.checkpoint_name(Position(epoch, None))
    size, digest = files.write_stream(experiment.folder / name, lambda sink: sink.write(content))
    entry = ManifestEntry(name, size, digest, epoch, None, "2026-01-01T00:00:00", {"val_acc": epoch / 100})
    best = BestEpoch(epoch, name, "val_acc", epoch / 100)
    experiment.write_manifest(Manifest([*experiment.entries(), entry], best))
    files.clone_or_copy(experiment.folder / name, experiment.folder / layout.BEST)
    files.write_atomic(experiment.folder / layout.HISTORY_CSV, f"epoch,val_acc\n{epoch},{epoch / 100}\n".encode())


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "prefix", "options"),
    [
        ("s3://bucket", "bucket", "", {}),
        ("s3://bucket/", "bucket", "", {}),
        ("s3://my.bucket-1/a/b/", "my.bucket-1", "a/b", {}),
        ("s3:/bucket/a", "bucket", "a", {}),  # what pathlib makes of it
        ("s3://bucket//a//b?region=eu-west-1", "bucket", "a/b", {"region": "eu-west-1"}),
        (
            "s3://bucket/a?endpoint_override=http://minio:9000/",
            "bucket",
            "a",
            {"endpoint_override": "minio:9000", "scheme": "http"},
        ),
    ],
)
def test_addresses(text, name, prefix, options):
    found = Bucket.parse(text)
    assert (found.name, found.prefix, found.options) == (name, prefix, options)
    again = Bucket.parse(found.address + found.query)
    assert (again.name, again.prefix, again.options) == (name, prefix, options)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("s3://", "is not an address"),
        ("s3://Bucket/a", "is not an address"),
        ("s3://key:secret@bucket/a", "s3://…@bucket/a is not .* without a user or password"),
        ("s3://bucket/a/../b", "have no meaning in an object store"),
        ("s3://bucket/a?access_key=x&secret_key=y", "environment only"),
        ("s3://bucket/a?scheme=ftp", "must be http or https"),
        ("gs://bucket/a", "is an address"),
        ("s3:bucket/a", "is an address"),
        ("https://example.org/a", "is an address"),
    ],
)
def test_addresses_that_cannot_be_used(text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RootError, match=words):
        Root.open(text)
    assert not list(tmp_path.iterdir())


# --- what is there ----------------------------------------------------------------------------------------------------


def test_another_machine_sees_what_is_committed_and_reads_only_what_it_needs(server):
    with server.machine("a"):
        made = make(Root.open(server.root()), epochs=3)
    with server.machine("b"):
        root = Root.open(server.root())
        (row,) = index.rows(root)
        assert (row.id, row.epochs_done) == (made.id, 3)
        found = resolve.find_experiment(root, "base")
        path = found.folder / "checkpoint_epoch_2.pt"
        assert path.stat().st_blocks == 0  # only its size is here
        assert path.stat().st_size == len(b"state 2 " * 5000)
        assert [e.verify(found.folder) for e in found.entries()] == [None] * 3
        assert path.read_bytes() == b"state 2 " * 5000
        assert files.read_all(found.folder / layout.BEST) == b"state 3 " * 5000
        assert Root.address_of(found.folder) == f"s3://{BUCKET}/team/experiments/{made.id}"
        assert Root.locate(f"s3://{BUCKET}/team/experiments/{made.id}/x") == found.folder / "x"
        assert copies.named(f"in {found.folder}.") == f"in s3://{BUCKET}/team/experiments/{made.id}."
        assert root.address == server.root()
        with pytest.raises(NotFoundError, match="no checkpoint '4'"):
            found.entry("4")


def test_a_checkpoint_is_found_by_its_address_alone(server):
    with server.machine("a"):
        made = make(Root.open(server.root()))
    with server.machine("b"):
        where, _, query = server.root().partition("?")
        _, entry, path = resolve.find_checkpoint(Root.open("."), f"{where}/{made.id}/checkpoint_epoch_1.pt?{query}")
        assert entry is not None
        assert files.read_all(path) == b"state 1 " * 5000


def test_caches_and_what_is_under_way_are_not_uploaded(server):
    with server.machine("a"):
        root = Root.open(server.root())
        (root.path / layout.CACHES).mkdir(exist_ok=True)
        files.write_atomic(root.path / layout.CACHES / "cached", b"x")
        (root.path / ".tmp-import").mkdir()
        files.write_atomic(root.path / ".tmp-import" / layout.CONFIG, b"{}")
        assert server.all_keys() == []
        made = make(root)
        keys = {k.removeprefix(f"team/experiments/{made.id}/") for k in server.all_keys()}
    assert keys == {
        layout.CONFIG,
        layout.LINEAGE,
        layout.CHANGES,
        layout.MANIFEST,
        layout.BEST,
        layout.HISTORY_CSV,
        "checkpoint_epoch_1.pt",
    }


def test_a_folder_is_published_with_its_manifest_last(server, monkeypatch):
    with server.machine("a"):
        root = Root.open(server.root())
        folder = root.path / "imported"
        folder.mkdir()
        for name in (layout.MANIFEST, layout.CONFIG, "checkpoint_epoch_1.pt", "z.png"):
            (folder / name).write_bytes(b"{}")
        sent: list[str] = []
        put = Bucket.put
        monkeypatch.setattr(Bucket, "put", lambda self, key, *a: (sent.append(key), put(self, key, *a))[1])
        root.publish(folder)
    assert sorted(sent) == sorted(f"imported/{n}" for n in os.listdir(folder))
    assert sent[-1] == f"imported/{layout.MANIFEST}"


def test_what_is_removed_is_gone_everywhere(server):
    with server.machine("a"):
        made = make(Root.open(server.root()), epochs=3)
    with server.machine("b"):
        assert len(catalog.experiments(Root.open(server.root()))) == 1
    with server.machine("a"):
        root = Root.open(server.root())
        found = resolve.find_experiment(root, "base")
        gone = retention.removable(found, 1, None, set())
        assert [e.epoch for e in gone] == [1, 2]
        retention.remove(found, gone, "prune")
    with server.machine("b"):
        found = resolve.find_experiment(Root.open(server.root()), made.id)
        assert [e.epoch for e in found.entries()] == [3]
        assert not (found.folder / "checkpoint_epoch_1.pt").exists()
    for key in server.all_keys():
        server.client.delete_object(Bucket=BUCKET, Key=key)
    with server.machine("b"):
        assert catalog.experiments(Root.open(server.root())) == []


def test_sweeps_are_found(server):
    with server.machine("a"):
        root = Root.open(server.root())
        from datetime import datetime

        made = sweeps.create(root, "many", datetime.now())
        files.write_json(made.folder / layout.SWEEP, {"id": made.id, "branches": []})
    with server.machine("b"):
        root = Root.open(server.root())
        assert [s.id for s in sweeps.all_sweeps(root)] == [made.id]
        assert resolve.find_sweep(root, "many").record().id == made.id


def test_a_look_at_sealed_images_is_seen_on_every_machine(server):
    from datetime import datetime

    told = {"looked": "2026-01-02T03:04:05", "reference": "base@5", "sealed_sha256": "abc"}
    with server.machine("a"):
        made = evaluations.create(Root.open(server.root()), "base", datetime.now())
        made.write({"id": made.id, **told})
        files.write_atomic(made.folder / layout.RELIABILITY, b"x")
    with server.machine("b"):
        root = Root.open(server.root())
        (look,) = evaluations.looks(root, "abc")
        assert (look.evaluation, look.of) == (made.id, "base@5")
        assert evaluations.looks(root, "another") == []
        assert (root.path / layout.EVALUATIONS / made.id / layout.RELIABILITY).exists()


def test_names_that_no_path_may_have_are_left_alone(server):
    for key in ("../../evil", "base//x", ".raysweep/cache/x", "a/b/c/d/e", "file-of-the-root", "a/../../../b"):
        server.client.put_object(Bucket=BUCKET, Key=f"team/experiments/{key}", Body=b"x")
    with server.machine("a"):
        root = Root.open(server.root())
        found = sorted(str(p.relative_to(server.folder)) for p in server.folder.rglob("*") if p.is_file())
        assert not [f for f in found if not f.startswith(str((root.path / layout.CACHES).relative_to(server.folder)))]


# --- what does not arrive ---------------------------------------------------------------------------------------------


def test_whatever_upload_fails_the_store_holds_the_state_before_or_after(server, monkeypatch):
    """Every upload of a save in turn is the one that fails, together with all later ones."""
    put, copy = Bucket.put, Bucket.copy
    count, limit = [0], [10**9]

    def counted(self: Bucket, key: str, source: Path, before: str | None) -> Any:
        count[0] += 1
        if count[0] > limit[0]:
            raise StoreError("the network is gone")
        return put(self, key, source, before)

    monkeypatch.setattr(Bucket, "put", counted)
    monkeypatch.setattr(Bucket, "copy", lambda self, *a: None if count[0] >= limit[0] else copy(self, *a))
    seen = set()
    for allowed in range(4):
        limit[0] = 10**9
        with server.machine("writer"):
            root = Root.open(server.root())
            made = make(root, f"run{allowed}")
            count[0], limit[0] = 0, allowed
            if allowed < 3:
                with pytest.raises(StoreError, match="network is gone"):
                    commit(made, 2)
            else:
                commit(made, 2)
        limit[0] = 10**9
        for machine in ("reader", "writer"):  # the writer's own copy is ahead of what arrived
            with server.machine(machine):
                found = resolve.find_experiment(Root.open(server.root()), f"run{allowed}")
                good, problems = found.newest_good()
                assert good is not None
                assert problems == []
                assert good.epoch == (1 if allowed < 2 else 2)
                seen.add(good.epoch)
        with server.machine("writer"):  # and goes on
            commit(resolve.find_experiment(Root.open(server.root()), f"run{allowed}"), 3)
        with server.machine("reader"):
            good, problems = resolve.find_experiment(Root.open(server.root()), f"run{allowed}").newest_good()
            assert good is not None
            assert (good.epoch, problems) == (3, [])
    assert seen == {1, 2}


class Scissors(threading.Thread):
    """Passes bytes on to the server, and cuts a connection once it has sent ``after`` of them, while ``sharp``."""

    def __init__(self, port: int, after: int, of_the_client: bool = True) -> None:
        super().__init__(daemon=True)
        self.target, self.after, self.sharp, self.cuts = port, after, False, 0
        self.of_the_client, self.on_cut = of_the_client, lambda: None
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.start()

    def run(self) -> None:
        while True:
            try:
                client, _ = self.listening.accept()
            except OSError:
                return
            upstream = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self._pass, args=(client, upstream, self.of_the_client), daemon=True).start()
            threading.Thread(target=self._pass, args=(upstream, client, not self.of_the_client), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        sent = 0
        try:
            while data := source.recv(65536):
                sent += len(data)
                if counted and self.sharp and sent > self.after:
                    self.cuts += 1
                    self.on_cut()
                    break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_an_upload_that_is_cut_off_halfway_is_never_seen_as_a_checkpoint(server):
    large = os.urandom(1_000_000)
    scissors = Scissors(server.port, 500_000)
    with server.machine("writer"):
        made = make(Root.open(server.root(port=scissors.port)))
        scissors.sharp = True
        with pytest.raises(StoreError, match=r"checkpoint_epoch_2.pt could not be written \(1,000,000 bytes\)"):
            commit(made, 2, large)
    assert 0 < scissors.cuts < 50, scissors.cuts  # the attempts are bounded
    with server.machine("reader"):
        found = resolve.find_experiment(Root.open(server.root()), "base")
        good, problems = found.newest_good()
        assert good is not None
        assert (good.epoch, problems) == (1, [])
        assert index.rows(found.root)[0].epochs_done == 1
    scissors.sharp = False
    with server.machine("writer"):
        commit(resolve.find_experiment(Root.open(server.root(port=scissors.port)), "base"), 2, large)
    with server.machine("reader"):
        found = resolve.find_experiment(Root.open(server.root()), "base")
        assert files.read_all(found.folder / "checkpoint_epoch_2.pt") == large
    scissors.listening.close()


def test_an_object_of_another_size_than_was_sent_is_sent_again_and_then_an_error(server, monkeypatch):
    monkeypatch.setattr(bucket.time, "sleep", lambda s: None)
    sent: list[int] = []
    send = Bucket._send

    def short(self: Bucket, key: str, source: Any, *condition: Any) -> str:
        sent.append(1)
        return send(self, key, io.BytesIO(b"only this") if len(sent) < broken else source, *condition)

    monkeypatch.setattr(Bucket, "_send", short)
    with server.machine("a"):
        root = Root.open(server.root())
        (root.path / "run").mkdir()
        broken = 2
        files.write_atomic(root.path / "run" / layout.CONFIG, b"x" * 100)
        assert server.content(f"run/{layout.CONFIG}") == b"x" * 100
        broken = 100
        with pytest.raises(StoreError, match="has 9 bytes after 200 bytes were sent"):
            files.write_atomic(root.path / "run" / layout.CONFIG, b"x" * 200)


# --- several at once --------------------------------------------------------------------------------------------------


def test_two_machines_in_turn_add_to_one_log(server):
    with server.machine("a"):
        made = make(Root.open(server.root()))
    for turn in range(3):
        for machine in ("b", "a"):
            with server.machine(machine):
                folder = Root.open(server.root(), look=False).path / made.id
                Root.at(folder.parent).refresh(folder)
                lineage.record(folder, lineage.NOTE, text=f"{machine} {turn}")
    with server.machine("c"):
        folder = Root.open(server.root()).path / made.id
        events = lineage.read(folder)
        assert [e.seq for e in events] == list(range(1, 8))
        assert [e.fields.get("text") for e in events[1:]] == ["b 0", "a 0", "b 1", "a 1", "b 2", "a 2"]


def test_one_writer_at_a_time_wherever_it_is(server):
    with server.machine("a"):
        made = make(Root.open(server.root()))
        lock = WriterLock.acquire(made.folder)
    with server.elsewhere("b"):
        folder = Root.open(server.root()).path / made.id
        with pytest.raises(LockedError, match="--steal"):
            WriterLock.acquire(folder)
        other = WriterLock.acquire(folder, steal=True)
    with server.machine("a"):
        Root.open(server.root(), look=False)
        with pytest.raises(LockedError, match="was taken by process"):
            lock.check()
        lock.release()  # it no longer is ours to give back
    with server.machine("b"):
        Root.open(server.root(), look=False)
        other.check()
        other.release()
        assert f"team/experiments/{made.id}/{layout.LOCK}" not in server.all_keys()


def test_who_looks_while_another_process_writes_disturbs_nothing(server):
    """Both share the machine's copy: what was written and is on its way must not be replaced by what is there."""
    with server.machine("a"):
        root = Root.open(server.root())
        made = make(root)
        done, seen = threading.Event(), []

        def look() -> None:
            while not done.is_set():
                Mirror(root.path, Bucket.parse(server.root())).pull()
                seen.append(len(made.entries()))

        looker = threading.Thread(target=look)
        looker.start()
        for epoch in range(2, 12):
            commit(made, epoch)
            assert len(made.entries()) == epoch
        done.set()
        looker.join()
        assert len(seen) > 5
        assert seen == sorted(seen)
        assert json.loads(server.content(f"{made.id}/{layout.MANIFEST}")) == made.manifest().to_json(made.id)


def test_two_machines_never_make_the_same_experiment(server):
    from datetime import datetime

    now = datetime(2026, 1, 2, 3, 4, 5)
    ids = []
    for machine in ("a", "b", "c"):
        with server.machine(machine):
            experiment = experiments.create(Root.open(server.root(), look=False), "same", now)
            experiment.write_config(ExperimentConfig.from_json({}))
            ids.append(experiment.id)
    assert ids == ["same_20260102_030405", "same_20260102_030405_2", "same_20260102_030405_3"]


@pytest.fixture
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """All objects are of the same second, as far as the store tells."""
    now, found = int(time.time()), bucket._found
    monkeypatch.setattr(bucket, "_found", lambda row, size: found(row, size)._replace(time=now))


def test_two_who_take_the_lock_in_one_second_do_not_both_have_it(server, one_second):
    with server.machine("a"):
        made = make(Root.open(server.root()))
        lock = WriterLock.acquire(made.folder)
    with server.elsewhere("b"):
        folder = Root.open(server.root()).path / made.id
        other = WriterLock.acquire(folder, steal=True)
        assert len(server.content(f"{made.id}/{layout.LOCK}")) == (folder / layout.LOCK).stat().st_size
    with server.machine("a"):
        Root.open(server.root(), look=False)
        with pytest.raises(LockedError, match="was taken by process"):
            lock.check()
    with server.machine("b"):
        Root.open(server.root(), look=False)
        other.check()


def test_a_file_that_changes_twice_in_one_second_is_not_stale(server, one_second):
    with server.machine("a"):
        made = make(Root.open(server.root()))
        for number in "12":
            with server.machine("a"):
                files.write_atomic(
                    Root.open(server.root()).path / made.id / layout.CONFIG, f'{{"a": {number}}}'.encode()
                )
            with server.machine("b"):
                assert (Root.open(server.root()).path / made.id / layout.CONFIG).read_text() == f'{{"a": {number}}}'


def test_two_machines_that_make_an_experiment_at_the_same_moment_make_two(server):
    """As two processes: a name is asked for by all before any has written into its folder."""
    roots = []
    for name in "abc":
        with server.machine(name):
            roots.append(Root.open(server.root(), look=False))
            mirrors = dict(copies._open)
        roots[-1] = (roots[-1], mirrors)
    from datetime import datetime

    now, made = datetime(2026, 1, 2, 3, 4, 5), []
    copies._open.update({k: v for _, found in roots for k, v in found.items()})
    together = threading.Barrier(3)

    def run(root: Root) -> None:
        together.wait()
        experiment = experiments.create(root, "same", now)
        together.wait()
        WriterLock.acquire(experiment.folder)
        experiment.write_config(ExperimentConfig.from_json({"of": str(root.path)}))
        made.append(experiment)

    threads = [threading.Thread(target=run, args=(root,)) for root, _ in roots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({e.id for e in made}) == 3
    for experiment in made:
        assert json.loads(server.content(f"{experiment.id}/{layout.CONFIG}")) == {"of": str(experiment.folder.parent)}
    assert not [k for k in server.all_keys() if layout.TEMP_PREFIX in k]  # the names are kept by what is in them


def test_a_copy_that_is_deleted_under_a_writer_loses_no_checkpoint(server):
    with server.machine("a"):
        made = make(Root.open(server.root()), epochs=3)
        lock = WriterLock.acquire(made.folder)
        shutil.rmtree(server.folder / "a")
        lock.check()  # as before every save
        commit(made, 4)
    with server.machine("b"):
        found = resolve.find_experiment(Root.open(server.root()), "base")
        assert [(e.epoch, e.verify(found.folder)) for e in found.entries()] == [(n, None) for n in range(1, 5)]


def test_who_looks_waits_for_another_who_looks_and_passes_one_who_writes(server):
    with server.machine("b"):
        Root.open(server.root())
    with server.machine("a"):
        made = make(Root.open(server.root()))
    with server.machine("b"):
        root = Root.open(server.root())
        with server.machine("a"):
            commit(resolve.find_experiment(Root.open(server.root()), "base"), 2)
        Root.open(server.root(), look=False)
        found = copies.holding(root.path)
        assert found is not None
        looking = threading.Thread(target=root.refresh, args=(root.path / made.id, False))
        with found.alone(root.path / made.id):  # another process, which is half done
            looking.start()
            looking.join(0.5)
            assert looking.is_alive()
        looking.join()
        assert [e.epoch for e in Experiment(root.path / made.id).entries()] == [1, 2]
        with found.alone(root.path / made.id, writes=True):
            root.refresh(root.path / made.id, patient=False)


def test_a_long_download_does_not_keep_others_from_seeing_what_is_new(server, monkeypatch):
    """`raysweep continue` beside a `raysweep verify` of the same experiment must not go on from an old checkpoint."""
    with server.machine("a"):
        made = make(Root.open(server.root()))
    with server.machine("b"):
        root = Root.open(server.root())
        with server.machine("a"):
            commit(resolve.find_experiment(Root.open(server.root()), "base"), 2)
        Root.open(server.root(), look=False)
        get, halfway, on = Bucket.get, threading.Event(), threading.Event()

        def slow(self: Bucket, key: str, target: Path) -> Found:
            there = get(self, key, target)
            if key.endswith("checkpoint_epoch_1.pt"):
                halfway.set()
                on.wait(240)
            return there

        monkeypatch.setattr(Bucket, "get", slow)
        there = Experiment(root.path / made.id)
        verifying = threading.Thread(target=there.entries()[0].verify, args=(there.folder,))
        verifying.start()
        assert halfway.wait(240)
        there.root.refresh(there.folder)
        assert [e.epoch for e in there.entries()] == [1, 2]
        assert verifying.is_alive()
        on.set()
        verifying.join()


def test_a_checkpoint_that_a_child_elsewhere_starts_from_stays(server):
    """The machine that trains looked at its root when it began."""
    with server.machine("a"):
        root = Root.open(server.root())
        made = make(root, epochs=3)
        opened = dict(copies._open)
    with server.machine("b"):
        child = experiments.create(Root.open(server.root()), "child")
        child.write_config(
            ExperimentConfig.from_json(
                {"parent": {"experiment": made.id, "epoch": 1, "sha256": made.entries()[0].sha256}}
            )
        )
    with server.machine("a"):
        copies._open.update(opened)
        assert [e.epoch for e in retention.removable(made, 1, None, retention.in_use(root))] == [2]


# --- strangers ---------------------------------------------------------------------------------------------------------


def test_what_lies_behind_a_link_in_the_copy_is_left_alone(server, tmp_path):
    mine = tmp_path / "mine"
    (mine / layout.TENSORBOARD).mkdir(parents=True)
    for name in (layout.CONFIG, layout.MANIFEST, "checkpoint_epoch_1.pt", f"{layout.TENSORBOARD}/{layout.LINEAGE}"):
        (mine / name).write_text("{}")
    before = sorted(mine.rglob("*"))
    with server.machine("a"):
        root = Root.open(server.root())
        made = make(root)
        (root.path / "linked").symlink_to(mine)
        (root.path / layout.SWEEPS).symlink_to(tmp_path)
        (made.folder / layout.TENSORBOARD).symlink_to(mine)
        for key in ("linked/experiment_config.json", "sweeps/mine/new.json", f"{made.id}/tensorboard/new"):
            server.client.put_object(Bucket=BUCKET, Key=f"team/experiments/{key}", Body=b"of the store")
        Root.open(server.root())
    assert sorted(mine.rglob("*")) == before
    assert (mine / layout.CONFIG).read_text() == "{}"


def test_the_files_of_the_users_code_come_along(server):
    name = layout.code_name("models/nets.py", "a" * 64)
    with server.machine("a"):
        made = make(Root.open(server.root()))
        made.keep_code({"models/nets.py": b"x = 1"}, {"models/nets.py": "a" * 64})
    with server.machine("b"):
        root = Root.open(server.root())
        assert files.read_all(root.path / made.id / layout.CODE / name) == b"x = 1"


def test_a_link_to_a_checkpoint_is_read_as_the_checkpoint(server, tmp_path):
    with server.machine("a"):
        made = make(Root.open(server.root()))
    with server.machine("b"):
        root = Root.open(server.root())
        (tmp_path / "link.pt").symlink_to(root.path / made.id / "checkpoint_epoch_1.pt")
        assert files.read_all(tmp_path / "link.pt") == b"state 1 " * 5000


def test_a_copy_is_not_taken_for_a_root_of_its_own(server):
    with server.machine("a"):
        made = make(Root.open(server.root()))
    copies._open.clear()
    for path in (made.folder, made.folder / "checkpoint_epoch_1.pt"):
        with pytest.raises(
            RootError, match=r"is in the local copy of s3://bucket/team/experiments, .* Use the address"
        ):
            resolve.find_checkpoint(Root.open("elsewhere"), f"{path}")
    with pytest.raises(RootError, match="is in the local copy of"):
        Root.open(made.folder.parent)


def test_what_others_keep_beside_the_experiments_harms_nothing(server):
    keys = [
        "x/y",
        "x/y/z",
        "w/tensorboard",
        "w/tensorboard/x",
        "sweeps",
        f"sweeps/{'s' * 255}/sweep.json",
        "pictures/1.png",
    ]
    keys += [
        f"own/{layout.MANIFEST}/x",
        f"{'e' * 255}/{layout.CONFIG}",
        "a b+%20&=#/lineage.jsonl",
        f"w/{layout.CONFIG}",
    ]
    for key in keys:
        server.client.put_object(Bucket=BUCKET, Key=f"team/experiments/{key}", Body=b"{}")
    with server.machine("a"):
        root = Root.open(server.root())
        made = make(root)
        assert made.id in {r.id for r in index.rows(Root.open(server.root()))}
        assert not (root.path / "pictures").exists()
        assert (root.path / "a b+%20&=#" / layout.LINEAGE).read_text() == "{}"


@pytest.mark.parametrize(
    "name",
    [pytest.param("a b", marks=pytest.mark.slow), "ü%20x", pytest.param("p+q&r=s", marks=pytest.mark.slow), "日本 #1;"],
)
def test_names_that_an_address_has_to_escape(name, server):
    where = f"p {name}/q"
    with server.machine("a"):
        made = make(Root.open(server.root(where)), name, 2)
        retention.remove(made, made.entries()[:1], "test")
    with server.machine("b"):
        found = resolve.find_experiment(Root.open(server.root(where)), name)
        assert [(e.epoch, e.verify(found.folder)) for e in found.entries()] == [(2, None)]
        assert files.read_all(found.folder / layout.BEST) == b"state 2 " * 5000


def test_a_sweep_is_found_by_its_address_alone_with_its_root(server):
    from datetime import datetime

    with server.machine("a"):
        made = sweeps.create(Root.open(server.root()), "many", datetime.now())
        made.write_record(SweepRecord.from_json({"id": made.id, "branches": []}))
        where = Root.address_of(made.folder)
    with server.machine("b"):
        found = resolve.find_sweep(Root.open("elsewhere"), f"{where}?{server.root().partition('?')[2]}")
        assert (found.id, found.root.address) == (made.id, server.root())


def test_buckets_of_one_name_in_two_stores_have_two_copies(server, monkeypatch):
    with server.machine("a"):
        there = Root.open(server.root(), look=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
        found = {Root.open(f"s3://{BUCKET}/team/experiments?region=us-east-1", look=False)}
        assert found == {there}
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://elsewhere:9000")
        assert Root.open(f"s3://{BUCKET}/team/experiments?region=us-east-1", look=False) not in found


# --- before anything begins -------------------------------------------------------------------------------------------


@pytest.fixture
def refusing() -> Iterator[int]:
    """The port of a store that denies everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/xml")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found.server_port
        found.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("look", [Root.open, lambda text: Root.open(text, look=False).check_writable()])
def test_no_access_no_bucket_and_no_answer_are_told_before_anything_begins(look, server, refusing, monkeypatch):
    with server.machine("a"):
        with pytest.raises(RootError, match=r"access is denied \(403\).*AWS_ACCESS_KEY_ID"):
            look(server.root(port=refusing))
        with pytest.raises(RootError, match="there is no bucket missing-one"):
            look(server.root(bucket="missing-one"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            closed = free.getsockname()[1]
        with pytest.raises(RootError, match="nothing answers"):
            look(server.root(port=closed))
        assert server.all_keys() == []


def test_the_copy_of_a_long_training_stays_small_and_what_left_it_can_be_read(server):
    with server.machine("a"):
        made = make(Root.open(server.root()), epochs=4)
        sizes = {p.name: p.stat().st_blocks for p in made.folder.glob("*.pt")}
        assert [n for n, blocks in sizes.items() if blocks] == ["checkpoint_epoch_4.pt"]
        assert [e.verify(made.folder) for e in made.entries()] == [None] * 4
        path = made.folder / "checkpoint_epoch_1.pt"
        with files.open_regular(path) as file:
            commit(made, 5)  # it leaves the copy while it is read
            assert path.stat().st_blocks == 0
            assert file.read() == b"state 1 " * 5000


def test_a_file_that_leaves_the_copy_just_before_it_is_opened_is_brought_back(server, monkeypatch):
    with server.machine("a"):
        made = make(Root.open(server.root()), epochs=1)
        path = made.folder / "checkpoint_epoch_1.pt"
        left = [2]
        fetch = copies.fetch

        def leaving(asked: Any) -> None:
            fetch(asked)
            if Path(asked) == path and left[0]:
                left[0] -= 1
                here = path.stat()
                copies.holding(path).stand_in(path, here.st_size, here.st_mtime_ns // 10**9)  # type: ignore[union-attr]

        monkeypatch.setattr(copies, "fetch", leaving)
        assert files.read_all(path) == b"state 1 " * 5000
        assert left == [0]


def test_a_small_file_that_leaves_the_copy_just_before_it_is_opened_is_brought_back(server, monkeypatch):
    with server.machine("a"):
        made = make(Root.open(server.root()))
        path = made.folder / "classification_report.txt"
        files.write_atomic(path, b"all is well\n")
        fetch, left = _paths.before_reading, [2]
        assert fetch is not None

        def leaving(asked: Any) -> None:
            fetch(asked)
            if left[0]:
                left[0] -= 1
                here = path.stat()
                copies.holding(path).stand_in(path, here.st_size, here.st_mtime_ns // 10**9)  # type: ignore[union-attr]

        monkeypatch.setattr(_paths, "before_reading", leaving)
        assert _paths.read_regular(path, 100) == b"all is well\n"


def test_an_upload_that_is_interrupted_leaves_no_part_of_a_file(server):
    bucket = Bucket.parse(server.root())

    class Source(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 0:
                raise error
            return super().read(size)

    bucket._send("run/log", io.BytesIO(b"all of it"))
    for error in (OSError(5, "the disk"), KeyboardInterrupt()):
        there = bucket.info("run/log")
        assert there is not None
        with pytest.raises(type(error)):
            bucket._send("run/log", Source(b"part" * 3_000_000), there.etag)
        assert bucket.read("run/log") == (b"all of it", there.etag)


def test_a_signal_while_the_store_answers_leaves_the_whole_object_or_none(server):
    def interrupted(request: Request) -> None:
        signal.raise_signal(signal.SIGINT)  # which reaches the main thread
        time.sleep(0.3)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Between(server.port) as between:
            bucket = Bucket.parse(server.root(port=between.port))
            between.decide = lambda request: interrupted(request) if request.method == "PUT" else None
            with contextlib.suppress(KeyboardInterrupt):
                bucket._send("run/log", io.BytesIO(b"all of it" * 1000))
            assert len(between.seen) == 1
    finally:
        signal.signal(signal.SIGINT, before)
    found = Bucket.parse(server.root()).read("run/log")
    assert found is None or found[0] == b"all of it" * 1000


def test_a_large_object_that_is_replaced_while_it_is_read_is_read_again(server, tmp_path, monkeypatch):
    """The download breaks halfway, and goes on with what is another object by then."""
    monkeypatch.setattr("raysweep.store.remote.bucket._CHUNK", 1 << 16)
    old, new = b"old " * (1 << 19), b"new " * (1 << 19)
    scissors = Scissors(server.port, 1_000_000, of_the_client=False)
    bucket = Bucket.parse(server.root())
    bucket._send("run/best", io.BytesIO(old))
    scissors.sharp = True

    def replace() -> None:
        scissors.sharp = False
        there = bucket.info("run/best")
        assert there is not None
        bucket._send("run/best", io.BytesIO(new), there.etag)

    scissors.on_cut = replace
    found = Bucket.parse(server.root(port=scissors.port)).get("run/best", tmp_path / "best")
    assert (tmp_path / "best").read_bytes() == new
    assert found.size == len(new)
    assert scissors.cuts == 1
    scissors.listening.close()


def test_a_download_that_breaks_goes_on_where_it_broke(server, tmp_path, monkeypatch):
    monkeypatch.setattr("raysweep.store.remote.bucket._CHUNK", 1 << 16)
    content = os.urandom(2_000_000)
    bucket = Bucket.parse(server.root())
    bucket._send("run/best", io.BytesIO(content))
    scissors = Scissors(server.port, 1_500_000, of_the_client=False)
    scissors.sharp = True
    Bucket.parse(server.root(port=scissors.port)).get("run/best", tmp_path / "best")
    assert (tmp_path / "best").read_bytes() == content
    assert scissors.cuts == 1
    scissors.listening.close()


def test_endpoint_and_region_may_come_from_the_environment(server, monkeypatch):
    with server.machine("a"):
        make(Root.open(server.root()))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with server.machine("b"):
        assert len(catalog.experiments(Root.open(f"s3://{BUCKET}/team/experiments"))) == 1
