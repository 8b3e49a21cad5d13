"""The loop around attempts on Ray workers, with attempts that train without Ray: quick twins of what test_recovery,
test_node_loss, test_preemption and test_signals do on real clusters."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raysweep.cluster import _ray_internals
from raysweep.cluster.signals import StopFlag
from raysweep.errors import Interrupted, TrainingError
from raysweep.events import Event, Note, RankDone, RankFailed, RankStarted
from raysweep.launch import run as launching
from raysweep.launch.resume import continue_experiment
from raysweep.launch.workers import retry
from raysweep.launch.workers.retry import Verdict
from raysweep.plan import experiment as experiment_plan
from raysweep.plan.resources import Resources
from raysweep.store import lineage
from raysweep.store.experiment import Experiment
from raysweep.store.root import Root
from raysweep.training.job import Job
from tests.conftest import Recorder, small_settings, weights_hash

SECTIONS = {
    "training": {"epochs": 3, "batch_size": 100},  # five batches an epoch
    "model": {"options": {"widths": [4, 4, 8, 8], "dropout": 0.3}},  # so that the generators' states count
    "checkpoint": {"every_n_batches": 2},
}
BATCHES = 5
ONE, TWO, ELASTIC = Resources(1, 1, 1, False), Resources(2, 1, 1, False), Resources(2, 1, 1, False, (1, 2))
LOST = Verdict(error=TrainingError("Training on workers failed: worker 1 died."), retry=True, reason="worker 1 died")
LEAVING = Verdict(
    error=Interrupted("Stopped by a preemption notice.", retry.PREEMPTED),
    retry=True,
    counts=False,
    reason=retry.PREEMPTED,
)


class Killed(BaseException):
    """Ends a training as SIGKILL does: nothing more is committed."""


class Dies(Recorder):
    """A reporter whose training is gone after so many batches."""

    def should_stop(self) -> str | None:
        if super().should_stop() is not None:
            raise Killed
        return None


Attempt = Callable[[Job, StopFlag], Verdict]


def ended(job: Job, flag: StopFlag) -> Verdict:
    """The attempt trains to the end."""
    from raysweep.training.loop import train

    outcome = train(job, Recorder())
    return Verdict(ended=RankDone(outcome.epochs, outcome.best_acc))


def killed(after: int, verdict: Verdict = LOST) -> Attempt:
    """The attempt ends without a word after so many batches."""

    def attempt(job: Job, flag: StopFlag) -> Verdict:
        from raysweep.training.loop import train

        with contextlib.suppress(Killed):
            train(job, Dies(after))
        return verdict

    return attempt


class Cluster:
    """Ray as far as the loop sees it: the attempts it will make in turn, and the nodes that are left."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.nodes = [{"CPU": 1.0}, {"CPU": 1.0}]
        self.tidied = 0

    def run(self, job: Job, fitted: Resources, progress: Any, ask: Any, flag: StopFlag) -> Any:
        return self.attempts.pop(0)(job, flag), None

    def tidy(self) -> None:
        self.tidied += 1


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    from raysweep.launch.workers import attempt, start

    made = Cluster()
    monkeypatch.setattr(attempt, "run", made.run)
    monkeypatch.setattr(start, "answering_nodes", lambda: (made.nodes, 0))
    monkeypatch.setattr(start, "remove_leftovers", made.tidy)
    return made


