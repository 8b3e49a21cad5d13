"""The line that proposes fewer threads for each branch, so that more of them train at the same time."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from raysweep.plan import side_by_side


def of(threads, pace, branches=8, at_once=None):
    """The lines for a plan whose branches have so many threads; ``pace``: seconds of a batch by threads."""
    plan = SimpleNamespace(resources=SimpleNamespace(threads=threads))
    return side_by_side.proposal(
        plan, branches, at_once, pace=lambda counts: {n: pace[n] for n in counts} if pace else {}
    )


def test_more_branches_side_by_side_are_proposed_where_they_train_more_images(monkeypatch):
    monkeypatch.setattr(side_by_side._machine, "cpus_here", lambda: 4)
    (line,) = of(4, {1: 2.0, 2: 1.1, 4: 1.0})  # 4 / 2.0, 2 / 1.1 and 1 / 1.0 batches a second
    assert "parent's 4 threads, 1 branch at a time" in line
    assert "--threads 1 there would be 4 at a time" in line
    assert "about 2.0 times" in line
    assert "no longer equal the parent to the bit" in line
    (line,) = of(4, {1: 4.0, 2: 1.1, 4: 1.0})
    assert "--threads 2 there would be 2 at a time" in line
    assert "about 1.8 times" in line


@pytest.mark.parametrize(
    ("threads", "pace", "more"),
    [
        (1, {1: 1.0}, {}),  # as many as there can be
        (4, {1: 3.7, 2: 1.9, 4: 1.0}, {}),  # the threads are used well
        (4, {}, {}),  # too large to measure
        (4, {1: 1.0, 2: 1.0, 4: 1.0}, {"branches": 1}),  # nothing waits
        (4, {1: 1.0, 2: 1.0, 4: 1.0}, {"at_once": 1}),  # the user wants one at a time
    ],
)
def test_nothing_is_said_where_it_would_give_nothing(monkeypatch, threads, pace, more):
    monkeypatch.setattr(side_by_side._machine, "cpus_here", lambda: 4)
    assert of(threads, pace, **more) == []


def test_the_passes_of_a_network_are_measured_and_nothing_of_torch_is_changed(quick_run):
    import torch

    from raysweep.config import grid as grids
    from raysweep.plan.sweep import plan_sweep
    from raysweep.plan.types import SweepRequest

    run = quick_run(training={"epochs": 1})
    grid = grids.check({"epochs": 1, "weights": {"8": [2.0, 3.0]}})
    request = SweepRequest(run.root, f"{run.id}@1", grid)
    plan = plan_sweep(request)
    before, random = torch.get_num_threads(), torch.get_rng_state()
    found = side_by_side._measured(plan.base, [1, 2])
    assert set(found) == {1, 2}
    assert min(found.values()) > 0
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), random)
    # The user's own number is not questioned.
    assert side_by_side.of_sweep(plan, replace(request, threads=2)) == []


def test_of_a_large_network_only_a_few_images_are_passed(monkeypatch):
    import torch

    from raysweep.training import pace

    monkeypatch.setattr(pace, "_MOST_S", 0.0)  # whatever it takes, it is too long
    seen: list[int] = []
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    before = torch.get_num_threads()
    assert pace.of_a_batch(model, (4, 4, 1), 64, False, [1, 2]) == {}
    assert max(seen) == 2
    assert torch.get_num_threads() == before
