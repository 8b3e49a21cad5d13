"""Trackers show every epoch of the history once, whatever interrupts a run, and their errors do not affect the training."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.config import load as load_config
from raysweep.config import tracking as configuration
from raysweep.errors import ConfigError, Interrupted
from raysweep.events import BatchDone, BranchEnded, BranchEvent, EpochDone, Event, Note
from raysweep.launch import run as launching
from raysweep.launch import runner
from raysweep.launch.resume import continue_experiment
from raysweep.plan import child
from raysweep.plan import experiment as experiment_plan
from raysweep.plan import parent as parents
from raysweep.store import files, lineage, trust
from raysweep.store.experiment import Experiment
from raysweep.store.records import BranchRef, ExperimentConfig
from raysweep.store.root import Root
from raysweep.tools import replay
from raysweep.trackers import base as trackers
from raysweep.trackers import dispatch, snapshot
from tests.conftest import small_settings, weights_hash
from tests.trackers import tracking
from tests.trackers.tracking import board, event_files, history, mlflow_curves, mlflow_run

EPOCHS = {"training": {"epochs": 3}}


class Runs:
    """Runs in this process whose events reach the trackers as they do from the launcher's own reporters."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stop_after: int | None = None
        self.events: list[Event] = []

    def launch(self, job: Any, fitted: Any, progress: Any) -> Any:
        from raysweep.training.loop import train

        return train(job, tracking.Forwarding(progress, self.stop_after))

    def run(self, **sections: Any) -> Experiment:
        plan = experiment_plan.plan_experiment(small_settings(self.root, **load_config.merge(EPOCHS, sections)))
        return launching.run(plan, self.events.append).experiment

    def interrupted(self, after: int, **sections: Any) -> Experiment:
        """A run that was stopped after this many batches; an epoch has three."""
        self.stop_after = after
        with pytest.raises(Interrupted):
            self.run(**sections)
        self.stop_after = None
        return Experiment(max(self.root.glob("small_*"), key=lambda p: p.stat().st_mtime))

    def resume(self, experiment: Experiment) -> Experiment:
        return continue_experiment(Root.open(self.root), experiment.id, progress=self.events.append).experiment

    def child(self, reference: str, **options: Any) -> Experiment:
        plan = child.plan_child(parents.read_parent(Root.open(self.root), reference), Root.open(self.root), **options)
        return launching.run(plan, self.events.append).experiment

    @property
    def warnings(self) -> list[str]:
        return [e.text for e in self.events if isinstance(e, Note) and "cannot be written" in e.text]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker's process may take long on a busy machine; what happens to one that takes too long is a test of its own."""
    monkeypatch.setattr(dispatch, "WAIT_S", 240.0)
    monkeypatch.setattr(dispatch, "WAIT_TERMINATED_S", 240.0)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    from raysweep.launch.workers import start as workers

    made = Runs(tmp_path / "experiments")
    monkeypatch.setattr(workers, "in_this_process", made.launch)
    return made


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run trackers in this process, which is quick and makes their errors fail the test."""
    monkeypatch.setattr(dispatch, "Process", tracking.Here)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow database for all tests, because creating its tables takes seconds."""
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'raysweep[mlflow]'")
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'runs.db'}"


def notes(experiment: Experiment) -> list[str]:
    return [e.fields["text"] for e in lineage.read(experiment.folder) if e.type == lineage.NOTE]


