"""Any request to an object store may fail: the error names it, what was committed is whole, and another machine goes on."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from raysweep.errors import RaysweepError
from raysweep.store import files, layout, lineage
from raysweep.store.experiment import Experiment
from raysweep.store.lock import WriterLock
from raysweep.store.remote import bucket
from raysweep.store.root import Root
from tests.store.remote.between import Between, Request, every
from tests.store.remote.objectstore import Server, emptied
from tests.store.remote.test_late import begin, save

KINDS = [403, 500, "reset", "lost"]  # lost: the store has done it, but its answer does not arrive


@pytest.fixture
def server(s3_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(bucket, "_ATTEMPTS", 1)
    monkeypatch.setattr(bucket, "_REPEATS", 0)
    with emptied(s3_port, tmp_path / "machines") as found:
        yield found


class Fault:
    """From request ``at`` on, a proxy lets all requests fail that have the method and the object of that one."""

    def __init__(self, between: Between, at: int, kind: int | str) -> None:
        self.at, self.kind, self.failed = len(between.seen) + at, kind, ""
        between.decide = self.fails if kind != "lost" else lambda request: None
        between.after = self.fails if kind == "lost" else lambda request: None

    def fails(self, request: Request) -> int | str | None:
        if request.number == self.at:
            self.failed = request.name
        if not self.failed or request.name != self.failed:
            return None
        return "reset" if self.kind == "lost" else self.kind


def two_epochs(made: Experiment) -> None:
    """As a training writes them. What cannot be deleted stays behind, for the next writer."""
    lock = WriterLock.acquire(made.folder)
    try:
        for _ in range(2):
            with contextlib.suppress(OSError):
                save(made)
        lineage.record(made.folder, lineage.FINISHED, epochs=3)
    finally:
        lock.release()


def fail(server: Server, at: int, kind: int | str) -> str:
    """Fail request ``at`` of two epochs, look, and go on elsewhere; returns the request, or nothing if there is none."""
    name = f"run-{at}-{kind}"
    with Between(server.port) as between, server.machine(f"first {name}"):
        made = begin(Root.open(server.root(name, port=between.port)))
        fault, error = Fault(between, at, kind), None
        try:
            two_epochs(made)
        except RaysweepError as found:
            error = found
    if not fault.failed:
        return ""
    of_the_end = (
        fault.failed.startswith("DELETE") or made.status() == "finished"
    )  # only what is left behind, or the lock
    assert of_the_end or (error is not None and fault.failed.partition(" ")[2] in str(error)), (fault.failed, error)
    with server.elsewhere(f"second {name}"):
        root = Root.open(server.root(name))
        found = Experiment(root.path / made.id)
        assert found.entries()[0].epoch == 1
        assert [p for e in found.entries() if (p := e.verify(found.folder)) is not None] == []
        lock = WriterLock.acquire(found.folder, steal=True)
        root.refresh(found.folder)
        assert found.manifest().problems == ()
        while len(found.manifest().ends) < 3:
            save(found)
        files.clone_or_copy(found.folder / "checkpoint_epoch_3.pt", found.folder / layout.BEST)  # as `continue` does
        lineage.record(found.folder, lineage.FINISHED, epochs=3)
        lock.release()
    with server.machine(f"third {name}"):
        found = Experiment(Root.open(server.root(name)).path / made.id)
        assert [(e.epoch, e.verify(found.folder)) for e in found.entries() if e.batch is None] == [
            (n, None) for n in (1, 2, 3)
        ]
        assert lineage.read(found.folder)[-1].type == lineage.FINISHED
        assert files.read_all(found.folder / layout.BEST) == files.read_all(found.folder / "checkpoint_epoch_3.pt")
    return fault.failed


def test_whichever_request_fails_nothing_is_lost(server):
    at, kind = random.randrange(1, 40), random.choice(KINDS)
    assert fail(server, at, kind), (at, kind)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_request_may_fail_in_every_way(server):
    step = every(12)
    for kind in KINDS:
        at, names = random.randrange(1, step + 1), []
        while failed := fail(server, at, kind):
            names.append(failed)
            at += step
        assert at > 40, kind
        assert step > 1 or {f"PUT {layout.MANIFEST}", f"PUT {layout.LOCK}", "PUT checkpoint_epoch_2.pt"} <= set(names)
