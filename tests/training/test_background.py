"""Saving in the background: a snapshot does not change later, commits keep their order, errors are reported."""

from __future__ import annotations

import threading
import time

import pytest

from raysweep.errors import NonFiniteLossError, StoreError
from raysweep.events import BatchDone, EpochDone
from raysweep.store.experiment import Experiment
from raysweep.training import checkpointing
from tests.conftest import Recorder, weights_hash


def state_of(value: float) -> dict:
    import torch

    images = torch.full((2, 3, 4, 5), value).contiguous(memory_format=torch.channels_last)
    shared = torch.full((6,), value)
    return {
        "model": {
            "a": images,
            "b": shared,
            "tied": shared,
            "empty": torch.empty(0),
            "half": torch.ones(3).half() * value,
        },
        "optimizer": {
            "state": {0: {"step": torch.tensor(value)}},
            "param_groups": [{"lr": value, "betas": (0.9, 0.99)}],
        },
    }


def test_a_snapshot_does_not_change_later_and_keeps_structure_and_layout():
    import torch

    from raysweep.training.background import Snapshot

    snapshot, state = Snapshot(), state_of(1.0)
    taken = snapshot.take(state)
    for tensor in (state["model"]["a"], state["model"]["b"], state["optimizer"]["state"][0]["step"]):
        tensor.add_(5)
    assert torch.equal(taken["model"]["a"], torch.full((2, 3, 4, 5), 1.0))
    assert taken["model"]["a"].is_contiguous(memory_format=torch.channels_last)
    assert taken["model"]["half"].dtype == torch.float16
    assert taken["model"]["tied"].data_ptr() == taken["model"]["b"].data_ptr()  # as in the network: written once
    assert taken["optimizer"] == {
        "state": {0: {"step": torch.tensor(1.0)}},
        "param_groups": [{"lr": 1.0, "betas": [0.9, 0.99]}],
    }


def test_the_next_snapshot_uses_the_same_memory_unless_the_structure_differs():
    import torch

    from raysweep.training.background import Snapshot

    snapshot = Snapshot()
    first = snapshot.take(state_of(1.0))
    second = snapshot.take(state_of(2.0))
    assert second["model"]["a"].data_ptr() == first["model"]["a"].data_ptr()
    assert float(second["model"]["a"].mean()) == 2.0
    larger = snapshot.take({"model": torch.ones(100)})
    assert torch.equal(larger["model"], torch.ones(100))
    assert snapshot.take({}) == {}


def test_parameters_that_need_gradients_are_copied_without_them():
    import torch

    from raysweep.training.background import Snapshot

    parameter = torch.nn.Parameter(torch.ones(3))
    taken = Snapshot().take({"p": parameter})["p"]
    assert not taken.requires_grad
    assert torch.equal(taken, torch.ones(3))


@pytest.fixture
def reported():
    return []


@pytest.fixture
def saver(reported):
    from raysweep.training.background import BackgroundSaver

    made = BackgroundSaver(lambda event: reported.append((threading.current_thread(), event)))
    yield made
    made.close()


def test_events_are_reported_by_the_training_thread_after_the_commit(saver, reported):
    gate, committed = threading.Event(), []

    def save():
        gate.wait()
        committed.append(1)
        return True

    saver.begin()
    saver.submit(save, lambda best, *seconds: EpochDone(1, {}, best, *seconds))
    saver.poll()
    assert reported == []  # it is still being written, and nothing waits for it
    gate.set()
    saver.flush()
    assert committed == [1]
    (thread, event), *rest = reported
    assert rest == []
    assert thread is threading.current_thread()
    assert isinstance(event, EpochDone)
    assert event.best
    assert event.save_seconds >= 0 <= event.blocked_seconds


def test_saves_run_one_at_a_time_and_in_order(saver, reported):
    running, most = [0], [0]

    def save(number):
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.01)
        running[0] -= 1
        return number

    for number in range(5):
        saver.begin()
        saver.submit(lambda number=number: save(number), lambda number, *_: number)
    saver.flush()
    assert most == [1]
    assert [event for _, event in reported] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("call", ["begin", "poll", "flush"])
def test_a_failed_save_is_raised_once_by_the_next_call(saver, reported, call):
    def save():
        raise StoreError("the disk is full")

    saver.submit(save, lambda *_: None)
    while not saver._running.done():
        time.sleep(0.001)
    with pytest.raises(StoreError, match="full"):
        getattr(saver, call)()
    saver.flush()
    assert reported == []