@pytest.fixture(scope="module")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of the weights of a run without trackers."""
    from raysweep.launch.workers import start as workers

    runs = Runs(tmp_path_factory.mktemp("untracked"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "in_this_process", runs.launch)
        experiment = runs.run(trackers={"tensorboard": False})
    assert not (experiment.folder / "tensorboard").exists()
    return weights_hash(experiment)


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def test_tensorboard_shows_the_history_by_default_and_changes_no_bit(runs, untracked):
    run = runs.run()
    assert board(run.folder) == history(run.folder, single=True)
    assert len(board(run.folder)) == 9 - 1 + 60 + 1
    assert notes(run) == []
    assert weights_hash(run) == untracked
    values = [v for e in tracking.events(run.folder) for v in e.summary.value]
    pages = {v.tag: v.tensor.string_val[0].decode() for v in values if v.HasField("tensor")}
    assert "| training.batch_size | 200 |" in pages["settings/text_summary"]


def test_tensorboard_itself_reads_the_file(runs):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    run = runs.run(sampling={"weights": {"3": 5}})
    seen = accumulator.EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert {t: [(e.step, e.value) for e in seen.Scalars(t)] for t in seen.Tags()["scalars"]} == history(
        run.folder, True
    )
    assert set(seen.Tags()["tensors"]) == {"experiment/text_summary", "settings/text_summary"}


def test_tensorboard_has_every_epoch_as_soon_as_it_is_reported(runs):
    told: list[int] = []
    seen: list[int] = []

    def look(event: Event) -> None:
        if isinstance(event, EpochDone):
            told.append(event.epoch)
        if isinstance(event, BatchDone) and told:
            (folder,) = runs.root.glob("small_*")
            # The next epoch may be committed already but not reported yet.
            written = {name: points[: len(told)] for name, points in history(folder, single=True).items()}
            assert board(folder) == written
            seen.append(len(told))

    launching.run(experiment_plan.plan_experiment(small_settings(runs.root, **EPOCHS)), look)
    assert told == [1, 2, 3]
    assert seen


def in_tensorboard(seen: Any) -> tracking.Curves:
    return {tag: [(e.step, e.value) for e in seen.Scalars(tag)] for tag in seen.Tags()["scalars"]}


@pytest.fixture
def open_board() -> Callable[[Experiment], Any]:
    """TensorBoard's own reader of an experiment."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    return lambda run: accumulator.EventAccumulator(str(run.folder / "tensorboard")).Reload()


@pytest.mark.parametrize("after", [pytest.param(n, marks=[] if n == 8 else pytest.mark.slow) for n in (1, 3, 5, 8)])
def test_a_continued_run_has_every_point_once(runs, after, untracked, open_board):
    run = runs.interrupted(after)
    before = event_files(run.folder) if after >= 3 else []
    run = runs.resume(run)
    assert board(run.folder) == history(run.folder, single=True) == in_tensorboard(open_board(run))
    assert [e for e, _ in board(run.folder)["val_loss"]] == [1, 2, 3]
    assert event_files(run.folder)[:-1] == before  # TensorBoard reads the newer files after them
    assert weights_hash(run) == untracked


def test_a_sync_with_nothing_new_writes_nothing(runs):
    run = runs.run()
    (path,) = event_files(run.folder)
    whole = path.read_bytes()
    for tracker in (trackers.make("tensorboard"), trackers.make("tensorboard")):
        tracker.sync(snapshot.read(run.folder))
        tracker.sync(snapshot.read(run.folder))
    runs.resume(run)
    assert event_files(run.folder) == [path]
    assert path.read_bytes() == whole
    (run.folder / "tensorboard" / "tracker_tensorboard.json").unlink()
    path.unlink()
    (run.folder / "tensorboard").rmdir()
    runs.resume(run)
    assert board(run.folder) == history(run.folder, single=True)


