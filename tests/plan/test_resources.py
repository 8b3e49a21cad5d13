"""How many workers, threads and GPUs a run gets; no Ray is needed to decide that."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from raysweep import _machine
from raysweep.config.settings import ScalingSection
from raysweep.errors import ResourceError
from raysweep.plan import capacity, resources
from raysweep.plan.resources import Resources


@pytest.fixture
def machine(monkeypatch):
    def be(cpus: int, gpus: int) -> None:
        monkeypatch.setattr(_machine, "cpus_here", lambda: cpus)
        monkeypatch.setattr(resources, "gpus_here", lambda: gpus)

    return be


@pytest.mark.parametrize(
    ("cpus", "gpus", "scaling", "expected"),
    [
        (8, 0, {}, Resources(0, 8, 8, False)),
        (8, 1, {}, Resources(0, 8, 8, True)),
        (8, 4, {}, Resources(4, 2, 2, True)),
        (8, 4, {"use_gpu": False}, Resources(0, 8, 8, False)),
        (8, 0, {"num_workers": 2}, Resources(2, 4, 4, False)),
        (8, 0, {"num_workers": 2, "threads": 1}, Resources(2, 4, 1, False)),
        (8, 0, {"num_workers": 0, "threads": 3}, Resources(0, 8, 3, False)),
        (8, 0, {"num_workers": [2, 4]}, Resources(4, 2, 2, False, (2, 4))),
        (3, 0, {"num_workers": [2, 4]}, Resources(3, 1, 1, False, (2, 4))),
        (8, 0, {"num_workers": [1, 8], "threads": 2}, Resources(4, 2, 2, False, (1, 8))),
        (8, 3, {"num_workers": [2, 8]}, Resources(3, 2, 2, True, (2, 8))),
        (8, 0, {"num_workers": [2, 99], "address": "auto"}, Resources(99, 0, 0, False, (2, 99))),
    ],
)
def test_decisions(machine, cpus, gpus, scaling, expected):
    machine(cpus, gpus)
    assert resources.decide(ScalingSection.model_validate(scaling)) == expected


@pytest.mark.parametrize(
    ("scaling", "told"),
    [
        ({"num_workers": 9}, "9 workers were asked for, but this machine has 8 CPUs"),
        ({"num_workers": [9, 12]}, "9 workers were asked for, but this machine has 8 CPUs"),
        ({"num_workers": 2, "use_gpu": True}, "2 GPU workers were asked for, but this machine has 1"),
        ({"threads": 9}, "scaling.threads is 9"),
    ],
)
def test_more_than_there_is(machine, scaling, told):
    machine(8, 1)
    with pytest.raises(ResourceError, match=told):
        resources.decide(ScalingSection.model_validate(scaling))


NODES = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0}]


def test_workers_get_as_many_cpus_as_let_all_run_at_once():
    assert resources.fit_cluster(Resources(2, 0, 0, False), NODES, False) == Resources(2, 3, 3, False)
    assert resources.fit_cluster(Resources(3, 0, 0, False), NODES, False) == Resources(3, 2, 2, False)
    assert resources.fit_cluster(Resources(7, 0, 0, False), NODES, "auto") == Resources(7, 1, 1, False)
    assert resources.fit_cluster(Resources(1, 0, 2, False), NODES, "auto") == Resources(1, 4, 2, True)


@pytest.mark.parametrize(
    ("threads", "span", "use_gpu", "expected"),
    [
        (0, (2, 9), False, Resources(7, 1, 1, False, (2, 9))),
        (0, (2, 3), False, Resources(3, 2, 2, False, (2, 3))),
        (3, (1, 9), False, Resources(2, 3, 3, False, (1, 9))),
        (0, (1, 9), "auto", Resources(1, 4, 4, True, (1, 9))),  # one GPU goes before seven CPUs
        (0, (2, 9), "auto", Resources(7, 1, 1, False, (2, 9))),  # two cannot have one
    ],
)
def test_an_elastic_training_takes_as_many_workers_as_fit(threads, span, use_gpu, expected):
    assert resources.fit_cluster(Resources(span[1], 0, threads, False, span), NODES, use_gpu) == expected


@pytest.mark.parametrize(
    ("wanted", "use_gpu", "told"),
    [
        (Resources(8, 0, 0, False), False, "2 nodes"),
        (Resources(2, 0, 4, False), False, "2 workers of 4 CPUs"),  # seven CPUs, but no second node with four
        (Resources(2, 0, 0, True), True, "1 GPUs in all"),
        (Resources(9, 0, 0, False, (8, 9)), False, "8 workers of 1 CPU"),
        (Resources(9, 0, 0, False, (2, 9)), True, "2 GPU workers"),
    ],
)
def test_what_could_only_wait_for_ever_is_refused(wanted, use_gpu, told):
    with pytest.raises(ResourceError, match=told):
        resources.fit_cluster(wanted, NODES, use_gpu)


@pytest.mark.parametrize(
    ("left", "count", "most", "address", "told"),
    [
        (16, 4, None, "auto", "on this cluster; 12 wait"),
        (3, 2, None, None, "on this machine; 1 waits"),
        (3, 2, 2, None, "as --max-concurrent says; 1 waits"),
        (3, 2, 4, None, "on this machine; 1 waits"),
        (2, 2, None, None, ""),
    ],
)
def test_a_sweep_larger_than_its_place_says_what_waits_and_why(left, count, most, address, told):
    scaling = SimpleNamespace(address=address)
    plan = SimpleNamespace(max_concurrent=most, base=SimpleNamespace(settings=SimpleNamespace(scaling=scaling)))
    assert capacity.queue(plan, left, count) == told
