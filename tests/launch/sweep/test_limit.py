"""Nodes that join a cluster while a sweep or a hunt trains get its branches, and those that leave lose none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raysweep.plan.resources import Resources


@pytest.fixture
def nodes(monkeypatch):
    """The nodes of a cluster, one of one CPU at first; each look is later than the last one."""
    from raysweep.launch.sweep import limit

    found = [{"CPU": 1.0}]
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(limit, "node_resources", lambda: list(found))
    monkeypatch.setattr(limit.time, "monotonic", lambda: float(next(clock)))
    return found


def limited(most=3, workers=0):
    from raysweep.launch.sweep.limit import Limit

    return Limit(Resources(workers, 1, 1, False), 0.0, most, 1)


def test_as_many_branches_run_as_the_nodes_of_now_hold(nodes):
    from raysweep.launch.sweep.limit import Limit

    limit = limited()
    assert limit.change() is None
    nodes += [{"CPU": 1.0}, {"CPU": 8.0}]
    assert limit.change() == "The nodes of the cluster now hold 3 branches at once instead of 1."  # there are no more
    assert limit.change() is None
    nodes.clear()  # one waits for a node to come back
    assert limit.change() == "The nodes of the cluster now hold 1 branch at once instead of 3."
    nodes.append({"CPU": 5.0})
    assert limited(workers=2)() == 2
    assert Limit(Resources(0, 1, 1, False), 0.0, 3, 1, varies=False)() == 1  # this machine


def test_nobody_looks_at_the_nodes_at_every_question(nodes, monkeypatch):
    from raysweep.launch.sweep import limit

    found = limited()
    monkeypatch.setattr(limit.time, "monotonic", lambda: 1000.0)
    assert found() == 1
    nodes.append({"CPU": 1.0})
    assert found() == 1
    monkeypatch.setattr(limit.time, "monotonic", lambda: 1000.0 + limit.EVERY_S)
    assert found() == 2

    def gone():
        raise ConnectionError

    monkeypatch.setattr(limit.time, "monotonic", lambda: 2000.0)
    monkeypatch.setattr(limit, "node_resources", gone)
    assert found() == 2


@pytest.mark.parametrize("kind", ["grid", "search"])
def test_tune_gets_another_trial_when_a_node_has_joined(nodes, kind):
    from ray.tune.search import Searcher

    from raysweep.launch.sweep import limit

    class Search(Searcher):
        def suggest(self, trial_id):
            return {"branch": trial_id}

        def on_trial_complete(self, *_, **__):
            pass

    if kind == "grid":
        generator = limit.of_grid(limited())
        generator._trial_generator = iter([type("Trial", (), {"trial_id": name}) for name in "abcd"])
        another, ended = generator.next_trial, generator.on_trial_complete
    else:
        searcher = limit.of_search(Search(), limited())
        names = iter("abcdefgh")
        another, ended = lambda: searcher.suggest(next(names)), searcher.on_trial_complete
    assert another()
    assert another() is None
    nodes.append({"CPU": 1.0})
    assert another()
    assert another() is None
    nodes.pop()
    ended("a")
    assert another() is None  # one still runs, and one node is left


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_a_hunt_uses_a_node_that_joins_and_goes_on_when_another_leaves(tmp_path):
    """In a process of its own: the session's cluster neither grows nor shrinks."""
    command = [sys.executable, "-m", "tests.launch.joining", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["most"] == 2
    told = [text for text in found["notes"] if text.startswith("The nodes of the cluster now hold")]
    assert ["hold 2 branches at once instead of 1" in told[0], "hold 1 branch at once" in told[-1]] == [True, True]
    assert found["hunt"] == found["whole"]  # the same networks, survivors and bits