def test_a_file_torn_by_a_kill_shows_its_whole_records_and_after_a_sync_every_point_once(runs, open_board):
    run = runs.run()
    wanted = history(run.folder, single=True)
    (first,) = event_files(run.folder)
    whole = first.read_bytes()
    for kept in (len(whole) - 1, len(whole) // 2, 1, 0):
        first.write_bytes(whole[:kept])
        for path in (run.folder / "tensorboard").iterdir():  # after a kill there is no state and no later file
            if path != first:
                path.unlink()
        seen = open_board(run)
        for tag, points in in_tensorboard(seen).items():
            assert points == wanted[tag][: len(points)]
        trackers.make("tensorboard").sync(snapshot.read(run.folder))
        assert len(event_files(run.folder)) == 2
        assert board(run.folder) == wanted == in_tensorboard(open_board(run)) == in_tensorboard(seen.Reload())


def test_an_open_tensorboard_shows_epochs_that_were_trained_anew_once(runs, open_board):
    run = runs.run()
    seen = open_board(run)
    newest = run.folder / run.entry("latest").file
    newest.write_bytes(newest.read_bytes()[:-100])
    run = runs.resume(run)
    assert in_tensorboard(seen.Reload()) == history(run.folder, single=True)


def test_the_next_sync_repairs_a_failed_write(runs, monkeypatch, open_board):
    from tensorboardX.event_file_writer import EventsWriter

    run = runs.interrupted(5)
    for path in (run.folder / "tensorboard").iterdir():
        path.unlink()
    tracker, told = trackers.make("tensorboard"), snapshot.read(run.folder)
    original = EventsWriter.write_event

    def full(self: Any, event: Any) -> None:
        original(self, event)
        if event.step:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(EventsWriter, "write_event", full)
        with pytest.raises(OSError, match="No space left"):
            tracker.sync(told)
    tracker.sync(told)
    assert board(run.folder) == history(run.folder, single=True) == in_tensorboard(open_board(run))


def test_an_event_file_with_two_names_is_not_written_any_further(runs, tmp_path):
    # `cp -al` of a running experiment: the copy's curve must not go on with the original's epochs
    from dataclasses import replace

    run = runs.run()
    for path in (run.folder / "tensorboard").iterdir():
        path.unlink()
    tracker, told = trackers.make("tensorboard"), replace(snapshot.read(run.folder), status="running")
    tracker.sync(replace(told, points=told.points[:1]))
    (first,) = event_files(run.folder)
    copy = tmp_path / "copy"
    os.link(first, copy)
    before = copy.read_bytes()
    tracker.sync(told)
    assert copy.read_bytes() == before
    assert len(event_files(run.folder)) == 2
    assert board(run.folder) == history(run.folder, single=True)
    tracker.close()


def test_an_event_file_that_is_a_symbolic_link_is_not_followed(runs, tmp_path):
    run = runs.run()
    (path,) = event_files(run.folder)
    other = tmp_path / "other"
    other.write_bytes(b"")
    path.unlink()
    path.symlink_to(other)
    (run.folder / "tensorboard" / "tracker_tensorboard.json").unlink()
    trackers.make("tensorboard").sync(snapshot.read(run.folder))
    assert other.read_bytes() == b""
    assert board(run.folder) == history(run.folder, single=True)


@pytest.mark.slow
def test_epochs_that_are_trained_anew_replace_the_old_ones(runs, database, here):
    run = runs.run(trackers={"mlflow": {"uri": database}})
    first = mlflow_run(run.folder).info.run_id
    measured = [history(run.folder)[c] for c in ("seconds", "images_per_second")]
    newest = run.folder / run.entry("latest").file
    newest.write_bytes(newest.read_bytes()[:-100])
    run = runs.resume(run)
    # Both are measured anew; one of the two alone may have the same value by chance.
    assert [history(run.folder)[c] for c in ("seconds", "images_per_second")] != measured
    assert board(run.folder) == history(run.folder, single=True)
    assert mlflow_curves(run.folder) == history(run.folder)
    assert mlflow_run(run.folder).info.run_id != first  # MLflow takes no point back


@pytest.mark.slow
def test_verify_replays_an_epoch_without_tracking_it(runs, here, database, monkeypatch):
    run = runs.run(trackers={"mlflow": {"uri": database}})
    asked: list[configuration.TrackersSection] = []
    section = snapshot.section
    monkeypatch.setattr(snapshot, "section", lambda config: asked.append(section(config)) or asked[-1])
    replay.replay(Root.open(runs.root), run, run.entry("1"), run.entry("2"))
    assert asked
    assert all(not found.tensorboard and not trackers.asked_for(found) for found in asked)


def test_on_an_object_store_another_machine_continues_the_same_curve(s3_port, tmp_path):
    from raysweep.store.remote import copies
    from tests.store.remote.objectstore import emptied
    from tests.store.remote.test_mirror import make

    def sync(tracker: Any, folder: Path, epochs: int) -> None:
        files.write_atomic(
            folder / "training_history.csv",
            "\n".join(["epoch,val_loss", *(f"{n},{1 / n}" for n in range(1, epochs + 1)), ""]).encode(),
        )
        told = snapshot.read(folder)
        tracker.sync(snapshot.Snapshot(told.experiment, told.config, told.points, "running"))

    with emptied(s3_port, tmp_path / "machines") as server:
        with server.machine("a"):
            folder = make(Root.open(server.root())).folder
            tracker = trackers.make("tensorboard")
            for epochs in (1, 2):
                sync(tracker, folder, epochs)
                (path,) = event_files(folder)
                assert server.content(f"{folder.name}/tensorboard/{path.name}") == path.read_bytes()
        with server.machine("b"):
            folder = Root.open(server.root()).path / folder.name
            sync(trackers.make("tensorboard"), folder, 3)
            for path in event_files(folder):
                copies.fetch(path)
            assert [e for e, _ in tracking.board(folder)["val_loss"]] == [1, 2, 3]
            assert len(event_files(folder)) == 2


# --- MLflow -----------------------------------------------------------------------------------------------------------


def test_mlflow_has_the_history_the_settings_and_the_ratio(runs, database, here, untracked):
    run = runs.run(trackers={"mlflow": {"uri": database}})
    assert mlflow_curves(run.folder) == history(run.folder)
    seen = mlflow_run(run.folder)
    assert seen.info.status == "FINISHED"
    assert seen.info.run_name == run.id
    assert seen.data.params["training.batch_size"] == "200"
    assert seen.data.params["model.options.widths"] == "[4, 4, 8, 8]"
    assert seen.data.params["sampling.weights.3"] == "1.0"
    assert not any(k.startswith("trackers") for k in seen.data.params)
    assert json.loads(seen.data.tags["raysweep.weights"]) == run.config().sampling_weights
    assert "mlflow.parentRunId" not in seen.data.tags
    assert weights_hash(run) == untracked


def test_mlflow_continues_the_same_run_after_an_interruption(runs, database, here):
    run = runs.interrupted(5, trackers={"mlflow": {"uri": database}})
    before = mlflow_run(run.folder)
    assert before.info.status == "KILLED"
    assert mlflow_curves(run.folder) == history(run.folder)
    run = runs.resume(run)
    assert mlflow_run(run.folder).info.run_id == before.info.run_id
    assert mlflow_run(run.folder).info.status == "FINISHED"
    assert mlflow_curves(run.folder) == history(run.folder)


def test_mlflow_gets_unsent_points_later_and_keeps_points_sent_twice_once(runs, database, here):
    run = runs.run(trackers={"mlflow": {"uri": database}})
    state_file = run.folder / "tracker_mlflow.json"
    told = json.loads(state_file.read_text())
    state_file.write_text(
        json.dumps(told | {"rows": 1, "digest": snapshot.read(run.folder).digest(1), "status": "running"})
    )
    runs.resume(run)  # it has all its epochs: only the trackers are brought up to date
    assert mlflow_curves(run.folder) == history(run.folder)
    assert json.loads(state_file.read_text()) == told


@pytest.mark.slow
def test_a_run_that_somebody_deleted_in_mlflow_is_created_again(runs, database, here):
    from mlflow import MlflowClient

    run = runs.interrupted(5, trackers={"mlflow": {"uri": database}})
    old = mlflow_run(run.folder).info.run_id
    MlflowClient(database).delete_run(old)
    run = runs.resume(run)
    assert mlflow_run(run.folder).info.run_id != old
    assert mlflow_curves(run.folder) == history(run.folder)


def test_a_child_is_a_run_of_its_own_that_names_its_parent(runs, database, here):
    parent = runs.run(trackers={"mlflow": {"uri": database}})
    kid = runs.child(f"{parent.id}@2", weights={"3": 4.0}, epochs=2, name="kid")
    assert mlflow_curves(kid.folder) == history(kid.folder)
    assert board(kid.folder) == history(kid.folder, single=True)
    assert [e for e, _ in board(kid.folder)["val_acc"]] == [1, 2, 3, 4]  # the parent's rows first, as in the history
    tags = mlflow_run(kid.folder).data.tags
    assert tags["mlflow.parentRunId"] == mlflow_run(parent.folder).info.run_id
    assert tags["raysweep.parent"] == parent.id
    assert tags["raysweep.parent_checkpoint"] == f"{parent.id}@2"
    assert tags["raysweep.parent_sha256"] == parent.entry("2").sha256
    assert re.fullmatch(r"3 1 → 4 \(\d+\.\d% → \d+\.\d%\)", tags["raysweep.ratio_change"])
    times = [e.wall_time for e in tracking.events(kid.folder) if e.step]
    assert times == sorted(times)
    started = snapshot.read(kid.folder).started
    assert times[1] <= started < times[2]  # the parent's epochs came before


@pytest.mark.slow
def test_a_relative_database_is_found_again_from_another_folder(runs, database, here, tmp_path, monkeypatch):
    place = Path(database.removeprefix("sqlite:///"))
    monkeypatch.chdir(place.parent)
    run = runs.interrupted(5, trackers={"mlflow": {"uri": f"sqlite:///{place.name}"}})
    monkeypatch.chdir(tmp_path)
    run = runs.resume(run)
    assert mlflow_curves(run.folder) == history(run.folder)
    assert not (tmp_path / place.name).exists()


# --- trackers in their own processes ------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.slow
def test_mlflow_in_its_own_process_has_everything_when_the_run_returns(runs, database, untracked):
    started: list[dispatch.Process] = []
    original = dispatch.Process.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch.Process, "__init__", lambda self, name: (original(self, name), started.append(self))[0])
        run = runs.run(trackers={"mlflow": {"uri": database}})
    assert mlflow_curves(run.folder) == history(run.folder)
    assert mlflow_run(run.folder).info.status == "FINISHED"
    assert [p.process.returncode for p in started] == [0]
    assert weights_hash(run) == untracked
    assert notes(run) == []
    assert runs.warnings == []


