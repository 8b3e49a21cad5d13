"""Sweeps in processes of this machine, without Ray: the same bits, also where processes die and the driver is stopped or killed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import psutil
import pytest
import yaml

from raysweep.config import grid as grids
from raysweep.errors import ConfigError, Interrupted
from raysweep.events import BranchEnded, BranchEvent, BranchStarted, EpochDone, ExperimentStarted
from raysweep.plan import sweep as sweep_plan
from raysweep.plan.types import SweepRequest
from raysweep.store import resolve
from raysweep.store.root import Root
from tests.conftest import small_settings, weights_hash

GRID = {"weights": {"3": [4.0, 2.0]}, "seeds": [0], "epochs": 2}


def made(folder, **sections):
    """A parent of three epochs; its branches start from the first."""
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan

    settings = small_settings(
        folder / "experiments", **{"training": {"epochs": 3}, "experiment": {"name": "parent"}, **sections}
    )
    return launching.run(experiment_plan.plan_experiment(settings)).experiment


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return made(tmp_path_factory.mktemp("processes"))


def planned(parent, name, grid=GRID, **options):
    request = SweepRequest(
        parent.root, f"{parent.id}@1", grids.check(grid), name=name, **{"in_process": True, **options}
    )
    return sweep_plan.plan_sweep(request)


def hashes_alone(parent):
    """What each branch must be: the hash of the same child by itself."""
    from raysweep.launch import run as launching
    from raysweep.plan import child
    from raysweep.plan import parent as parents

    def hash_of(weights):
        found = parents.read_parent(parent.root, f"{parent.id}@1")
        plan = child.plan_child(found, parent.root, epochs=2, weights=weights, name="alone")
        return weights_hash(launching.run(plan).experiment)

    return {"control": weights_hash(parent), "3=4": hash_of({"3": 4.0}), "3=2": hash_of({"3": 2.0})}


@pytest.fixture(scope="module")
def alone(parent):
    return hashes_alone(parent)


# --- quickly: threads stand for the processes -----------------------------------------------------------------------------


@dataclass
class Thread:
    """Stands for a process: ``serve`` in a thread, which can end before it trains."""

    connection: Connection
    folder: Path
    dies: bool
    code: int = 0
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        from raysweep.launch.sweep import processes

        if self.dies:
            self.connection.recv()
            self.connection.close()
            self.code = -signal.SIGKILL
        else:
            processes.work(self.connection, self.folder)

    def wait(self) -> int:
        self.thread.join()
        return self.code


class Threads(list):
    """Takes the place of starting processes; the first ones die."""

    def __init__(self, deaths: int = 0) -> None:
        self.deaths = deaths

    def __call__(self, folder: Path, slot: int, gpu: str | None):
        from raysweep.launch.sweep import processes

        ours, theirs = Pipe()
        self.append(Thread(theirs, folder, dies=len(self) < self.deaths))
        return processes._Process(self[-1], ours, folder / "printed.txt")


@pytest.fixture
def threads(monkeypatch):
    from raysweep.launch import runner
    from raysweep.launch.sweep import driver, processes

    monkeypatch.setattr(runner, "derive", lambda *_: None)
    monkeypatch.setattr(driver, "write_effects", lambda *_: None)

    def use(deaths: int = 0) -> Threads:
        made = Threads(deaths)
        monkeypatch.setattr(processes, "_start", made)
        return made

    return use


def train(plan, progress=lambda _: None):
    from raysweep.launch.sweep import driver

    return driver.run(plan, progress)


def hashes(result):
    return {name: weights_hash(e) for name, e in result.experiments.items()}


def test_the_branches_have_the_bits_of_the_same_children(parent, alone, threads):
    started, events = threads(), []
    result = train(planned(parent, "quick", max_concurrent=1), events.append)
    assert hashes(result) == alone
    assert len(started) == 1  # one process trains one branch after another
    told = [type(e.event).__name__ for e in events if isinstance(e, BranchEvent) and e.branch == "3=4"]
    assert told[0] == BranchStarted.__name__
    assert told.count(EpochDone.__name__) == 2
    assert told[-1] == BranchEnded.__name__
    assert result.sweep.record().in_process
    assert {b.status for b in result.sweep.record().branches} == {"finished"}


def test_a_branch_whose_process_dies_is_trained_in_another(parent, alone, threads):
    started = threads(deaths=2)
    assert hashes(train(planned(parent, "died", max_concurrent=1))) == alone
    assert len(started) == 3


def test_a_branch_whose_processes_always_die_fails_and_the_others_do_not(parent, alone, threads):
    retries = parent.config().settings["scaling"]["max_failures"]
    threads(deaths=retries + 1)
    result = train(planned(parent, "dies", max_concurrent=1))
    assert set(result.failed) == {"control"}
    assert result.failed["control"].startswith("Its process was killed by SIGKILL. If it was memory: ")
    assert hashes(result) == {name: alone[name] for name in ("3=4", "3=2")}


def test_a_stop_lets_every_branch_save_and_continue_goes_on_without_ray(parent, alone, threads, monkeypatch):
    from raysweep.launch.sweep import processes, resume

    threads()
    should_stop = processes._Reporter.should_stop

    def patient(self):
        """Of a training that is so slow that the request to stop arrives in its first epoch."""
        assert select.select([self.driver], [], [], 60)[0]
        return should_stop(self)

    monkeypatch.setattr(processes._Reporter, "should_stop", patient)

    def stop(event):
        if isinstance(event, BranchEvent) and isinstance(event.event, ExperimentStarted):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="SIGTERM"):
        train(planned(parent, "stopped", max_concurrent=1), stop)
    sweep = resolve.find_sweep(Root.open(parent.root.path), "stopped")
    assert {b.name: b.status for b in sweep.record().branches} == {
        "control": "interrupted",
        "3=4": "missing",
        "3=2": "missing",
    }
    monkeypatch.setattr(processes._Reporter, "should_stop", should_stop)
    assert hashes(resume.continue_sweep(parent.root, "stopped")) == alone


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"address": "ray://x:1"}, "--address ray://x:1 needs"),
        ({"workers": 2}, "--workers 2 needs"),
        ({"grid": {**GRID, "scheduler": "asha"}}, "scheduler: asha needs"),
    ],
)
def test_what_needs_ray_is_refused_before_anything_is_made(parent, options, named):
    with pytest.raises(ConfigError, match=named):
        planned(parent, "refused", **options)
    assert not list((parent.root.path / "sweeps").glob("refused*"))


def test_each_process_sees_its_own_gpus():
    from raysweep.launch.sweep.processes import gpu_of

    assert [gpu_of(slot, 0.0) for slot in range(2)] == [None, None]
    assert [gpu_of(slot, 1.0) for slot in range(2)] == ["0", "1"]
    assert [gpu_of(slot, 0.3) for slot in range(4)] == ["0", "0", "0", "1"]
    assert [gpu_of(slot, 2.0) for slot in range(2)] == ["0,1", "2,3"]


@pytest.mark.parametrize(
    ("visible", "asked", "given"),
    [(None, "1", "1"), ("", "0,1", "0,1"), ("2,3", "1", "3"), ("3, 5,7", "0,2", "3,7"), ("MIG-a,GPU-b", "1", "GPU-b")],
)
def test_a_process_gets_only_gpus_that_the_user_left(monkeypatch, visible, asked, given):
    from raysweep.launch.sweep.processes import _of_mine

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert _of_mine(asked) == given


# --- with processes -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """A parent whose branches train for seconds, and what each branch must be."""
    parent = made(
        tmp_path_factory.mktemp("longer"),
        sampling={"samples_per_epoch": 8000},
        training={"epochs": 3, "batch_size": 50},
    )
    return parent, hashes_alone(parent)


def command(parent, tmp_path, name):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID))
    options = ["--weights-grid", str(tmp_path / "grid.yaml"), "--name", name, "--max-concurrent", "1", "--in-process"]
    return subprocess.Popen(
        [sys.executable, "-m", "raysweep", "branch", "--from", f"{parent.id}@1", *options, "--root", parent.root.path],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def until(process, start: str) -> None:
    for line in process.stderr:
        if line.startswith(start):
            return
    raise AssertionError(f"no line began with {start!r}")


def settled(parent, name):
    """The sweep, when no branch of it runs any more."""
    sweep = resolve.find_sweep(Root.open(parent.root.path), name)
    deadline = time.monotonic() + 120
    while any(e.status() == "running" for e in sweep.experiments().values()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return sweep


@pytest.mark.slow
def test_a_process_that_is_killed_is_replaced(longer, tmp_path):
    parent, alone = longer
    process = command(parent, tmp_path, "replaced")
    until(process, "control  epoch 2")
    (child,) = psutil.Process(process.pid).children()
    child.kill()
    process.stderr.read()
    assert process.wait() == 0
    sweep = settled(parent, "replaced")
    assert {n: weights_hash(e) for n, e in sweep.experiments().items()} == alone


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_driver_that_is_killed_or_interrupted_loses_nothing(longer, tmp_path, number):
    from raysweep.launch.sweep.resume import continue_sweep

    parent, alone = longer
    name = f"broken{int(number)}"
    process = command(parent, tmp_path, name)
    until(process, "3=4  epoch 2")
    children = psutil.Process(process.pid).children()
    process.send_signal(number)
    told = process.stderr.read()
    code = process.wait()
    sweep = settled(parent, name)
    with contextlib.suppress(psutil.NoSuchProcess):
        assert children[0].wait(120) is None  # it has noticed, saved and ended
    if number == signal.SIGINT:
        assert code == 130
        assert f"raysweep continue {sweep.id}" in told.strip().splitlines()[-1]
    assert {n: e.status() for n, e in sweep.experiments().items()} == {"control": "finished", "3=4": "interrupted"}
    continued = continue_sweep(Root.open(parent.root.path), name)
    assert hashes(continued) == alone
