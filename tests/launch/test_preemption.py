"""A preemption notice: a checkpoint at the next batch, INTERRUPTED in the log, and on to another node with the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from raysweep.cluster import _ray_internals, nodes
from raysweep.events import BranchEvent, BranchStarted
from raysweep.launch.sweep import branch as branches
from raysweep.launch.workers import retry
from raysweep.store.root import Root


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_a_training_leaves_a_node_that_is_taken_away(tmp_path):
    command = [sys.executable, "-m", "tests.launch.preemption", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    (told,) = found["told"]
    assert told.startswith("A preemption notice. Continuing from checkpoint_epoch_")
    events = [e for e in found["events"] if e["type"] != "INTERRUPTED"]
    assert [e["type"] for e in events] == [
        "EXPERIMENT_START",
        "CONTINUED",
        "FINISHED",
    ]  # it used up none of the retries: 0
    assert events[1]["reason"] == retry.PREEMPTED
    # Where a notice kills Ray's own controller before a rank has asked, nobody stops, and the last epoch is where it goes on.
    stopped = [e["reason"] for e in found["events"] if e["type"] == "INTERRUPTED"]
    assert len(stopped) <= 1
    assert all("Stopped by a preemption notice" in reason for reason in stopped)
    assert found["hashes"][0] == found["hashes"][1]


def test_notices_are_asked_for_seldom_and_never_forgotten(monkeypatch):
    asked: list[int] = []
    leaving: set[str] = set()

    def draining() -> set[str]:
        asked.append(1)
        return leaving

    monkeypatch.setattr(_ray_internals, "draining_nodes", draining)
    notices = nodes.Notices(["a", "b"])
    notices.asked = float("-inf")
    assert [notices.arrived() for _ in range(100)] == [False] * 100
    assert len(asked) == 1
    leaving = {"c", "b"}
    notices.asked = float("-inf")
    assert notices.arrived()
    leaving = set()
    notices.asked = float("-inf")
    assert notices.arrived()


def test_a_branch_on_a_node_that_is_taken_away_is_left_to_tune(monkeypatch):
    """Tune starts a branch again whose trainable raises; one that was stopped by the user ends without an error."""
    from raysweep.config.grid import Point
    from raysweep.errors import Interrupted

    class Ray:
        @staticmethod
        def get(value):
            return value

    class Mail:
        def __init__(self) -> None:
            self.events: list[dict] = []
            self.put = self
            self.begin = SimpleNamespace(remote=self.begun)

        def begun(self, branch):
            self.events.append(BranchEvent(branch, BranchStarted()))
            return None, False

        def remote(self, event):
            self.events.append(event)

    class Silent:
        reported = True

    monkeypatch.setitem(sys.modules, "ray", Ray)
    monkeypatch.setattr(branches, "BranchReporter", lambda *_: Silent())
    mail = Mail()
    shared = branches.Shared(Root.open("."), "", None, {"b": Point("b", {}, 0, False)}, None, mail, False)

    def stopped_by(reason: str):
        def train(*_):
            raise Interrupted("stopped", reason)

        return train

    monkeypatch.setattr(branches, "_train", stopped_by("SIGINT"))
    branches.train_branch({"branch": "b"}, shared)
    assert mail.events[-1].event.status == "interrupted"
    monkeypatch.setattr(branches, "_train", stopped_by(retry.PREEMPTED))
    with pytest.raises(Interrupted):
        branches.train_branch({"branch": "b"}, shared)
    assert mail.events[-1].event == BranchStarted()
