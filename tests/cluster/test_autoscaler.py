"""Nodes of an autoscaling cluster are requested, waited for and given back. Other clusters are used as they are."""

from __future__ import annotations

import json
import os
import signal
import sys
import types
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from raysweep.cluster import _ray_internals, autoscaler
from raysweep.config.running import ScalingSection
from raysweep.errors import Interrupted, ResourceError
from raysweep.events import Note
from raysweep.plan import capacity, resources
from raysweep.plan.resources import Resources

NODE = {"CPU": 2.0}


class FakeCluster:
    """A fake cluster whose nodes come at the times in ``come`` (seconds), with an autoscaler and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.come: list[float] = []
        self.asked: list[list[dict[str, float]]] = []
        self.notes: list[str] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def nodes(self) -> list[dict[str, float]]:
        return [NODE for t in self.come if t <= self.now]

    def progress(self, event: Note) -> None:
        self.notes.append(event.text)


@pytest.fixture
def cluster(monkeypatch) -> FakeCluster:
    found = FakeCluster()
    sdk = types.ModuleType("ray.autoscaler.sdk")
    sdk.request_resources = lambda bundles: found.asked.append(bundles)  # type: ignore[attr-defined]
    for name, module in {"ray.autoscaler": types.ModuleType("a"), "ray.autoscaler.sdk": sdk}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(autoscaler, "time", found)
    monkeypatch.setattr(autoscaler, "grows", lambda: True)
    monkeypatch.setattr(autoscaler, "node_resources", found.nodes)
    return found


def scaling(**values: Any) -> ScalingSection:
    return ScalingSection.model_validate({"address": "auto", **values})


def wants(least: int, most: int) -> Any:
    def fits(nodes: list[dict[str, float]]) -> tuple[int, bool]:
        if len(nodes) < least:
            raise ResourceError(f"{least} were asked for, {len(nodes)} are there.")
        return min(len(nodes), most), len(nodes) >= most

    return fits


def wait_for_one(cluster: FakeCluster, **values: Any) -> None:
    with autoscaler.fleet(scaling(**values), cluster.progress) as fleet:
        fleet.ask([{"CPU": 1.0}])
        fleet.until(wants(1, 1))


def test_nodes_are_requested_waited_for_and_given_back(cluster):
    cluster.come = [0, 100, 300]
    with autoscaler.fleet(scaling(), cluster.progress) as fleet:
        fleet.ask([{"CPU": 1.0}] * 3)
        fleet.ask([{"CPU": 1.0}] * 3)
        assert fleet.until(wants(3, 3)) == 3
    assert 300 <= cluster.now < 303
    assert cluster.asked == [[{"CPU": 1.0}] * 3, []]
    assert len(cluster.notes) == 2
    assert (
        "Waiting for nodes, up to 900 s (scaling.wait_for_nodes_s). 3 were asked for, 1 are there." in cluster.notes[0]
    )


def test_a_request_that_is_not_met_in_time_is_withdrawn(cluster):
    with pytest.raises(ResourceError, match=r"After 900 s .*1 were asked for.* `ray status`"):
        wait_for_one(cluster)
    assert cluster.asked == [[{"CPU": 1.0}], []]


def test_with_enough_nodes_to_begin_it_waits_only_while_more_come(cluster):
    cluster.come = [0, 30, 80, 500]
    with autoscaler.fleet(scaling(), cluster.progress) as fleet:
        assert fleet.until(wants(2, 9)) == 3
    assert 80 + autoscaler.SETTLE_S <= cluster.now < 500


@pytest.mark.parametrize(
    ("growing", "values", "seconds", "lost"),
    [
        (False, {}, 0, 60),
        (True, {}, 900, 900),
        (False, {"wait_for_nodes_s": 7}, 7, 7),
        (True, {"wait_for_nodes_s": 0}, 0, 0),
    ],
)
def test_how_long_it_waits(cluster, monkeypatch, growing, values, seconds, lost):
    monkeypatch.setattr(autoscaler, "grows", lambda: growing)
    with pytest.raises(ResourceError, match="1 were"):
        wait_for_one(cluster, **values)
    assert seconds <= cluster.now < seconds + 3
    assert autoscaler.after_a_loss(scaling(**values)) == lost
    assert len(cluster.asked) == (2 if growing else 0)


def test_a_signal_ends_the_waiting(cluster):
    cluster.sleep = lambda seconds: os.kill(os.getpid(), signal.SIGTERM)  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match="SIGTERM"):
        wait_for_one(cluster)
    assert cluster.asked[-1] == []


def test_the_bundles_of_a_run():
    assert resources.bundles(Resources(2, 0, 0, False), "auto") == [{"CPU": 1.0}] * 2
    assert resources.bundles(Resources(9, 0, 4, False, (2, 9)), True) == [{"CPU": 4.0, "GPU": 1.0}] * 9
    assert resources.bundles(Resources(2, 3, 1, False), False) == [{"CPU": 3.0}] * 2


@pytest.mark.parametrize(
    ("v1", "v2", "growing"),
    [
        (None, set(), False),
        ({"node_aa"}, set(), False),  # an autoscaler that only reports
        (None, {""}, False),
        (None, {"node_aa"}, False),
        (set(), set(), True),
        ({"ray.head.default", "gpu"}, set(), True),
        (None, {"head", "gpu"}, True),
    ],
)
def test_an_autoscaler_is_recognised_by_the_types_of_its_nodes(monkeypatch, v1, v2, growing):
    ray = types.ModuleType("ray")
    ray.nodes = lambda: [{"NodeID": "aa", "Alive": True}]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(_ray_internals, "node_types_of_autoscaler_v1", lambda: v1)
    monkeypatch.setattr(_ray_internals, "node_types_of_autoscaler_v2", lambda: v2)
    assert autoscaler.grows() is growing


def test_the_first_autoscaler_reports_types(monkeypatch):
    report = {"autoscaler_report": {"active_nodes": {"head": 1, "gpu": 2}, "pending_nodes": []}}
    kv = types.ModuleType("ray.experimental.internal_kv")
    kv._internal_kv_get = lambda key: json.dumps(report).encode()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray.experimental.internal_kv", kv)
    assert _ray_internals.node_types_of_autoscaler_v1() == {"head", "gpu"}
    kv._internal_kv_get = lambda key: None  # type: ignore[attr-defined]
    assert _ray_internals.node_types_of_autoscaler_v1() is None


@dataclass(frozen=True)
class Base:
    """The part of a branch's plan on which its resources depend."""

    settings: Any
    resources: Resources


