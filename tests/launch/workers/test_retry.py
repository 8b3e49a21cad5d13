"""Lost processes: what is tried again and what is not; then, on real Ray, a hung rank, a kill too many, and memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from raysweep.cluster import nodes
from raysweep.errors import ConfigError, Interrupted, NonFiniteLossError, TrainingError
from raysweep.events import CheckpointSaved, Event, Note, RankDone, RankFailed
from raysweep.launch import run as launching
from raysweep.launch.workers import retry
from raysweep.launch.workers.retry import PREEMPTED, judge
from raysweep.plan import experiment as experiment_plan
from raysweep.store.experiment import Experiment
from raysweep.training.job import Job
from tests.cli.test_errors import config_file
from tests.conftest import small_settings, weights_hash
from tests.training.ranks import Ranks

DONE = RankDone(epochs=3, best_acc=0.5)
CLOSED = TrainingError("RuntimeError: [gloo/transport/tcp/pair.cc] Connection closed by peer")
LOST = RankFailed(0, CLOSED, lost_peer=True)
LATE = RankFailed(0, TrainingError("RuntimeError: [gloo] Timed out waiting 20000ms"), lost_peer=True)
OWN = RankFailed(1, TrainingError("ArithmeticError: unwell"), fatal=True)


class ActorDiedError(Exception):
    """As Ray's, which cannot be made without a cluster."""


class OutOfMemoryError(Exception):
    """As Ray's."""


class WorkerHealthCheckTimeoutError(Exception):
    """As Ray's."""


class GroupError(Exception):
    def __init__(self, **ranks: Exception) -> None:
        super().__init__("Training failed due to worker errors:\nmany words")
        self.worker_failures = {int(k[1:]): v for k, v in ranks.items()}


# What Ray 2.60 says of any killed actor.
DIED = ActorDiedError(
    "The actor died unexpectedly. Some common causes: (1) killed by the OOM killer due to high memory usage"
)


def verdict(said: list[RankDone | RankFailed], failure: Exception | None = None) -> retry.Verdict:
    return judge(said, failure, 20.0, "/logs")


def test_the_end_that_rank_0_tells_counts_whatever_ray_says_of_the_processes_afterwards():
    assert verdict([DONE]).ended == DONE
    assert verdict([DONE], GroupError(r1=DIED)).ended == DONE


@pytest.mark.parametrize("said", [[LOST, OWN], [OWN, LOST], [OWN]])
def test_an_error_of_the_program_is_raised_at_once_and_not_hidden_by_its_consequences(said):
    found = verdict(said, GroupError(r0=DIED, r1=ValueError("x")))
    assert isinstance(found.error, TrainingError)
    assert "unwell" in str(found.error)
    assert not found.retry


@pytest.mark.parametrize("kind", [ConfigError, NonFiniteLossError])
def test_errors_keep_their_kind(kind):
    found = verdict([RankFailed(0, kind("words"), fatal=True)])
    assert type(found.error) is kind
    assert not found.retry


@pytest.mark.parametrize(
    ("said", "failure", "words"),
    [
        ([], GroupError(r1=DIED), r"worker 1 died \(it was killed"),
        ([LOST], GroupError(r0=RuntimeError("Connection closed"), r1=DIED), "worker 1 died"),
        ([LOST], GroupError(r1=OutOfMemoryError("x")), "worker 1 was killed because its machine ran out of memory"),
        ([], GroupError(r0=WorkerHealthCheckTimeoutError()), "worker 0 did not answer"),
        ([], DIED, "Ray's train controller died"),
        ([LATE], None, "within 20 s .scaling.timeout_s"),
        ([LOST], GroupError(r0=RuntimeError("closed")), "worker 0 lost the others"),
        ([], GroupError(r1=ActorDiedError("its node has died")), "worker 1's node went away"),
        ([], None, "ended without a message"),
    ],
)
def test_lost_processes_are_tried_again_and_named(said, failure, words):
    found = verdict(said, failure)
    assert found.retry
    assert found.counts
    with pytest.raises(TrainingError, match=words):
        raise found.error or AssertionError


def test_only_an_out_of_memory_kill_is_called_so():
    assert "ran out of memory" not in verdict([], GroupError(r0=DIED)).reason
    assert retry.is_memory(MemoryError())
    assert retry.is_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert not retry.is_memory(RuntimeError("shapes differ"))


def test_a_preemption_notice_does_not_use_up_the_retries_and_a_signal_is_not_tried_again():
    found = verdict([RankFailed(0, Interrupted("stopped", PREEMPTED))])
    assert found.retry
    assert not found.counts
    found = judge([], DIED, 20.0, "/logs", leaving=True)  # nobody was left to tell that a notice had come
    assert found.retry
    assert not found.counts
    assert found.reason == PREEMPTED
    found = verdict([RankFailed(0, Interrupted("stopped", "SIGINT"))])
    assert isinstance(found.error, Interrupted)
    assert not found.retry


# --- real Ray ---------------------------------------------------------------------------------------------------------

