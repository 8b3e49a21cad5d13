"""Nodes that go without a word: every folder ends complete, with the samples, and where it can be the bits, of the undisturbed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raysweep.cluster.signals import StopFlag
from raysweep.errors import Interrupted, TrainingError
from raysweep.plan.resources import Resources


@pytest.fixture(scope="module")
def happened(tmp_path_factory) -> dict[str, Any]:
    """What node_loss tells, in a process of its own: the session's cluster loses no node."""
    command = [sys.executable, "-m", "tests.launch.node_loss", str(tmp_path_factory.mktemp("node_loss"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def types(of: dict[str, Any]) -> list[str]:
    return [e["type"] for e in of["events"]]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(1800)  # the first of the three does the work
def test_a_training_goes_on_when_another_node_joins_and_changes_no_bit(happened):
    found = happened["run"]
    run, whole = found["run"], found["whole"]
    assert types(run) == ["EXPERIMENT_START", "CONTINUED", "FINISHED"]
    assert len(found["warnings"]) == 1
    assert run["status"] == "finished"
    assert run["problems"] == []
    assert run["files"] == whole["files"]
    assert run["world_size"] == 2
    assert run["orders"] == whole["orders"]
    assert run["hash"] == whole["hash"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(1800)  # the first of the three does the work
def test_an_elastic_training_goes_on_with_fewer_and_shows_the_same_images(happened):
    found = happened["elastic"]
    run, whole = found["run"], found["whole"]
    assert types(run) == ["EXPERIMENT_START", "CONFIGURATION_CHANGE", "CONTINUED", "NOTE", "FINISHED"]
    assert run["events"][1]["changes"] == {"world_size": [2, 1]}
    assert run["events"][3]["text"] == "not bit-exact: 1 worker instead of 2"
    (told,) = found["warnings"]
    assert told.endswith("on 1 worker instead of 2.")
    assert run["problems"] == []
    assert run["files"] == whole["files"]
    assert run["world_size"] == 1
    assert run["orders"] == whole["orders"]
    assert run["hash"] != whole["hash"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(1800)  # the first of the three does the work
def test_a_sweep_that_loses_a_node_ends_as_if_it_had_not(happened):
    found = happened["sweep"]
    assert found["failed"] == {}
    assert set(found["branches"]) == {"control", "3=4", "3=2"}
    assert any("CONTINUED" in types(b) for b in found["branches"].values())
    for name, branch in found["branches"].items():
        whole = found["whole"][name]
        assert branch["status"] == "finished"
        assert branch["problems"] == []
        assert branch["files"] == whole["files"]
        assert branch["orders"] == whole["orders"]
        assert branch["hash"] == whole["hash"]


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    from raysweep.launch.workers import start as workers

    clock = Clock()
    monkeypatch.setattr(workers, "time", clock)
    return clock


ONE = {"CPU": 2.0}
FIXED, ELASTIC = Resources(2, 2, 2, False), Resources(2, 2, 1, False, (1, 3))
LOST = TrainingError("lost")
SECONDS = 60.0


def wait(fitted: Resources, reason: str | None = None) -> Resources:
    from raysweep.launch.workers import start as workers

    flag = StopFlag()
    flag.reason = reason
    return workers._once_it_fits(fitted, LOST, SECONDS, flag)


def there(monkeypatch: pytest.MonkeyPatch, clock: Clock, *looks: tuple[float, int, int]) -> None:
    """From each time on so many nodes answer, and so many others Ray only takes for living ones."""

    def answering() -> tuple[list[dict[str, float]], int]:
        _, nodes, silent = [look for look in looks if look[0] <= clock.now][-1]
        return [ONE] * nodes, silent

    from raysweep.launch.workers import start as workers

    monkeypatch.setattr(workers, "answering_nodes", answering)


def test_a_node_that_is_gone_gets_no_worker_while_ray_takes_it_for_a_living_one(monkeypatch, clock):
    from raysweep.launch.workers import start as workers

    there(monkeypatch, clock, (0, 1, 1), (3, 2, 1), (15, 2, 0))
    assert wait(FIXED) == FIXED
    assert clock.now == 15
    clock.now = 0
    there(monkeypatch, clock, (0, 2, 1))  # a node that answers Ray, but nobody else
    assert wait(FIXED) == FIXED
    assert workers.RAY_KNOWS_S < clock.now < workers.RAY_KNOWS_S + 3


def test_a_fixed_number_of_workers_waits_and_an_elastic_one_takes_what_there_is(monkeypatch, clock):
    there(monkeypatch, clock, (0, 1, 0))
    with pytest.raises(TrainingError, match="lost"):
        wait(FIXED)
    assert clock.now > SECONDS
    with pytest.raises(Interrupted, match="SIGTERM"):
        wait(FIXED, "SIGTERM")
    clock.now = 0
    assert wait(ELASTIC) == Resources(2, 1, 1, False, (1, 3))
    there(monkeypatch, clock, (0, 3, 0))  # others have come meanwhile
    assert wait(ELASTIC) == Resources(3, 2, 1, False, (1, 3))
    there(monkeypatch, clock, (0, 0, 0), (7, 1, 0))
    assert wait(ELASTIC).workers == 2
    assert clock.now == 7