def test_wandb_offline_has_the_history_once_after_an_interruption(runs, monkeypatch):
    pytest.importorskip("wandb", reason="W&B is not installed: pip install 'raysweep[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")  # it overrides the option
    run = runs.interrupted(5, trackers={"wandb": {"mode": "online"}})
    told = json.loads((run.folder / "tracker_wandb.json").read_text())["ids"]
    assert tracking.wandb_curves(run.folder) == history(run.folder)
    run = runs.resume(run)
    assert json.loads((run.folder / "tracker_wandb.json").read_text())["ids"] == told
    assert tracking.wandb_curves(run.folder) == history(run.folder)  # one folder, for one `wandb sync`
    assert runs.warnings == []


def test_trackio_has_the_history_once_after_an_interruption(runs, tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="trackio is not installed: pip install 'raysweep[trackio]'")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run = runs.interrupted(5, trackers={"trackio": {}})
    state_file = run.folder / "tracker_trackio.json"
    told = json.loads(state_file.read_text())
    assert tracking.trackio_curves(run.folder, tmp_path / "trackio") == history(run.folder)
    state_file.write_text(
        json.dumps(told | {"rows": 0, "digest": snapshot.read(run.folder).digest(0)})
    )  # as if a kill had come before it recorded what it sent
    run = runs.resume(run)
    assert json.loads(state_file.read_text())["ids"] == told["ids"]
    assert tracking.trackio_curves(run.folder, tmp_path / "trackio") == history(run.folder)
    assert runs.warnings == []


