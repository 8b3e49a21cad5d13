"""The event channel: what a branch learns when it begins, which events are sent, and what an actor unpacks only once."""

from __future__ import annotations

import sys
import threading

import pytest

from raysweep.cluster.channel import Channel, ChannelReporter
from raysweep.events import BatchDone, BranchEnded, BranchEvent, Drawing
from raysweep.launch.sweep import branch as branches


def test_a_branch_learns_whether_it_has_begun_before_and_whether_to_stop():
    channel = Channel()
    assert channel.begin("a") == (None, False)
    assert channel.begin("b") == (None, False)
    assert channel.begin("a") == (None, True)
    channel.stop("SIGINT")
    assert channel.begin("c") == ("SIGINT", False)
    assert channel.begin("c") == ("SIGINT", False)  # it has made no folder
    assert [e.branch for e in channel.take()] == ["a", "b", "a"]  # "c" has not begun


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


class Waited:
    """A thread that waits for a test."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.thread = threading.Thread(target=self.end.wait, daemon=True)


@pytest.fixture
def waited():
    found = Waited()
    yield found
    found.end.set()


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("asked", [None, "SIGTERM"])
def test_a_cluster_that_was_ended_with_its_driver_is_not_waited_for(monkeypatch, waited, asked, heard):
    from raysweep.cluster import channel as channels
    from raysweep.cluster import signals

    clock, handled = [0.0], []

    def dead(self, patience_s):
        clock[0] += 1.0
        if clock[0] >= 100:  # nobody has asked to stop: Ray's own error comes, sooner or later
            waited.end.set()
            waited.thread.join()
        return [Drawing()] if heard and clock[0] == 1 else None

    monkeypatch.setattr(channels.Inbox, "take", dead)
    monkeypatch.setattr(channels.time, "monotonic", lambda: clock[0])
    channels.watch(waited.thread, object(), 0.001, handled.append, lambda: asked)
    assert waited.thread.is_alive() == (asked is not None)
    # One that was never heard has never let a branch begin.
    patience = 1 + channels.GONE_S if heard else signals.GRACE_S
    assert clock[0] == patience + 1 if asked else clock[0] >= 100
    assert handled == [[Drawing()] if heard else [], *[[]] * (len(handled) - 1)]


class Actor:
    """A channel whose calls are answered when the test says so; as much of Ray as the driver's end of it uses."""

    def __init__(self) -> None:
        self.channel, self.calls, self.late = Channel(), [], False
        self.take = self.stop = self

    def remote(self, *arguments):
        self.calls.append(self.channel.stop(*arguments) if arguments else self.channel.take())
        return len(self.calls)  # no reference is 0


@pytest.fixture
def actor(monkeypatch):
    actor = Actor()

    class Ray:
        exceptions = type("exceptions", (), {"RayError": RuntimeError})

        @staticmethod
        def wait(references, timeout):
            return ([], references) if actor.late else (references, [])

        @staticmethod
        def get(reference):
            return actor.calls[reference - 1]

    monkeypatch.setitem(sys.modules, "ray", Ray)
    return actor


def test_what_a_late_answer_brings_is_not_lost(actor):
    from raysweep.cluster.channel import Inbox

    inbox = Inbox(actor)
    actor.channel.put(Drawing())
    actor.late = True
    assert inbox.take(0.0) is None
    assert inbox.take(0.0) is None
    actor.late = False
    assert inbox.take(0.0) == [Drawing()]
    assert inbox.take(0.0) == []
    assert len(actor.calls) == 2


def test_a_stopped_sweep_waits_for_the_branches_at_work_and_for_nothing_else(actor, monkeypatch, waited):
    """Tune would start every branch that is left, only to hear that it must not begin."""
    from raysweep.cluster import signals
    from raysweep.cluster.channel import Forward, watch
    from raysweep.launch.sweep.tune import AtWork

    stop, seen = Forward(actor), []
    at_work = AtWork(stop)
    asked = [None]
    monkeypatch.setattr(signals, "asked", lambda: asked[0])

    def handle(events):
        seen.append(events)
        for event in events:
            at_work(event)
        stop(asked[0])
        match len(seen):
            case 1:
                assert actor.channel.begin("a") == (None, False)
            case 2:
                assert actor.channel.begin("b") == (None, False)  # in the moment before the stop
                asked[0] = "SIGTERM"
            case 6:
                assert waited.thread.is_alive()
                actor.channel.put(BranchEvent("a", BranchEnded("interrupted")))
            case 8:
                actor.channel.put(BranchEvent("b", BranchEnded("finished")))

    watch(waited.thread, actor, 0.0, handle, lambda: asked[0], at_work.none)
    assert waited.thread.is_alive()
    assert len(seen) == 9


def test_a_sweep_whose_branches_have_not_begun_stops_at_once(actor, monkeypatch, waited):
    from raysweep.cluster import signals
    from raysweep.cluster.channel import Forward, watch
    from raysweep.launch.sweep.tune import AtWork

    stop = Forward(actor)
    at_work = AtWork(stop)
    monkeypatch.setattr(signals, "asked", lambda: "SIGTERM")
    watch(waited.thread, actor, 0.0, lambda events: stop("SIGTERM"), lambda: "SIGTERM", at_work.none)
    assert waited.thread.is_alive()
    assert actor.channel.begin("a") == ("SIGTERM", False)


def test_within_the_python_interface_a_stopped_sweep_waits_for_tune(actor, monkeypatch):
    """Its process goes on, and must not leave a thread of Tune's behind."""
    from raysweep.cluster import signals
    from raysweep.cluster.channel import Forward
    from raysweep.launch.sweep.tune import AtWork

    stop = Forward(actor)
    stop("SIGTERM")
    at_work = AtWork(stop)
    monkeypatch.setattr(signals, "asked", lambda: None)
    assert [at_work.none() for _ in range(3)] == [False] * 3
