"""A root on an object store, by the command line: run, kill, continue on another machine, branch, list, report."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raysweep.errors import RaysweepError
from raysweep.launch import run as launching
from raysweep.plan import experiment as experiment_plan
from raysweep.store import catalog, layout, lineage, resolve
from raysweep.store.root import Root
from raysweep.training.job import Job, Outcome
from tests.cli.test_errors import run_cli
from tests.conftest import Recorder, small_settings, weights_hash
from tests.launch import elsewhere
from tests.store.remote.between import Between, Request, every
from tests.store.remote.objectstore import BUCKET, Server, emptied

SECTIONS: dict[str, Any] = {"training": {"epochs": 8, "batch_size": 20}, "checkpoint": {"every_n_batches": 7}}


@pytest.fixture
def server(s3_port: int, tmp_path: Path) -> Iterator[Server]:
    with emptied(s3_port, tmp_path / "machines") as found:
        yield found


@pytest.fixture
def on(server: Server, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command, as if in a process on one of the machines; returns what it printed, once it has ended well."""

    def go(machine: str, *arguments: object) -> str:
        with server.machine(machine):
            code, out, err = run_cli(capsys, *arguments, "--root", server.root())
        assert code == 0, err[-3000:]
        return out

    return go


def configuration(folder: Path, name: str, root: str) -> Path:
    path = folder / f"{name}.json"  # JSON is YAML
    values = small_settings(Path("x"), **SECTIONS).model_dump(mode="json", exclude_unset=True)
    path.write_text(json.dumps({**values, "experiment": {"name": name}, "root": root}))
    return path


def killed_after_an_epoch(server: Server, machine: str, file: Path) -> None:
    """A run in a process of its own, which gets SIGKILL in its third epoch or later."""
    running = subprocess.Popen(
        [sys.executable, "-m", "raysweep", "run", str(file), "--root", server.root()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"RAYSWEEP_CACHE": str(server.folder / machine)},
    )
    assert running.stderr is not None
    for line in running.stderr:
        if "epoch  2/" in line:
            break
    time.sleep(random.uniform(0, 0.5))
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert running.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.ray
def test_run_kill_continue_elsewhere_branch_list_and_report(ray_cluster, server, on, tmp_path):
    whole = launching.run(experiment_plan.plan_experiment(small_settings(tmp_path / "whole", **SECTIONS))).experiment
    killed_after_an_epoch(server, "first", configuration(tmp_path, "base", server.root()))
    (row,) = json.loads(on("second", "list", "--json"))
    assert row["status"] == "crashed"
    assert 1 <= row["epochs_done"] < 8

    assert on("second", "continue", "base").strip() == row["path"]
    (row,) = json.loads(on("third", "list", "--json"))
    assert (row["status"], row["epochs_done"]) == ("finished", 8)
    assert on("third", "verify").count(": intact") >= 8
    with server.machine("third"):
        experiment = resolve.find_experiment(Root.open(server.root()), "base")
        assert weights_hash(experiment) == weights_hash(whole)
        # The logs tell of one writer after the other.
        events = [json.loads(line)["type"] for line in server.content(f"{row['id']}/{layout.LINEAGE}").splitlines()]
        assert events == ["EXPERIMENT_START", "CONTINUED", "FINISHED"]

    # The session's Ray workers are another machine, too: they have the cache of the session.
    grid = tmp_path / "grid.json"
    grid.write_text(json.dumps({"epochs": 1, "weights": {"8": [1.0, 3.0]}}))
    sweep = on("third", "branch", "--from", "base@4", "--weights-grid", grid).splitlines()[0]
    assert sweep.startswith("s3://bucket/team/experiments/sweeps/base-sweep_")
    assert Root.address_of(sweep) == sweep
    rows = json.loads(on("second", "list", "--json"))
    assert sorted((r["status"], r["epochs_done"], r["control"]) for r in rows[1:]) == [
        ("finished", 5, False),
        ("finished", 5, True),
    ]
    assert {r["parent"]["file"] for r in rows[1:]} == {f"{row['path']}/checkpoint_epoch_4.pt"}
    control = next(r for r in rows if r["control"])
    with server.machine("fourth"):  # the control goes on as the parent did
        root = Root.open(server.root())
        entry = resolve.find_experiment(root, control["id"]).entries()[0]
        assert entry.metrics["val_loss"] == resolve.find_experiment(root, "base").entries()[4].metrics["val_loss"]
    page = tmp_path / "report.html"
    on("second", "report", "base-sweep", "-o", page)
    assert control["id"] in page.read_text()
    assert str(server.folder) not in page.read_text()  # where a copy lies is nobody's business
    assert "<html" in server.content(f"{sweep.partition('experiments/')[2]}/{layout.PAGE}").decode()
    assert control["id"] in on("second", "lineage")
    branch = rows[2 if rows[1]["control"] else 1]["branch"]
    assert f"\n{branch}\t" in on("second", "compare", "base-sweep")


