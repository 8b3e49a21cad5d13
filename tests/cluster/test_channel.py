"""The event channel: what a branch learns when it begins, which events are sent, and what an actor unpacks only once."""

from __future__ import annotations

import sys
import threading

import pytest

from raysweep.cluster.channel import Channel, ChannelReporter
from raysweep.events import BatchDone, BranchEvent, Drawing
from raysweep.launch.sweep import branch as branches


def test_a_branch_learns_whether_it_has_begun_before_and_whether_to_stop():
    channel = Channel()
    assert channel.begin("a") == (None, False)
    assert channel.begin("b") == (None, False)
    assert channel.begin("a") == (None, True)
    channel.stop("SIGINT")
    assert channel.begin("c") == ("SIGINT", False)
    assert channel.begin("c") == ("SIGINT", False)  # it has made no folder
    assert [e.branch for e in channel.take()] == ["a", "b", "a", "c", "c"]


def test_a_reporter_sends_few_of_the_batches_and_all_other_events(monkeypatch):
    channel, now = Channel(), 0.0

    class Remote:
        def __init__(self, method):
            self.remote = method

    class Actor:
        put = Remote(channel.put)

    monkeypatch.setattr("raysweep.cluster.channel.time.monotonic", lambda: now)
    reporter = ChannelReporter(Actor, batch_every_s=0.5)
    for i in range(20):
        now = i / 10
        reporter(BatchDone(1, i, 20, 1.0, 1.0))
    reporter(Drawing())
    sent = channel.take()
    assert [e.batch for e in sent[:-1]] == [0, 5, 10, 15]
    assert sent[-1] == Drawing()
    ChannelReporter(Actor, 0.5, "b")(Drawing())
    assert channel.take() == [BranchEvent("b", Drawing())]


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


@pytest.mark.parametrize("asked", [None, "SIGTERM"])
def test_a_cluster_that_was_ended_with_its_driver_is_not_waited_for(monkeypatch, asked):
    from raysweep.cluster import channel as channels

    clock, handled = [0.0], []
    end = threading.Event()

    def dead(channel):
        clock[0] += 1.0
        if clock[0] >= 100:  # nobody has asked to stop: Ray's own error comes, sooner or later
            end.set()
        return None

    monkeypatch.setattr(channels, "take", dead)
    monkeypatch.setattr(channels.time, "monotonic", lambda: clock[0])
    thread = threading.Thread(target=end.wait, daemon=True)
    channels.watch(thread, object(), 0.001, handled.append, lambda: asked)
    assert thread.is_alive() == (asked is not None)
    assert clock[0] == channels.GONE_S + 1 if asked else clock[0] >= 100
    assert handled[0] == []
    end.set()
