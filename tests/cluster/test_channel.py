"""What a branch is told when it asks whether it may begin, and what an actor unpacks once."""

from __future__ import annotations

import sys

from raysweep.cluster.channel import Channel, ChannelReporter
from raysweep.events import BatchDone, BranchEvent, Drawing
from raysweep.launch.sweep import branch as branches


def test_a_branch_learns_whether_it_has_begun_before_and_whether_to_stop():
    box = Channel()
    assert box.begin("a") == (None, False)
    assert box.begin("b") == (None, False)
    assert box.begin("a") == (None, True)
    box.stop("SIGINT")
    assert box.begin("c") == ("SIGINT", False)
    assert box.begin("c") == ("SIGINT", False)  # it has made no folder
    assert [e.branch for e in box.take()] == ["a", "b", "a", "c", "c"]


def test_of_the_batches_a_reporter_tells_few_and_of_the_rest_all(monkeypatch):
    box, now = Channel(), 0.0

    class Remote:
        def __init__(self, method):
            self.remote = method

    class Actor:
        put = Remote(box.put)

    monkeypatch.setattr("raysweep.cluster.channel.time.monotonic", lambda: now)
    reporter = ChannelReporter(Actor, batch_every_s=0.5)
    for i in range(20):
        now = i / 10
        reporter(BatchDone(1, i, 20, 1.0, 1.0))
    reporter(Drawing())
    told = box.take()
    assert [e.batch for e in told[:-1]] == [0, 5, 10, 15]
    assert told[-1] == Drawing()
    ChannelReporter(Actor, 0.5, "b")(Drawing())
    assert box.take() == [BranchEvent("b", Drawing())]


def test_what_all_branches_share_is_unpacked_once(monkeypatch):
    unpacked, trained = [], []

    class Ray:
        @staticmethod
        def get(reference):
            unpacked.append(reference)
            return reference

    class Reference(str):
        def hex(self) -> str:
            return self

    monkeypatch.setitem(sys.modules, "ray", Ray)
    monkeypatch.setattr(branches, "train_branch", lambda config, shared: trained.append((config["branch"], shared)))
    monkeypatch.setattr(branches, "_kept", {})
    for i in range(3):
        branches.train_kept({"branch": f"b{i}"}, branches.SharedRef(Reference("one")))
    branches.train_kept({"branch": "c"}, branches.SharedRef(Reference("other")))  # an actor of another sweep
    assert unpacked == ["one", "other"]
    assert trained == [("b0", "one"), ("b1", "one"), ("b2", "one"), ("c", "other")]
    assert list(branches._kept) == ["other"]