@pytest.mark.parametrize("verb", [["run"], ["list"], ["continue", "base"], ["resume", "--from", "base@1"]])
def test_a_bucket_that_is_not_there_is_told_in_one_paragraph(server, tmp_path, capsys, verb):
    root = server.root(bucket="missing-one")
    if verb == ["run"]:
        verb = ["run", str(configuration(tmp_path, "base", root))]
    with server.machine("first"):
        code, out, err = run_cli(capsys, *verb, "--root", root)
    assert code == 2
    assert out == ""
    assert "error: s3://missing-one/team/experiments" in err
    assert "there is no bucket missing-one. Create it" in err
    assert "Traceback" not in err


def test_a_job_on_another_machine_writes_where_the_driver_reads(server, tmp_path, monkeypatch):
    """The job travels as it does to Ray's workers, and is trained where everything has another copy."""
    from raysweep.launch.workers import start as workers
    from raysweep.launch.workers import transport
    from raysweep.training.loop import train

    whole = launching.run(
        experiment_plan.plan_experiment(small_settings(tmp_path / "whole", **elsewhere.SECTIONS))
    ).experiment

    def sent(job: Job, *_: object) -> Outcome:
        travelling = pickle.dumps(transport.portable(job))
        with server.machine("node"):
            outcome = train(transport.arrived(pickle.loads(travelling)), Recorder())
        Root.at(Path(job.folder).parent).refresh(Path(job.folder))
        return outcome

    monkeypatch.setattr(workers, "in_this_process", sent)
    with server.machine("driver"):
        run = launching.run(
            experiment_plan.plan_experiment(small_settings(server.root(), **elsewhere.SECTIONS))
        ).experiment
        assert [e.type for e in lineage.read(run.folder)] == ["EXPERIMENT_START", "FINISHED"]
        files = {p.name for p in run.folder.iterdir()}
        assert {"checkpoint_epoch_3.pt", layout.BEST, layout.HISTORY_PNG, layout.PREDICTIONS} <= files
        assert weights_hash(run) == weights_hash(whole)
    assert sorted(p.name for p in server.folder.iterdir()) == ["driver", "node"]  # it was another machine


@pytest.mark.slow
@pytest.mark.long
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


def continued_elsewhere(server: Server, name: str, reference: str) -> str:
    """Finish an experiment on another machine, where it is not known whether its writer lives; returns its weights' hash."""
    from raysweep.launch import resume

    with server.elsewhere(f"next {name}"):
        root = Root.open(server.root(name))
        done = resume.continue_experiment(root, reference, steal=True).experiment
        assert [(e.epoch, e.verify(done.folder)) for e in done.entries()] == [(1, None), (2, None)]
        assert done.status() == "finished"
        assert [e.seq for e in lineage.read(done.folder)] == list(range(1, len(lineage.read(done.folder)) + 1))
        return weights_hash(done)


