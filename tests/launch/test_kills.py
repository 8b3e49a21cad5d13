"""SIGKILL at random moments, half of them during a save: every training ends, after `continue`, with the undisturbed bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COUNT = int(os.environ.get("RAYSWEEP_KILLS", "4"))  # of the slow test; a release is tried with hundreds


def rows_of(folder: Path, *options: str) -> list[dict[str, Any]]:
    """What came of each training, in a process of its own, since it forks."""
    command = [sys.executable, "-m", "tests.launch.kills", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (done.stderr[-2000:], [r for r in rows if not r["same"]])
    for row in rows:
        assert row["kills"] >= 1, row
        assert row["status"] == "finished", row
        assert row["problems"] == [], row
        assert row["temps"] == 0, row
        assert row["same"], row
    assert {r["within_save"] for r in rows} == {True, False}
    return rows


def test_killed_drivers_lose_nothing(tmp_path):
    """Two that train in their own process, without Ray."""
    rows = rows_of(tmp_path, "--plan", "driver,driver")
    assert [r["kind"] for r in rows] == ["driver", "driver"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(240 + 30 * COUNT)
def test_killed_drivers_controllers_and_workers_lose_nothing(tmp_path):
    rows = rows_of(tmp_path, "--count", str(COUNT))
    assert len(rows) == COUNT
    assert {r["kind"] for r in rows} == {"driver", "worker", "controller", "remote"}
