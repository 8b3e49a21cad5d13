"""SIGKILL at random moments, half of them during a save: every training ends, after `continue`, with the undisturbed bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import forks
from tests.launch import kills

COUNT = int(os.environ.get("RAYSWEEP_KILLS", "3"))  # of the slow test; a release is tried with hundreds


def complete(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What came of each training: nothing is lost."""
    for row in rows:
        assert row["kills"] >= 1, row
        assert row["status"] == "finished", row
        assert row["problems"] == [], row
        assert row["temps"] == 0, row
        assert row["same"], row
    assert {r["within_save"] for r in rows} == {True, False}
    return rows


def test_killed_drivers_lose_nothing(tmp_path):
    """Two that train in their own process, without Ray; the ratio of each epoch is another one."""
    lines = forks.lines_of(kills.main, [str(tmp_path), "--plan", "driver,driver", "--treatments", "schedule,worst"])
    rows = complete([json.loads(line) for line in lines])
    assert [r["treatment"] for r in rows] == ["schedule", "worst"]


@pytest.mark.slow
@pytest.mark.timeout(240 + 30 * COUNT)
def test_killed_with_ratios_that_change_and_early_stops_they_end_with_the_same_bits(tmp_path):
    plan = ",".join(["driver"] * max(4, COUNT))
    lines = forks.lines_of(
        kills.main, [str(tmp_path), "--plan", plan, "--treatments", "proportional,patience,weights,encoded"]
    )
    rows = complete([json.loads(line) for line in lines])
    assert {r["treatment"] for r in rows} == {"proportional", "patience", "weights", "encoded"}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(900 + 90 * COUNT)
def test_killed_drivers_controllers_and_workers_lose_nothing(tmp_path):
    # In a process of its own, which has never seen the session's cluster.
    most = "4" if COUNT > 3 else "1"  # each time a cluster of workers starts again
    command = [sys.executable, "-m", "tests.launch.kills", str(tmp_path), "--count", str(COUNT), "--most", most]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (done.stderr[-2000:], [r for r in rows if not r["same"]])
    complete(rows)
    assert len(rows) == COUNT
    # Drivers without Ray are killed by default, in the test above.
    assert {r["kind"] for r in rows} == {"worker", "controller", "remote", *(["driver"] if COUNT > 3 else [])}