TWO_EPOCHS: dict[str, Any] = {"training": {"epochs": 2, "batch_size": 20}, "checkpoint": {"every_n_batches": 7}}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_whichever_request_of_a_run_fails_it_is_named_and_the_bits_are_the_same(server, tmp_path, monkeypatch):
    from raysweep.store.remote import bucket
    from tests.store.remote.test_faults import KINDS, Fault

    monkeypatch.setattr(bucket, "_ATTEMPTS", 1)
    monkeypatch.setattr(bucket, "_REPEATS", 0)
    whole = weights_hash(
        launching.run(experiment_plan.plan_experiment(small_settings(tmp_path / "whole", **TWO_EPOCHS))).experiment
    )
    step = every(24)
    at, failed = random.randrange(1, step + 1), set()
    while True:
        name, kind, error = f"run{at}", KINDS[at // step % len(KINDS)], None
        with Between(server.port) as between, server.machine(f"first {name}"):
            fault = Fault(between, at, kind)
            settings = small_settings(server.root(name, port=between.port), **TWO_EPOCHS)
            try:
                launching.run(experiment_plan.plan_experiment(settings))
            except RaysweepError as found:
                error = found
        if not fault.failed:
            break
        failed.add(fault.failed)
        part = fault.failed.partition(" ")[2]
        if error is not None:  # else it was something without which a run ends well: a picture, a tracker, an old file
            assert part in str(error) or part == "bucket", (at, kind, fault.failed, str(error))
        with server.machine(f"looking {name}"):
            there = [e.id for e in catalog.experiments(Root.open(server.root(name)))]
        if there:
            assert continued_elsewhere(server, name, there[0]) == whole, (at, kind, fault.failed)
        else:
            assert not [k for k in server.all_keys() if k.startswith(f"{name}/") and k.endswith(layout.MANIFEST)]
        at += step
    assert at > 100
    assert len(failed) > 100 // step / 5


@pytest.mark.slow
@pytest.mark.parametrize("nth", [0, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 2, 3))])
def test_a_run_that_stood_still_and_lost_its_lock_changes_nothing(server, tmp_path, nth):
    """It stops at one of its requests, is taken over, and goes on after the other has finished."""
    whole = weights_hash(
        launching.run(experiment_plan.plan_experiment(small_settings(tmp_path / "whole", **TWO_EPOCHS))).experiment
    )
    at, asleep, wake = random.randrange(25, 75), threading.Event(), threading.Event()

    def sleeping(request: Request) -> None:
        if request.number == at:
            asleep.set()
            assert wake.wait(240)

    with Between(server.port) as between:
        setattr(between, random.choice(["decide", "after"]), sleeping)
        file = tmp_path / "base.json"
        values = small_settings(Path("x"), **TWO_EPOCHS).model_dump(mode="json", exclude_unset=True)
        file.write_text(json.dumps({**values, "experiment": {"name": "base"}}))
        running = subprocess.Popen(
            [sys.executable, "-m", "raysweep", "run", str(file), "--root", server.root("x", between.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"RAYSWEEP_CACHE": str(server.folder / "first")},
        )
        assert asleep.wait(240)
        assert continued_elsewhere(server, "x", "base") == whole
        before = {k: server.client.head_object(Bucket=BUCKET, Key=k)["ETag"] for k in server.all_keys()}
        wake.set()
        _, told = running.communicate(timeout=240)
    assert running.returncode == 2, (at, told[-3000:])
    assert "This process stops writing" in told
    assert "Traceback" not in told
    after = {k: server.client.head_object(Bucket=BUCKET, Key=k)["ETag"] for k in server.all_keys()}
    assert before.items() <= after.items(), at
    # A new checkpoint that was on its way while the other finished is there, but was never committed.
    (manifest,) = [k for k in before if k.endswith(layout.MANIFEST)]
    listed = server.client.get_object(Bucket=BUCKET, Key=manifest)["Body"].read().decode()
    for key in after.keys() - before.keys():
        assert re.search(r"/checkpoint_epoch_[0-9]+(_batch_[0-9]+)?\.pt$", key), (at, key)
        assert Path(key).name not in listed
