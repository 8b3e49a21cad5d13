"""What the time of a training is spent on: it adds up, it is kept and told, and it changes no bit."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Recorder, weights_hash


class Now:
    """Time that passes only where it is told to."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def cpu():
    import torch

    return torch.device("cpu")


def test_every_second_belongs_to_one_part(cpu):
    from raysweep.training.profile import Clock

    now = Now()
    clock = Clock(True, cpu, now)
    for part, seconds in (("gather", 1.0), ("forward", 2.0), ("backward", 4.0), ("forward", 8.0)):
        now.at += seconds
        clock.lap(part, 3)
    now.at += 16.0
    with clock.all("validation"):  # what came before is something else
        now.at += 32.0
        clock.lap("forward")
        now.at += 64.0
    assert dict(clock.seconds) == {"gather": 1.0, "forward": 10.0, "backward": 4.0, "rest": 16.0, "validation": 96.0}
    assert clock.images == 12
    now.at += 1.0
    clock.lap("step")
    assert sum(clock.seconds.values()) == now.at


def test_without_it_nothing_is_measured(cpu):
    from raysweep.training.profile import Clock

    clock = Clock(False, cpu, Now())
    clock.lap("forward", 5)
    assert (dict(clock.seconds), clock.images) == ({}, 0)


def test_the_operations_of_a_network_are_counted_and_nothing_of_it_changes():
    import torch
    from torch import nn

    from raysweep.training.profile import flops

    net = nn.Sequential(nn.Linear(10, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))
    before = [t.clone() for t in net.state_dict().values()]
    state = torch.random.get_rng_state()
    assert (
        flops(net, torch.ones(4, 10)) == 2 * 10 * 5 * 2
    )  # forward, and backward to the weights; a multiply-add is two
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(p.grad is None for p in net.parameters())

    class Fails(nn.Module):
        def forward(self, x):
            raise ValueError("only once")

    assert flops(Fails(), torch.ones(4, 10)) is None


def test_the_rate_of_the_machine_is_work_through_time(cpu):
    import torch

    from raysweep.training.profile import _rate

    now = Now()

    def work():
        now.at += 0.25
        return torch.ones(())

    assert _rate(work, 100, cpu, 1.0, now) == pytest.approx(400.0)


def test_what_is_said_follows_from_the_figures():
    from raysweep.training.profile import Profile

    found = Profile({"gather": 1.0, "forward": 3.0, "backward": 6.0}, 1000, 4_500_000, 1e9, "cpu", 2)
    assert found.reached == pytest.approx(0.5)
    assert found.least == pytest.approx(4.5)
    first, second = found.lines()
    assert first == "Time of 1,000 images, 10.0 s in all: backward 60%, forward 30%, gather 10%."
    assert "reach 50% of" in second
    assert second.endswith("they would take 4.5 s instead of 9.0 s.")
    uncounted = Profile({"forward": 1.0}, 10, None, 1e9, "cpu", 1)
    assert (uncounted.reached, uncounted.least) == (None, None)
    assert uncounted.lines()[1].endswith("cannot be counted.")


def test_a_training_tells_and_keeps_it_with_the_same_bits(quick_run, without_ray):
    from raysweep.events import Note

    plain = quick_run()
    assert not (plain.folder / "profile.json").exists()
    recorder = without_ray(Recorder())
    measured = quick_run(scaling={"num_workers": 0, "threads": 1, "profile": True})
    assert weights_hash(measured) == weights_hash(plain)
    found = json.loads((measured.folder / "profile.json").read_text())
    assert found["images"] == 1000
    assert {"gather", "augment", "forward", "backward", "step", "validation", "checkpoint"} <= set(found["seconds"])
    assert found["flops"] > 0
    assert found["reached"] == pytest.approx(
        found["flops"] * 1000 / (found["seconds"]["forward"] + found["seconds"]["backward"]) / found["rate"]
    )
    told = [e.text for e in recorder.events if isinstance(e, Note)]
    assert sum(text.startswith("Time of 1,000 images, ") for text in told) == 1


def test_once_the_network_thaws_it_is_measured_anew(quick_run, without_ray):
    from raysweep.events import Note

    recorder = without_ray(Recorder())
    thawed = quick_run(
        scaling={"num_workers": 0, "threads": 1, "profile": True},
        model={"freeze": "backbone", "unfreeze": 2},
        training={"epochs": 3, "batch_size": 250},
    )
    found = json.loads((thawed.folder / "profile.json").read_text())
    assert (found["images"], found["since"]) == (1000, 2)  # of 1,500; the first 500 computed less
    told = [e.text for e in recorder.events if isinstance(e, Note)]
    first = "Time of 1,000 images from epoch 2 on, which trains what was frozen before, "
    assert sum(text.startswith(first) for text in told) == 1
