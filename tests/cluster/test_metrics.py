"""Gauges for Prometheus: set with labels at every epoch of a run or a branch, and not at all without Ray."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

from raysweep.cluster import metrics
from raysweep.cluster.metrics import GAUGES, RECALL, Gauges
from raysweep.events import BranchEvent, EpochDone, ExperimentStarted, SweepStarted

ROW = {
    **{"train_loss": 1.5, "val_loss": 1.25, "val_acc": 0.75, "val_macro_f1": 0.5, "images_per_second": 700.0},
    **{"recall_cat": 0.875, "recall_no image": None},
}
EPOCH = EpochDone(3, ROW, best=True, save_seconds=0.25, blocked_seconds=0.001)


def sweep_of(name):
    return SweepStarted(name, (), 1, 3, 1, "", ())


def tell(it, sweep=None):
    if sweep:
        it(sweep_of(sweep))
    for event in (ExperimentStarted("base_20260101_000000", "", 0), EPOCH):
        it(BranchEvent("b", event) if sweep else event)


@pytest.fixture
def fake(monkeypatch):
    found = {}

    class Gauge:
        def __init__(self, name, description, tag_keys):
            assert description.endswith(".")
            self.name, self.keys = name, tag_keys

        def set(self, value, labels):
            assert set(labels) == set(self.keys)
            found[self.name, labels["experiment"], labels["sweep"], labels.get("class")] = value

    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)
    monkeypatch.setattr(metrics, "_connected", lambda: True)
    return found


@pytest.mark.parametrize("sweep", [None, "hunt_20260101_000001"])
def test_every_gauge_of_an_epoch_is_set_with_its_labels(fake, sweep):
    tell(Gauges(), sweep)
    assert {name for name, *_ in fake} == {*GAUGES, RECALL}
    assert {(e, s) for _, e, s, _ in fake} == {("base_20260101_000000", sweep or "")}
    here = "base_20260101_000000", sweep or ""
    assert fake["raysweep_epoch", *here, None] == 3
    assert fake["raysweep_val_accuracy", *here, None] == 0.75
    assert fake["raysweep_checkpoint_seconds", *here, None] == 0.25
    assert {c: v for (name, _, _, c), v in fake.items() if name == RECALL} == {"cat": 0.875}


def test_of_too_many_branches_only_the_first_are_shown(fake, monkeypatch):
    each = len(GAUGES) + 2
    monkeypatch.setattr(metrics, "MOST_SERIES", 3 * each + 1)
    it = Gauges()
    it(sweep_of("hunt"))
    for _ in range(2):  # the first ones stay shown
        fake.clear()
        for i in range(10):
            it(BranchEvent(f"b{i}", ExperimentStarted(f"e{i}", "", 0)))
            it(BranchEvent(f"b{i}", EPOCH))
        assert {e for _, e, _, _ in fake} == {"e0", "e1", "e2"}


def test_without_ray_no_gauge_is_created(monkeypatch):
    monkeypatch.setattr(metrics, "_connected", lambda: False)
    it = Gauges()
    tell(it)
    assert it.made == {}


def test_errors_of_metrics_are_ignored(monkeypatch):
    monkeypatch.setattr(metrics, "_connected", lambda: True)
    monkeypatch.setattr("ray.util.metrics.Gauge", lambda *a, **k: 1 / 0)
    tell(Gauges())


@pytest.mark.ray
def test_a_node_serves_the_gauges(ray_cluster):
    import ray

    tell(Gauges(), "hunt_20260101_000001")
    (node,) = [n for n in ray.nodes() if n["Alive"]]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 200
    while True:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=60) as answer:
            text = answer.read().decode()
        # The cluster also serves what other tests have trained on it.
        mine = 'experiment="base_20260101_000000"'
        lines = [line for line in text.splitlines() if line.startswith("ray_raysweep_") and mine in line]
        if len({line.partition("{")[0] for line in lines}) == len(GAUGES) + 1 or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert {line.partition("{")[0] for line in lines} == {f"ray_{name}" for name in [*GAUGES, RECALL]}
    (line,) = [line for line in lines if "val_accuracy" in line]
    assert 'sweep="hunt_20260101_000001"' in line
    assert re.search(r" 0\.75$", line)


def test_the_grafana_dashboard_shows_every_gauge_and_no_other():
    board = json.loads((Path(__file__).parents[2] / "configs" / "grafana" / "raysweep.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert sorted(e.partition("{")[0] for e in expressions) == sorted(f"ray_{name}" for name in [*GAUGES, RECALL])
    variables = {v["name"] for v in board["templating"]["list"]}
    used = {word for e in expressions for word in re.findall(r"\$\{?(\w+)", e)}
    assert used == {"sweep", "experiment"} <= variables
    assert len({(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]}) == len(board["panels"])