def test_closing_waits_for_the_running_save(reported):
    from raysweep.training.background import BackgroundSaver

    saver, ended = BackgroundSaver(reported.append), []
    saver.submit(lambda: time.sleep(0.05) or ended.append(1), lambda *_: None)
    saver.close()
    assert ended == [1]


# In a training


@pytest.fixture
def slow_saves(monkeypatch):
    """A save takes longer than an epoch."""
    real = checkpointing.CheckpointWriter.epoch_end

    def slow(self, *args):
        time.sleep(0.6)
        return real(self, *args)

    monkeypatch.setattr(checkpointing.CheckpointWriter, "epoch_end", slow)


@pytest.mark.slow
def test_slow_saves_change_no_bit_of_any_epoch(quick_run, monkeypatch, request):
    sections = {"training": {"epochs": 3}, "model": {"options": {"widths": [4, 4, 8, 8], "dropout": 0.2}}}
    quick = quick_run(**sections)
    request.getfixturevalue("slow_saves")
    slow = quick_run(**sections)
    for epoch in ("1", "2", "3"):
        assert weights_hash(slow, epoch) == weights_hash(quick, epoch)
    assert all(e.verify(slow.folder) is None for e in slow.entries())


def test_the_event_of_an_epoch_comes_after_its_commit(quick_run, without_ray, tmp_path):
    found = []

    class Watcher(Recorder):
        def __call__(self, event):
            super().__call__(event)
            if isinstance(event, EpochDone):
                (folder,) = (tmp_path / "experiments").glob("small_*")
                found.append([e.epoch for e in Experiment(folder).entries()])

    recorder = without_ray(Watcher())
    quick_run(training={"epochs": 3})
    assert found == [[1], [1, 2], [1, 2, 3]]
    assert [e.epoch for e in recorder.events if isinstance(e, EpochDone)] == [1, 2, 3]


def test_the_training_continues_during_a_save(quick_run, without_ray, slow_saves, monkeypatch):
    gone_on = threading.Event()
    slow = checkpointing.CheckpointWriter.epoch_end

    def epoch_end(self, *args):
        gone_on.wait(240)
        return slow(self, *args)

    class Watcher(Recorder):
        def __call__(self, event):
            super().__call__(event)
            if isinstance(event, BatchDone) and event.epoch == 2:
                gone_on.set()

    monkeypatch.setattr(checkpointing.CheckpointWriter, "epoch_end", epoch_end)
    recorder = without_ray(Watcher())
    quick_run(training={"epochs": 2, "batch_size": 50})
    kinds = [(type(e), e.epoch) for e in recorder.events if isinstance(e, BatchDone | EpochDone)]
    assert kinds.index((BatchDone, 2)) < kinds.index((EpochDone, 1))
    first, second = (e for e in recorder.events if isinstance(e, EpochDone))
    assert first.blocked_seconds < first.save_seconds
    assert second.blocked_seconds < first.save_seconds  # it waits for what is left of the first


def test_an_error_of_a_background_save_ends_the_training_and_is_reported(quick_run, tmp_path, monkeypatch):
    real = checkpointing.CheckpointWriter.epoch_end

    def failing(self, state, epoch, *rest):
        if epoch == 2:
            raise StoreError("9 bytes could not be written to x: No space left on device.")
        return real(self, state, epoch, *rest)

    monkeypatch.setattr(checkpointing.CheckpointWriter, "epoch_end", failing)
    with pytest.raises(StoreError, match="No space left"):
        quick_run(training={"epochs": 4})
    (folder,) = (tmp_path / "experiments").glob("small_*")
    experiment = Experiment(folder)
    assert experiment.status() == "failed"
    assert experiment.newest_good()[0].epoch == 1


def test_an_error_in_the_next_epoch_does_not_lose_the_epoch_being_saved(quick_run, tmp_path, slow_saves, monkeypatch):
    from raysweep.training.feed import Feed

    real, calls = Feed.batch, [0]

    def poisoned(self, images, *more):
        x, y = real(self, images, *more)
        if images is self.train:
            calls[0] += 1
            if calls[0] > 3:  # the first batch of the second epoch: the first is still being saved
                x = x * float("nan")
        return x, y

    monkeypatch.setattr(Feed, "batch", poisoned)
    with pytest.raises(NonFiniteLossError):
        quick_run(training={"epochs": 2})
    (folder,) = (tmp_path / "experiments").glob("small_*")
    assert [e.epoch for e in Experiment(folder).entries()] == [1]
