"""Signals at random moments of a run and of a sweep; ``docs/reliability.md`` has the counts of a longer campaign."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = int(os.environ.get("RAYSWEEP_SIGNALS", "10"))  # a release is tried with hundreds


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(900 + 90 * COUNT)
@pytest.mark.parametrize(("kind", "share"), [("run", 0.8), ("sweep", 0.2)])
def test_a_signal_at_any_moment_ends_well(tmp_path, kind, share):
    count = round(COUNT * share)
    command = [
        sys.executable,
        "-m",
        "tests.launch.signals_at_random",
        str(tmp_path),
        "--kind",
        kind,
        "--count",
        str(count),
        "--forked",  # the campaign's programs load their libraries, too
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    rows = [json.loads(line) for line in done.stdout.splitlines()][1:]
    bad = "\n".join(json.dumps(r) for r in rows if not r["good"])
    assert not bad, f"{bad}\n{done.stderr[-2000:]}"
    assert len(rows) == count