SECTIONS = {
    "training": {"epochs": 3, "batch_size": 20},
    "checkpoint": {"every_n_batches": 5},
    "scaling": {"num_workers": 2, "threads": 1},
}


def signal_process(title: str, number: int) -> None:
    """Send a signal to one process of this session's Ray whose command says ``title``."""
    ours = {p.pid for p in psutil.Process().children(recursive=True)}
    found = [p for p in psutil.process_iter() if _command(p).startswith(f"ray::{title}") and _related(p, ours)]
    assert found, f"no process {title}"
    found[0].send_signal(number)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _related(process: psutil.Process, ours: set[int]) -> bool:
    try:
        return bool({p.pid for p in process.parents()} & ours)
    except psutil.Error:
        return False


def undisturbed(root: Path, ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> str:
    from raysweep.launch.workers import start as workers

    monkeypatch.setattr(workers, "in_this_process", lambda job, *_: ranks.train(job))
    settings = small_settings(root, **{**SECTIONS, "scaling": {"num_workers": 0, "threads": 1}})
    return weights_hash(launching.run(experiment_plan.plan_experiment(settings)).experiment)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
def test_a_rank_that_hangs_is_given_up_and_changes_no_bit(ray_cluster, two_ranks, tmp_path, monkeypatch):
    """Killed workers and controllers are the business of test_kills."""
    from raysweep.launch.workers import start as workers

    plan = experiment_plan.plan_experiment(small_settings(tmp_path / "broken", **SECTIONS))
    stopped: list[int] = []
    told: list[str] = []
    run = workers.attempt.run

    def patient(job: Job, *arguments: object) -> object:
        """Only the attempt whose rank hangs has a short time: on a busy machine all of them may be silent for long."""
        scaling = job.settings.scaling.model_copy(update={"timeout_s": 200.0 if stopped else 15.0})
        return run(replace(job, settings=job.settings.model_copy(update={"scaling": scaling})), *arguments)

    def progress(event: Event) -> None:
        if isinstance(event, CheckpointSaved) and not stopped:
            stopped.append(len(told))  # a machine may be so busy that an attempt before this one was given up, too
            signal_process("RayTrainWorker", signal.SIGSTOP)
        if isinstance(event, Note) and not event.inexact:
            told.append(event.text)

    monkeypatch.setattr(workers.attempt, "run", patient)
    experiment = launching.run(plan, progress).experiment
    assert experiment.status() == "finished"
    (text,) = told[stopped[0] :]
    assert "did not answer" in text
    events = [json.loads(line) for line in (experiment.folder / "lineage.jsonl").read_text().splitlines()]
    assert [e["type"] for e in events] == ["EXPERIMENT_START", *["CONTINUED"] * len(told), "FINISHED"]
    assert weights_hash(experiment) == undisturbed(tmp_path / "whole", two_ranks, monkeypatch)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.ray
def test_as_many_failures_as_allowed_and_no_more(ray_cluster, tmp_path):
    sections = {**SECTIONS, "scaling": {**SECTIONS["scaling"], "max_failures": 0}}
    plan = experiment_plan.plan_experiment(small_settings(tmp_path, **sections))
    killed: list[int] = []

    def progress(event: Event) -> None:
        if isinstance(event, CheckpointSaved) and not killed:
            killed.append(1)
            signal_process("RayTrainWorker", signal.SIGKILL)

    with pytest.raises(TrainingError, match=r"Training on workers failed: worker . (died|lost)"):
        launching.run(plan, progress)
    (folder,) = tmp_path.glob("small_*")
    experiment = Experiment(folder)
    assert experiment.status() == "failed"
    good, problems = experiment.newest_good()
    assert good is not None
    assert not problems


@pytest.mark.slow
@pytest.mark.ray
def test_a_kill_because_memory_ran_out_is_called_so(tmp_path):
    """Ray's own memory monitor, told that one byte in a hundred is too much."""
    config = config_file(tmp_path, scaling={"num_workers": 1, "threads": 1, "max_failures": 0})
    command = [sys.executable, "-m", "raysweep", "run", str(config), "--root", str(tmp_path / "experiments")]
    environment = os.environ | {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 1, done.stderr
    assert "ran out of memory" in done.stderr
    assert "smaller training.batch_size" in done.stderr


def test_the_driver_knows_when_ray_takes_a_node_away(ray_cluster):
    assert nodes.Notices(["of another cluster"]).arrived() is False
    assert len(nodes.node_resources()) == 1


class ControllerError(Exception):
    """As Ray's, which wraps what its controller raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("Training failed due to controller error:\nmany words")
        self.controller_failure = cause


@pytest.mark.parametrize("wrap", [lambda e: e, ControllerError])
@pytest.mark.parametrize("cause", [UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range(128)"), TypeError("x")])
def test_a_mistake_would_happen_again(wrap, cause):
    found = verdict([], wrap(cause))
    assert not found.retry
    assert str(found.error) == f"Training on workers failed: {type(cause).__name__}: {cause}."
    assert verdict([], wrap(ConnectionError("x"))).retry  # no mistake of anybody
    assert verdict([LOST], wrap(cause)).retry  # what a lost rank explains
