"""A root that a machine of the cluster does not see is refused before any training."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raysweep.cluster import shared_root
from raysweep.cluster.nodes import Node
from raysweep.errors import ResourceError
from raysweep.events import Event
from raysweep.launch import run as launching
from raysweep.plan import experiment as experiment_plan
from tests.conftest import small_settings


def node(name: str, host: str, address: str, **resources: float) -> Node:
    return Node(name, host, address, 0, resources)


HEAD = node("h", "head", "10.0.0.1")
NODES = [
    HEAD,
    node("a", "w1", "10.0.0.2", CPU=4.0),
    node("b", "w1", "10.0.0.2", CPU=4.0),  # a second one on the same machine
    node("c", "w1", "10.0.0.3", GPU=1.0),  # another machine of the same name
    node("d", "head", "10.0.0.1", CPU=2.0),
    node("e", "w2", "10.0.0.4"),  # nothing trains there
]


@pytest.fixture
def pretend(monkeypatch):
    """A driver on the head of NODES. Takes the other machines' answers; returns the questions: (node ids, probe file)."""
    asked: list[tuple[list[str], str]] = []
    monkeypatch.setattr(shared_root, "living_nodes", lambda: NODES)
    monkeypatch.setattr(shared_root, "own_machine", lambda nodes: ("head", "10.0.0.1"))

    def answer(answers: dict[str, str | None]) -> list[tuple[list[str], str]]:
        def ask(nodes: list[Node], probe: str, token: str) -> dict[str, str | None]:
            asked.append(([n.id for n in nodes], probe))
            assert Path(probe).read_text() == token
            return answers

        monkeypatch.setattr(shared_root, "_ask", ask)
        return asked

    return answer


def test_every_other_machine_with_cpus_or_gpus_is_asked_once_and_no_probe_is_left(pretend, tmp_path):
    told: list[Event] = []
    asked = pretend({"a": None, "c": None})
    shared_root.check(str(tmp_path / "root"), told.append)
    assert [names for names, _ in asked] == [["a", "c"]]
    assert list((tmp_path / "root" / ".raysweep").iterdir()) == []
    assert told == []


def test_a_machine_that_does_not_see_the_root_is_named_with_the_remedy(pretend, tmp_path):
    pretend({"a": None, "c": "that folder does not exist there"})
    with pytest.raises(ResourceError) as error:
        shared_root.check(str(tmp_path), lambda event: None)
    text = str(error.value)
    assert str(tmp_path) in text
    assert "w1 does not see what this machine writes there (that folder does not exist there)" in text
    assert "--root s3://bucket/prefix" in text
    assert "\n" not in text
    assert list((tmp_path / ".raysweep").iterdir()) == []


def test_a_machine_that_does_not_answer_is_reported_and_not_refused(pretend, tmp_path):
    told: list[Event] = []
    pretend({"a": None})
    shared_root.check(str(tmp_path), told.append)
    assert "w1 did not answer within 60 s" in told[0].text


def test_an_object_store_is_not_checked(pretend):
    assert pretend({"a": "no"}) == []
    shared_root.check("s3://bucket/prefix", lambda event: None)


def test_what_a_machine_finds(tmp_path):
    probe = tmp_path / "root" / ".raysweep" / "probe"
    assert shared_root.look(str(probe), "x", 0) == "that folder does not exist there"
    (tmp_path / "root").mkdir()
    assert shared_root.look(str(probe), "x", 0) == "a different folder has that path there"
    probe.parent.mkdir()
    probe.write_text("y")
    assert shared_root.look(str(probe), "x", 0) == "a different folder has that path there"
    assert shared_root.look(str(probe), "y", 0) is None
    if os.geteuid():  # root may write everywhere
        (tmp_path / "root").chmod(0o500)
        assert shared_root.look(str(probe), "y", 0) == "that folder is not writable there"


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_is_refused_before_it_makes_anything(ray_cluster, tmp_path, monkeypatch):
    """The cluster's only node counts as another machine here. It sees the same root at first, then a different one."""
    monkeypatch.setattr(shared_root, "own_machine", lambda nodes: None)
    monkeypatch.setattr(shared_root, "SEEN_S", 0.0)
    shared_root.check(str(tmp_path / "root"), lambda event: pytest.fail(str(event)))

    ask = shared_root._ask
    there = str(tmp_path / "other")
    monkeypatch.setattr(
        shared_root, "_ask", lambda m, probe, t: ask(m, probe.replace(str(tmp_path / "root"), there), t)
    )
    # Ray is connected, so the address is only looked at.
    settings = small_settings(tmp_path / "root", scaling={"num_workers": 1, "address": "auto"})
    with pytest.raises(ResourceError, match=r"that folder does not exist there"):
        launching.run(experiment_plan.plan_experiment(settings))
    assert list((tmp_path / "root").glob("small_*")) == []