@pytest.fixture
def run(ray: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a small experiment "on workers" by these attempts; returns it, and the warnings that were told."""
    from raysweep.launch.workers import start as workers

    def go(*attempts: Attempt, resources: Resources = ONE, **scaling: Any) -> tuple[Experiment, list[str]]:
        ray.attempts = list(attempts)
        told: list[Event] = []
        monkeypatch.setattr(workers, "session", lambda settings, wanted, progress: contextlib.nullcontext(resources))
        settings = small_settings(tmp_path / "experiments", **SECTIONS, scaling={"num_workers": 1, **scaling})
        experiment = launching.run(experiment_plan.plan_experiment(settings), told.append).experiment
        assert ray.attempts == []
        return experiment, [e.text for e in told if isinstance(e, Note)]

    return go


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    from raysweep.launch.workers import start as workers
    from raysweep.training.loop import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "in_this_process", lambda job, *_: train(job, Recorder()))
        return launching.run(
            experiment_plan.plan_experiment(small_settings(tmp_path_factory.mktemp("whole"), **SECTIONS))
        ).experiment


def the_one(root: Path) -> Experiment:
    (folder,) = (root / "experiments").glob("small_*")
    return Experiment(folder)


def types(experiment: Experiment) -> list[str]:
    return [e.type for e in lineage.read(experiment.folder)]


def orders(experiment: Experiment) -> list[str]:
    return [e.metrics["order_sha256"] for e in experiment.entries() if e.batch is None]


def test_a_lost_worker_costs_what_was_trained_since_the_newest_checkpoint_and_no_bit(run, ray, undisturbed):
    experiment, warnings = run(killed(BATCHES + 3), ended)
    assert types(experiment) == ["EXPERIMENT_START", "CONTINUED", "FINISHED"]
    continued = lineage.read(experiment.folder)[1].fields
    assert continued["reason"] == "worker 1 died"
    assert continued["checkpoint"] == "checkpoint_epoch_2_batch_2.pt"
    assert warnings == ["Worker 1 died. Continuing from checkpoint_epoch_2_batch_2.pt."]
    assert ray.tidied == 1
    assert experiment.status() == "finished"
    assert [p for e in experiment.entries() if (p := e.verify(experiment.folder))] == []
    assert weights_hash(experiment) == weights_hash(undisturbed)
    assert orders(experiment) == orders(undisturbed)


def test_before_the_first_checkpoint_it_begins_anew(run, undisturbed):
    experiment, warnings = run(killed(1), ended)
    assert warnings == ["Worker 1 died. Continuing from the start."]
    assert weights_hash(experiment) == weights_hash(undisturbed)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(run, undisturbed):
    def damages(job: Job, flag: StopFlag) -> Verdict:
        killed(BATCHES + 3)(job, flag)
        newest = Path(job.folder) / "checkpoint_epoch_2_batch_2.pt"
        newest.write_bytes(newest.read_bytes()[:-100])
        return LOST

    experiment, warnings = run(damages, ended)
    assert warnings == ["Worker 1 died. Continuing from checkpoint_epoch_1.pt."]
    (problem,) = lineage.read(experiment.folder)[1].fields["damaged"]
    assert problem.startswith("checkpoint_epoch_2_batch_2.pt")
    assert weights_hash(experiment) == weights_hash(undisturbed)


@pytest.mark.parametrize("allowed", [0, 2])
def test_as_many_failures_as_allowed_and_no_more(run, tmp_path, allowed):
    with pytest.raises(TrainingError, match="Training on workers failed: worker 1 died"):
        run(*[killed(BATCHES + 1)] * (allowed + 1), max_failures=allowed)
    experiment = the_one(tmp_path)
    assert types(experiment) == ["EXPERIMENT_START", *["CONTINUED"] * allowed, "FAILED"]
    assert experiment.status() == "failed"
    good, problems = experiment.newest_good()
    assert good is not None
    assert not problems


def test_an_error_of_the_program_is_not_tried_again(run, tmp_path):
    wrong = Verdict(error=TrainingError("ArithmeticError: unwell"))
    with pytest.raises(TrainingError, match="unwell"):
        run(killed(3, wrong))
    assert types(the_one(tmp_path)) == ["EXPERIMENT_START", "FAILED"]


def test_preemption_notices_use_up_no_retry(run, undisturbed):
    experiment, warnings = run(
        killed(BATCHES, LEAVING), killed(BATCHES, LEAVING), ended, max_failures=0
    )  # two notices, and not one failure allowed
    assert types(experiment) == ["EXPERIMENT_START", *["INTERRUPTED", "CONTINUED"] * 2, "FINISHED"]
    events = [e.fields for e in lineage.read(experiment.folder)]
    assert events[1]["reason"] == "Stopped by a preemption notice."
    assert events[2]["reason"] == retry.PREEMPTED
    assert [w.startswith("A preemption notice. Continuing from checkpoint_epoch_") for w in warnings] == [True, True]
    assert weights_hash(experiment) == weights_hash(undisturbed)


@pytest.mark.slow
def test_an_elastic_training_goes_on_with_fewer_and_shows_the_same_images(run, ray, two_ranks, undisturbed):
    def of_two(job: Job, flag: StopFlag) -> Verdict:
        with contextlib.suppress(Interrupted):
            two_ranks.train(job, BATCHES + 3)
        ray.nodes.pop()
        return LOST

    experiment, warnings = run(of_two, ended, resources=ELASTIC)
    events = [e.fields for e in lineage.read(experiment.folder)]
    assert types(experiment) == ["EXPERIMENT_START", "CONFIGURATION_CHANGE", "CONTINUED", "NOTE", "FINISHED"]
    assert events[1]["changes"] == {"world_size": [2, 1]}
    assert events[3]["text"] == "not bit-exact: 1 worker instead of 2"
    (told,) = warnings
    assert told.endswith("on 1 worker instead of 2.")
    assert experiment.config().world_size == 1
    assert orders(experiment) == orders(undisturbed)
    assert weights_hash(experiment) != weights_hash(undisturbed)


@pytest.mark.slow
def test_a_training_of_two_goes_on_with_two_and_changes_no_bit(run, two_ranks, tmp_path, monkeypatch):
    from raysweep.launch.workers import start as workers

    def lost(job: Job, flag: StopFlag) -> Verdict:
        with contextlib.suppress(Interrupted):
            two_ranks.train(job, BATCHES + 3)
        return LOST

    def of_two(job: Job, flag: StopFlag) -> Verdict:
        outcome = two_ranks.train(job)
        return Verdict(ended=RankDone(outcome.epochs, outcome.best_acc))

    experiment, _ = run(lost, of_two, resources=TWO)
    assert types(experiment) == ["EXPERIMENT_START", "CONTINUED", "FINISHED"]
    assert experiment.config().world_size == 2
    monkeypatch.undo()
    monkeypatch.setattr(workers, "in_this_process", lambda job, *_: two_ranks.train(job))
    whole = launching.run(experiment_plan.plan_experiment(small_settings(tmp_path / "whole", **SECTIONS))).experiment
    assert weights_hash(experiment) == weights_hash(whole)


def test_too_few_nodes_are_the_error_of_the_loss(run, ray, tmp_path, monkeypatch):
    from raysweep.cluster import autoscaler

    def takes_all(job: Job, flag: StopFlag) -> Verdict:
        ray.nodes.clear()
        return LOST

    monkeypatch.setattr(autoscaler, "after_a_loss", lambda scaling: 0.0)
    with pytest.raises(TrainingError, match="worker 1 died"):
        run(takes_all)
    assert the_one(tmp_path).status() == "failed"


# --- signals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_reaches_the_workers_and_continue_gives_the_same_bits(run, ray, tmp_path, undisturbed, number):
    def signalled(job: Job, flag: StopFlag) -> Verdict:
        from raysweep.training.loop import train

        class Asks(Recorder):
            def should_stop(self) -> str | None:
                self.asked += 1
                if self.asked == BATCHES + 3:
                    os.kill(os.getpid(), number)
                return flag.reason

        try:
            train(job, Asks())
        except Interrupted as error:
            return retry.judge([RankFailed(0, error)], None, 20.0, "/logs")
        raise AssertionError("the signal did not arrive")

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=number.name) as stopped:
        run(signalled)
    assert signal.getsignal(number) == before
    broken = the_one(tmp_path)
    assert f"raysweep continue {broken.id}" in str(stopped.value)
    assert broken.status() == "interrupted"
    assert broken.entries()[-1].epoch == 2  # nothing of what was trained is lost
    assert broken.entries()[-1].batch == 3
    ray.attempts = [ended]
    continued = continue_experiment(Root.open(tmp_path / "experiments"), broken.id).experiment
    assert continued.folder == broken.folder
    assert weights_hash(broken) == weights_hash(undisturbed)


def test_a_signal_while_workers_are_lost_ends_the_training(run, tmp_path):
    def signalled(job: Job, flag: StopFlag) -> Verdict:
        killed(BATCHES + 3)(job, flag)
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.reason == "SIGTERM"
        return LOST

    told = r"Stopped by SIGTERM while the workers failed. The newest checkpoint is checkpoint_epoch_2_batch_2\.pt"
    with pytest.raises(Interrupted, match=told):
        run(signalled)
    assert the_one(tmp_path).status() == "interrupted"


# --- one attempt --------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize("silence", [1.4, 1.6])
def test_ranks_that_are_silent_for_long_are_killed_and_it_is_told(quick_run, monkeypatch, silence):
    """What Ray's processes would tell comes from a script; SIGSTOP on a real one is in test_recovery."""
    from raysweep.launch.workers import attempt

    clock, killed_actors = Clock(), []
    context = SimpleNamespace(get_actor_id=lambda: "a branch")
    fake = SimpleNamespace(get_runtime_context=lambda: context, kill=killed_actors.append)
    anything = SimpleNamespace(__getattr__=lambda name: None)
    for name in ("ray", "ray.train", "ray.train.torch"):
        monkeypatch.setitem(sys.modules, name, fake)
    for name in ("FailureConfig", "RunConfig", "ScalingConfig", "TorchConfig", "TorchTrainer"):
        setattr(fake, name, lambda *args, **options: anything)
    asked_to_stop: list[str] = []
    channel = SimpleNamespace(stop=SimpleNamespace(remote=asked_to_stop.append))
    monkeypatch.setattr(attempt, "time", clock)
    monkeypatch.setattr(attempt, "open_channel", lambda name: channel)
    monkeypatch.setattr(attempt, "Shown", lambda channel: SimpleNamespace(close=lambda failed: None))
    monkeypatch.setattr(attempt.connect, "session_logs", lambda: Path("/session/logs"))
    monkeypatch.setattr(_ray_internals, "draining_nodes", set)
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "")

    def watch(thread: Any, channel: Any, poll_s: float, handle: Any, asked: Any) -> None:
        handle([RankStarted(f"rank {r}", "n") for r in range(2)])
        clock.now += silence * 20.0
        handle([])
        flag.reason = "SIGHUP"  # a signal's handler does no more than that
        handle([])
        handle([])

    flag = StopFlag()
    monkeypatch.setattr(attempt, "watch", watch)
    experiment = quick_run(training={"epochs": 1})
    settings = small_settings(experiment.folder.parent, scaling={"num_workers": 2, "timeout_s": 20.0})
    job = SimpleNamespace(folder=str(experiment.folder), settings=settings)
    monkeypatch.setattr(attempt.transport, "portable", lambda job: job)
    verdict, trace = attempt.run(job, TWO, lambda event: None, lambda: None, flag)  # type: ignore[arg-type]
    assert asked_to_stop == ["SIGHUP"]
    assert trace is None
    assert verdict.retry
    assert verdict.counts
    if silence > 1.5:
        assert killed_actors == ["rank 0", "rank 1", channel]
        assert verdict.reason == "a rank did not answer worker 0 within 20 s (scaling.timeout_s)"
    else:
        assert killed_actors == [channel]