@dataclass(frozen=True)
class Planned:
    """The same part of a sweep's plan."""

    base: Base
    gpus_per_branch: float = 0.0
    branches: int = 9
    max_concurrent: int | None = None


def planned(use_gpu: Any = "auto", gpus: float = 0.0, workers: int = 0, address: str | None = "auto") -> Any:
    settings = SimpleNamespace(scaling=SimpleNamespace(use_gpu=use_gpu, address=address))
    return Planned(Base(settings, Resources(workers, 2, 2, bool(gpus))), gpus)


GPUS = [{"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}]


@pytest.mark.parametrize(
    ("options", "nodes", "gpus", "count"),
    [
        ({}, GPUS, 1.0, 2),
        ({"workers": 2}, GPUS, 1.0, 1),
        ({"workers": 3}, GPUS, 0.0, 2),  # three workers cannot have a GPU each
        ({"gpus": 0.25}, GPUS, 0.25, 8),
        ({"use_gpu": False}, GPUS, 0.0, 8),
        ({}, GPUS[:1], 0.0, 4),
        ({"address": None}, GPUS, 0.0, 8),  # on this machine the plan has decided it already
    ],
)
def test_a_sweep_takes_the_gpus_of_a_cluster(options, nodes, gpus, count):
    found = capacity.with_gpus(planned(**options), nodes)
    assert found.gpus_per_branch == gpus
    assert found.base.resources.use_gpu == bool(gpus)
    assert capacity.at_once(found, nodes) == count


def test_the_bundles_of_a_sweep():
    assert capacity.bundles(planned(), 3) == [{"CPU": 2.0}] * 3
    assert capacity.bundles(planned(gpus=0.5), 2) == [{"CPU": 1.0, "GPU": 0.5}] * 2
    assert capacity.bundles(planned(workers=2, gpus=1.0), 1) == [{"CPU": 2.0, "GPU": 1.0}] * 2
