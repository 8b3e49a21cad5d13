"""A root on an object store, by the command line: run, kill, continue on another machine, branch, list, report."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raysweep.launch import run as launching
from raysweep.plan import experiment as experiment_plan
from raysweep.store import layout, resolve
from raysweep.store.remote import root as remote
from tests.conftest import small_settings, weights_hash
from tests.launch import elsewhere
from tests.store.remote.objectstore import Server, serving

SECTIONS: dict[str, Any] = {"training": {"epochs": 8, "batch_size": 20}, "checkpoint": {"every_n_batches": 7}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "machines") as found:
        yield found


def command(server: Server, machine: str, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    """``raysweep …`` on one of the machines."""
    environment = os.environ | {"RAYSWEEP_CACHE": str(server.folder / machine), "RAYSWEEP_ROOT": server.root()}
    return subprocess.Popen(
        [sys.executable, "-m", "raysweep.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **more,
    )


def done(process: subprocess.Popen[str]) -> str:
    """What it printed, once it has ended well."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    return out


def configuration(folder: Path, name: str, root: str) -> Path:
    path = folder / f"{name}.json"  # JSON is YAML
    values = small_settings(Path("x"), **SECTIONS).model_dump(mode="json", exclude_unset=True)
    path.write_text(json.dumps({**values, "experiment": {"name": name}, "root": root}))
    return path


@pytest.mark.ray
def test_run_kill_continue_elsewhere_branch_list_and_report(server, tmp_path):
    whole = launching.run(experiment_plan.plan_experiment(small_settings(tmp_path / "whole", **SECTIONS))).experiment
    file = str(configuration(tmp_path, "base", server.root()))

    running = command(server, "first", "run", file)
    assert running.stderr is not None
    for line in running.stderr:
        if "epoch  2/8" in line:
            break
    time.sleep(random.uniform(0, 0.5))
    running.send_signal(signal.SIGKILL)
    running.communicate()
    (row,) = json.loads(done(command(server, "second", "list", "--json")))
    assert row["status"] == "crashed"
    assert 1 <= row["epochs_done"] < 8

    assert done(command(server, "second", "continue", "base")).strip() == row["path"]
    (row,) = json.loads(done(command(server, "third", "list", "--json")))
    assert (row["status"], row["epochs_done"]) == ("finished", 8)
    assert done(command(server, "third", "verify")).count(": intact") >= 8
    with server.machine("third"):
        experiment = resolve.find_experiment(remote.open_root(server.root()), "base")
        assert weights_hash(experiment) == weights_hash(whole)
        # The logs tell of one writer after the other.
        events = [json.loads(line)["type"] for line in server.content(f"{row['id']}/{layout.LINEAGE}").splitlines()]
        assert events == ["EXPERIMENT_START", "CONTINUED", "FINISHED"]

    grid = tmp_path / "grid.json"
    grid.write_text(json.dumps({"epochs": 1, "weights": {"8": [1.0, 3.0]}}))
    sweep = done(command(server, "third", "branch", "--from", "base@4", "--weights-grid", str(grid))).splitlines()[0]
    assert sweep.startswith("s3://bucket/team/experiments/sweeps/base-sweep_")
    assert remote.address(sweep) == sweep
    rows = json.loads(done(command(server, "second", "list", "--json")))
    assert sorted((r["status"], r["epochs_done"], r["control"]) for r in rows[1:]) == [
        ("finished", 5, False),
        ("finished", 5, True),
    ]
    assert {r["parent"]["file"] for r in rows[1:]} == {f"{row['path']}/checkpoint_epoch_4.pt"}
    control = next(r for r in rows if r["control"])
    with server.machine("fourth"):  # the control goes on as the parent did
        root = remote.open_root(server.root())
        entry = resolve.find_experiment(root, control["id"]).entries()[0]
        assert entry.metrics["val_loss"] == resolve.find_experiment(root, "base").entries()[4].metrics["val_loss"]
    page = tmp_path / "report.html"
    done(command(server, "second", "report", "base-sweep", "-o", str(page)))
    assert control["id"] in page.read_text()
    assert str(server.folder) not in page.read_text()  # where a copy lies is nobody's business
    assert "<html" in server.content(f"{sweep.partition('experiments/')[2]}/{layout.PAGE}").decode()
    assert control["id"] in done(command(server, "second", "lineage"))
    assert f"\n{rows[2 if rows[1]['control'] else 1]['branch']}\t" in done(
        command(server, "second", "compare", "base-sweep")
    )


@pytest.mark.parametrize("verb", [["run"], ["list"], ["continue", "base"], ["resume", "--from", "base@1"]])
def test_a_bucket_that_is_not_there_is_told_in_one_paragraph(server, tmp_path, verb):
    root = server.root(bucket="missing-one")
    if verb == ["run"]:
        verb = ["run", str(configuration(tmp_path, "base", root))]
    process = command(server, "first", *verb, "--root", root)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert out == ""
    assert "error: s3://missing-one/team/experiments" in err
    assert "there is no bucket missing-one. Make it" in err
    assert "Traceback" not in err


@pytest.mark.ray
def test_workers_and_branches_on_another_machine_write_where_the_driver_reads(server, tmp_path):
    sections = elsewhere.SECTIONS | {"scaling": {"num_workers": 0, "threads": 1}}
    whole = launching.run(experiment_plan.plan_experiment(small_settings(tmp_path / "whole", **sections))).experiment
    process = subprocess.run(
        [sys.executable, "-m", "tests.launch.elsewhere", str(tmp_path / "nodes"), server.root()],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=Path(__file__).parents[2],
    )
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout.splitlines()[-1])
    assert found["failed"] == {}
    assert found["events"] == ["EXPERIMENT_START", "FINISHED"]
    assert {"checkpoint_epoch_3.pt", layout.BEST, layout.HISTORY_PNG, layout.PREDICTIONS} <= set(found["files"])
    assert found["control"] == found["parent"]
    assert found["hash"] == weights_hash(whole)
    assert found["rows"] == 2
    assert found["copies"] == ["driver", "node"]  # it was another machine