def test_a_trackers_process_exits_when_the_driver_dies():
    process = dispatch.Process("mlflow")
    os.set_blocking(process.pipe, True)
    assert process.process.stdin is not None
    process.process.stdin.close()  # as the kernel does for a process that was killed
    assert process.process.wait(timeout=200) == 1


# --- errors ------------------------------------------------------------------------------------------------------------


def test_an_error_of_tensorboard_is_printed_once_and_changes_no_bit(runs, untracked, monkeypatch):
    monkeypatch.setattr(
        lineage, "open_log", _then(lineage.open_log, lambda folder: (folder / "tensorboard").write_text("x"))
    )
    run = runs.run()
    assert weights_hash(run) == untracked
    assert run.status() == "finished"
    assert len(runs.warnings) == 1
    assert runs.warnings[0].startswith("TensorBoard cannot be written: ")
    (note,) = notes(run)
    assert note.startswith("TensorBoard could not be written: ")
    assert f"out of sync; `raysweep continue {run.id} --root {runs.root}` brings it up to date" in note
    (run.folder / "tensorboard").unlink()
    runs.resume(run)
    assert board(run.folder) == history(run.folder, single=True)
    assert len(notes(run)) == 1


def test_an_error_of_one_tracker_does_not_affect_the_others(runs, database, here, monkeypatch):
    monkeypatch.setattr(
        lineage, "open_log", _then(lineage.open_log, lambda folder: (folder / "tensorboard").write_text("x"))
    )
    run = runs.run(trackers={"mlflow": {"uri": database}})
    assert [w.split(" cannot")[0] for w in runs.warnings] == ["TensorBoard"]
    assert mlflow_curves(run.folder) == history(run.folder)


def _then(function: Callable[..., Any], more: Callable[[Path], Any]) -> Callable[..., Any]:
    def both(folder: Path, *rest: Any) -> None:
        function(folder, *rest)
        more(folder)

    return both


