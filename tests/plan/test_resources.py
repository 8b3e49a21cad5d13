"""How many workers, threads and GPUs a run gets, and how many branches run at once. Decided without Ray."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from raysweep import _machine
from raysweep.config.grid import check
from raysweep.config.running import ScalingSection
from raysweep.errors import ConfigError, ResourceError
from raysweep.plan import capacity, resources, sweep
from raysweep.plan.resources import ResourceOverrides, Resources
from raysweep.plan.types import SweepRequest
from raysweep.store.root import Root


@pytest.fixture
def machine(monkeypatch):
    def be(cpus: int, gpus: int) -> None:
        monkeypatch.setattr(_machine, "cpus_here", lambda: cpus)
        monkeypatch.setattr(resources, "gpus_here", lambda: gpus)
        monkeypatch.setattr(resources, "gpus_for_ray", lambda: gpus)

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
    ("scaling", "expected"),
    [
        ({}, Resources(0, 8, 8, True)),
        ({"num_workers": 0, "threads": 2}, Resources(0, 8, 2, True)),
        ({"num_workers": 2}, Resources(2, 4, 4, False)),  # Ray would wait for ever for a GPU that it does not know
        ({"num_workers": [1, 2]}, Resources(2, 4, 4, False, (1, 2))),
        ({"use_gpu": False}, Resources(0, 8, 8, False)),
    ],
)
def test_a_gpu_that_ray_does_not_know_is_used_in_this_process_only(machine, monkeypatch, scaling, expected):
    machine(8, 4)
    monkeypatch.setattr(resources, "gpus_for_ray", lambda: 0)
    assert resources.decide(ScalingSection.model_validate(scaling)) == expected
    assert capacity.this_machine() == [{"CPU": 8.0, "GPU": 0.0}]
    with pytest.raises(ResourceError, match="Train in this process"):
        resources.decide(ScalingSection.model_validate({"num_workers": 1, "use_gpu": True}))


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"num_workers": 9}, "9 workers were asked for, but this machine has 8 CPUs"),
        ({"num_workers": [9, 12]}, "9 workers were asked for, but this machine has 8 CPUs"),
        ({"num_workers": 2, "use_gpu": True}, "2 GPU workers were asked for, but this machine has 1 GPU, "),
        ({"threads": 9}, "scaling.threads is 9, but this machine has 8 CPUs. Set at most scaling.threads=8"),
    ],
)
def test_more_than_the_machine_has_is_refused(machine, scaling, message):
    machine(8, 1)
    with pytest.raises(ResourceError, match=message):
        resources.decide(ScalingSection.model_validate(scaling))


NODES = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0}]


def test_workers_get_as_many_cpus_as_let_all_run_at_once():
    assert resources.fit_cluster(Resources(2, 0, 0, False), NODES, False) == Resources(2, 3, 3, False)
    assert resources.fit_cluster(Resources(3, 0, 0, False), NODES, False) == Resources(3, 2, 2, False)
    assert resources.fit_cluster(Resources(7, 0, 0, False), NODES, "auto") == Resources(7, 1, 1, False)
    assert resources.fit_cluster(Resources(1, 0, 2, False), NODES, "auto") == Resources(1, 4, 2, True)


@pytest.mark.parametrize(
    ("threads", "worker_range", "use_gpu", "expected"),
    [
        (0, (2, 9), False, Resources(7, 1, 1, False, (2, 9))),
        (0, (2, 3), False, Resources(3, 2, 2, False, (2, 3))),
        (3, (1, 9), False, Resources(2, 3, 3, False, (1, 9))),
        (0, (1, 9), "auto", Resources(1, 4, 4, True, (1, 9))),  # one GPU is preferred to seven CPUs
        (0, (2, 9), "auto", Resources(7, 1, 1, False, (2, 9))),  # two workers cannot have a GPU each
    ],
)
def test_an_elastic_training_takes_as_many_workers_as_fit(threads, worker_range, use_gpu, expected):
    wanted = Resources(worker_range[1], 0, threads, False, worker_range)
    assert resources.fit_cluster(wanted, NODES, use_gpu) == expected


@pytest.mark.parametrize(
    ("wanted", "use_gpu", "message"),
    [
        (Resources(8, 0, 0, False), False, r"2 nodes \(4 CPUs and 1 GPU, 3 CPUs and 0 GPUs\)"),
        (Resources(2, 0, 4, False), False, "2 workers of 4 CPUs"),  # seven CPUs, but no second node with four
        (Resources(2, 0, 0, True), True, "the cluster has 1 GPU in all"),
        (Resources(9, 0, 0, False, (8, 9)), False, "8 workers of 1 CPU each"),
        (Resources(9, 0, 0, False, (2, 9)), True, "2 GPU workers"),
    ],
)
def test_what_could_only_wait_forever_is_refused(wanted, use_gpu, message):
    with pytest.raises(ResourceError, match=message):
        resources.fit_cluster(wanted, NODES, use_gpu)


@pytest.mark.parametrize(
    ("left", "count", "most", "address", "text"),
    [
        (16, 4, None, "auto", "on this cluster; 12 wait"),
        (3, 2, None, None, "on this machine; 1 waits"),
        (3, 2, 2, None, "as --max-concurrent says; 1 waits"),
        (3, 2, 4, None, "on this machine; 1 waits"),
        (2, 2, None, None, ""),
    ],
)
def test_a_sweep_that_does_not_fit_says_how_many_branches_wait_and_why(left, count, most, address, text):
    scaling = SimpleNamespace(address=address)
    plan = SimpleNamespace(max_concurrent=most, base=SimpleNamespace(settings=SimpleNamespace(scaling=scaling)))
    assert capacity.queue(plan, left, count) == text


@pytest.mark.parametrize(
    ("workers", "gpus", "message"),
    [
        (0, 0.0, r"A branch needs 9 CPUs, but there are 4 CPUs and 1 GPU, 3 CPUs and 0 GPUs\."),
        (2, 0.5, r"A branch needs 2 workers with 9 CPUs and 0.5 GPUs each, but"),
    ],
)
def test_a_branch_that_fits_nowhere_is_refused(workers, gpus, message):
    base = SimpleNamespace(resources=Resources(workers, 9, 9, False))
    plan = SimpleNamespace(base=base, gpus_per_branch=gpus, branches=3, max_concurrent=None)
    with pytest.raises(ResourceError, match=message):
        capacity.at_once(plan, NODES)


@pytest.mark.parametrize(
    ("address", "expected"),
    [(None, ("there:1", True)), ("local", (None, True)), ("other:1", ("other:1", False))],
)
def test_what_goes_on_has_the_resources_that_are_asked_for(tmp_path, address, expected):
    before = SweepRequest(
        Root.at(tmp_path),
        "x@1",
        check({"weights": ["natural"]}),
        threads=1,
        workers=0,
        address="there:1",
        in_process=True,
    )
    same = sweep.with_resources(before, ResourceOverrides(address=address))
    assert (same.address, same.in_process, same.threads, same.workers) == (*expected, 1, 0)
    more = sweep.with_resources(before, ResourceOverrides(threads=2, workers=3))
    assert (more.threads, more.workers) == (2, 3)
    with pytest.raises(ConfigError, match="the same number of workers"):
        sweep.with_resources(before, ResourceOverrides(workers=[1, 2]))


def test_of_many_nodes_a_message_names_six():
    assert resources.described([{"CPU": 1.0}] * 7) == ", ".join(["1 CPU and 0 GPUs"] * 6 + ["…"])
    assert resources.described([]) == "no nodes"