@pytest.mark.parametrize(
    "script",
    [pytest.param(s, marks=pytest.mark.slow) for s in ("while true; do read line; done", "exit 3")] + ["sleep 600"],
)
def test_a_tracker_that_hangs_or_dies_is_given_up_at_the_end(runs, untracked, monkeypatch, tmp_path, script):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(dispatch.sys, "executable", str(program))
    monkeypatch.setattr(dispatch, "WAIT_S", 1.0)
    monkeypatch.setattr(trackers, "check", lambda section: None)
    run = runs.run(trackers={"mlflow": {}})
    assert weights_hash(run) == untracked
    assert run.status() == "finished"
    why = "its process ended with code 3" if script == "exit 3" else "no answer in 1 s"
    assert [w for w in runs.warnings if why in w] == runs.warnings
    assert len(runs.warnings) == 1
    (note,) = notes(run)
    assert note.startswith(f"MLflow could not be written: {why}; it is out of sync")
    assert board(run.folder) == history(run.folder, single=True)


@pytest.mark.slow
def test_a_server_that_is_down_does_not_affect_the_run_and_gets_everything_later(
    runs, database, untracked, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = runs.run(trackers={"mlflow": {"uri": "http://127.0.0.1:9"}})
    assert weights_hash(run) == untracked
    (note,) = notes(run)
    assert note.startswith("MLflow could not be written: ")  # on a busy machine: that it has not answered in time
    assert len(runs.warnings) == 1
    value = run.config().to_json()
    value["settings"]["trackers"]["mlflow"]["uri"] = database  # the server is up again
    run.write_config(ExperimentConfig.from_json(value))
    trust.remember_made(run.id, value["settings"])  # the user's own change
    runs.resume(run)
    assert mlflow_curves(run.folder) == history(run.folder)


def test_the_next_epoch_repairs_a_temporary_error(runs, monkeypatch):
    calls: list[Path] = []
    original = trackers.make("tensorboard").sync.__func__  # type: ignore[attr-defined]
    from raysweep.trackers import tensorboard

    def sometimes(self: Any, told: Any) -> None:
        calls.append(told)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        original(self, told)

    monkeypatch.setattr(tensorboard.Tracker, "sync", sometimes)
    run = runs.run()
    assert board(run.folder) == history(run.folder, single=True)
    (note,) = notes(run)
    assert note.endswith("No space left on device; it is up to date again")


@pytest.mark.parametrize("name", trackers.EXTRAS)
def test_a_missing_package_is_reported_before_anything_is_written(runs, name, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda wanted: None)
    with pytest.raises(ConfigError, match=rf"pip install 'raysweep\[{name}\]'.*trackers\.{name}=null"):
        runs.run(trackers={name: {}})
    assert not runs.root.exists()


@pytest.mark.slow
def test_a_run_can_be_continued_where_its_tracker_is_not_installed(runs, here, database, monkeypatch):
    run = runs.interrupted(5, trackers={"mlflow": {"uri": database}})
    with monkeypatch.context() as patch:
        patch.setattr(trackers.importlib.util, "find_spec", lambda wanted: None)
        run = runs.resume(run)
    assert run.status() == "finished"
    (note,) = notes(run)
    assert "pip install 'raysweep[mlflow]'" in note
    runs.resume(run)
    assert mlflow_curves(run.folder) == history(run.folder)


# --- names and options ---------------------------------------------------------------------------------------------------


@pytest.mark.slow  # quick twin: the history of a run in MLflow
@given(st.lists(st.text(min_size=1, max_size=300), unique=True, max_size=8))
def test_every_class_gets_a_name_that_mlflow_accepts(classes):
    found = snapshot.names(classes)
    assert list(found) == classes
    assert len({n.casefold() for n in found.values()}) == len(classes)
    for name in found.values():
        key = f"recall/{name}"
        assert re.fullmatch(r"[/\w.\- :]*", key)
        assert len(key) <= 250
        assert os.path.normpath(key) == key


def test_options_of_trackers_are_read_from_overrides():
    values = load_config.merge(
        {"data": {"source": "faces"}}, load_config.parse_overrides(["trackers.mlflow.uri=sqlite:///m.db"])
    )
    section = load_config.validate(values).trackers
    assert section.mlflow == configuration.MlflowSection(uri="sqlite:///m.db")
    assert (section.tensorboard, section.wandb, section.trackio) == (True, None, None)
    values = load_config.merge(
        {"data": {"source": "faces"}}, load_config.parse_overrides(["trackers.wandb={}", "trackers.mlflow=null"])
    )
    assert trackers.asked_for(load_config.validate(values).trackers) == ["wandb"]
    with pytest.raises(ConfigError, match=r"trackers\.mlflow\.url: there is no such option. Did you mean 'uri'"):
        load_config.validate({"data": {"source": "faces"}, "trackers": {"mlflow": {"url": "x"}}})


def test_importing_the_launcher_imports_no_tracker(tmp_path):
    code = (
        "import sys; import raysweep.launch.run, raysweep.launch.resume, raysweep.trackers.dispatch\n"
        f"print([m for m in {['tensorboardX', *trackers.EXTRAS]!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


# --- a sweep -------------------------------------------------------------------------------------------------------------


def test_a_branch_is_a_run_that_names_its_sweep(runs, database, here):
    """With the events of a sweep, but without Ray."""
    parent = runs.run(trackers={"mlflow": {"uri": database}})
    known = parents.read_parent(Root.open(runs.root), f"{parent.id}@2")
    plan = child.plan_child(known, Root.open(runs.root), weights={"3": 4.0}, epochs=1, name="s-34")
    of_sweep = {"sweep": "s_20260101_000000", "branch": BranchRef("34", False, 0)}
    with dispatch.dispatching(runs.events.append) as dispatcher:

        def progress(event: Event) -> None:
            dispatcher(BranchEvent("34", event))

        branch = runner.start(plan, runs.launch, progress, **of_sweep).experiment
        progress(BranchEnded("finished"))
    assert mlflow_curves(branch.folder) == history(branch.folder)
    assert board(branch.folder) == history(branch.folder, single=True)
    seen = mlflow_run(branch.folder)
    assert seen.info.status == "FINISHED"
    assert seen.data.tags["raysweep.sweep"] == "s_20260101_000000"
    assert seen.data.tags["raysweep.branch"] == "34"
    assert seen.data.tags["raysweep.control"] == "false"
    assert seen.data.tags["mlflow.parentRunId"] == mlflow_run(parent.folder).info.run_id
    assert [n for n in notes(branch) if "learning rate" not in n] == []


@pytest.mark.long
@pytest.mark.slow
def test_the_branches_of_a_sweep_are_runs_that_name_the_sweep(tmp_path, database):
    from raysweep.config import grid as grids
    from raysweep.launch.sweep import driver as sweeping
    from raysweep.plan import sweep as sweep_plan
    from raysweep.plan.types import SweepRequest

    root = tmp_path / "experiments"
    settings = small_settings(root, trackers={"mlflow": {"uri": database}})
    parent = launching.run(experiment_plan.plan_experiment(settings)).experiment
    grid = grids.check({"weights": {"3": [4.0]}, "epochs": 1})
    plan = sweep_plan.plan_sweep(SweepRequest(Root.open(root), f"{parent.id}@1", grid, name="s", in_process=True))
    result = sweeping.run(plan)
    assert not result.failed
    assert set(result.experiments) == {"control", "3=4"}
    for name, experiment in result.experiments.items():
        assert mlflow_curves(experiment.folder) == history(experiment.folder)
        assert board(experiment.folder) == history(experiment.folder, single=True)
        seen = mlflow_run(experiment.folder)
        assert seen.info.status == "FINISHED"
        assert seen.data.tags["raysweep.sweep"] == result.sweep.id
        assert seen.data.tags["raysweep.branch"] == name
        assert seen.data.tags["raysweep.control"] == json.dumps(name == "control")
        assert seen.data.tags["mlflow.parentRunId"] == mlflow_run(parent.folder).info.run_id
        assert [n for n in notes(experiment) if "learning rate" not in n] == []


def test_a_strangers_checkpoint_does_not_decide_where_results_are_sent(quick_run, tmp_path):
    from raysweep.plan import child
    from raysweep.plan import parent as parents
    from raysweep.store import checkpoint

    made = quick_run(training={"epochs": 1})
    saved = checkpoint.read_checkpoint(made.folder / "checkpoint_epoch_1.pt")
    saved["config"]["settings"]["trackers"] = {"mlflow": {"uri": "http://stranger.example"}}
    checkpoint.write(tmp_path / "x.pt", saved)
    plan = child.plan_child(parents.read_parent(Root.open(tmp_path), str(tmp_path / "x.pt")), Root.open(tmp_path / "e"))
    assert plan.settings.trackers.mlflow is None
