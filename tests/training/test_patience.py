"""Early stopping: which epoch is the last, what is recorded, and the same end however the run got there."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.events import Note
from raysweep.store import lineage
from tests.conftest import Recorder, small_settings, weights_hash

# With next to no learning rate no epoch is much better than those before.
STILL = {"training": {"epochs": 12, "learning_rate": 1e-9, "patience": 2}}


def by_hand(values: list[float], patience: int) -> int | None:
    """The epoch after which a run stops, as a person would count; None: never."""
    best, bad = None, 0
    for epoch, value in enumerate(values, start=1):
        if best is None or value > best:
            best, bad = value, 0
        else:
            bad += 1
        if bad >= patience:
            return epoch
    return None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 3))
def test_the_last_epoch_is_the_one_that_a_person_would_count(values, patience, fork):
    from raysweep.training.patience import waited

    stopped = None
    for done in range(1, len(values) + 1):
        own = [v / 4 for v in values[:done]]
        history = {"epoch": list(range(1, fork + done + 1)), "val_acc": [1.0] * fork + own}
        found = waited(history, "val_acc", patience, fork)
        assert found.best == max(own)
        if found.over and stopped is None:
            stopped = done
    assert stopped == by_hand([v / 4 for v in values], patience)
    assert waited({"epoch": [1], "val_acc": [0.5]}, "val_acc", 1, 1) is None
    assert waited({"epoch": [1], "val_acc": [0.5]}, "val_acc", None, 0) is None


def ends(experiment) -> list[int]:
    return [e.epoch for e in experiment.manifest().ends]


def last_by_hand(experiment) -> int:
    """The epoch after which its patience should have ended it, by its own history."""
    import pandas as pd

    rows = pd.read_csv(experiment.folder / "training_history.csv")
    own = rows[rows["epoch"] > experiment.config().fork]["val_acc"].tolist()
    found = by_hand(own, experiment.config().setting("training", "patience"))
    assert found is not None, own
    return experiment.config().fork + found


def finished(experiment) -> dict[str, object]:
    *_, event = [e for e in lineage.read(experiment.folder) if e.type == lineage.FINISHED]
    return dict(event.fields)


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    from raysweep.launch import runner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "derive", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def stopped(no_pictures, tmp_path_factory):
    """A run that its patience has ended, and what it told."""
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan

    told: list[object] = []
    settings = small_settings(tmp_path_factory.mktemp("stopped") / "experiments", **STILL)
    return launching.run(experiment_plan.plan_experiment(settings), told.append).experiment, told


def texts(told) -> list[str]:
    return [t.text for t in told if isinstance(t, Note)]


def test_a_run_stops_and_says_so_and_its_checkpoints_hold_why(stopped):
    from raysweep.store import checkpoint

    made, told = stopped
    last = last_by_hand(made)
    assert 3 <= last < 12
    assert ends(made) == list(range(1, last + 1))
    assert made.status() == "finished"
    event = finished(made)
    assert (event["epochs"], event["stopped_early"]) == (last, "patience")
    assert event["reason"].startswith("no better val_acc than 0.")
    assert event["reason"].endswith(f" of epoch {last - 2} for 2 epochs")
    assert f"Stopped early after epoch {last}: {event['reason']}." in texts(told)
    saved = [checkpoint.read_checkpoint(made.folder / f"checkpoint_epoch_{last - n}.pt")["patience"] for n in (2, 1, 0)]
    assert [(s["best_epoch"], s["waited"]) for s in saved] == [(last - 2, 0), (last - 2, 1), (last - 2, 2)]


def test_patience_changes_no_bit_of_what_is_trained(stopped, quick_run):
    made, _ = stopped
    training = {**STILL["training"], "epochs": last_by_hand(made), "schedule_epochs": 12, "patience": None}
    assert weights_hash(made) == weights_hash(quick_run(training=training))


@pytest.mark.parametrize(
    "stop_after", [5, pytest.param(6, marks=pytest.mark.slow)]
)  # three batches an epoch: within one, and at its end
def test_stopped_by_hand_and_continued_ends_at_the_same_epoch(stopped, tmp_path, without_ray, stop_after):
    from raysweep.launch import resume as resuming
    from raysweep.store.root import Root
    from tests.training.test_exactness import interrupted

    whole, _ = stopped
    broken = interrupted(tmp_path, without_ray, stop_after, **STILL)
    result = resuming.continue_experiment(Root.open(tmp_path / "experiments"), broken.id).experiment
    assert weights_hash(result) == weights_hash(whole)
    assert ends(result) == ends(whole)
    assert finished(result) == finished(whole)


def test_killed_before_the_last_line_of_the_log_it_trains_nothing_more(stopped, tmp_path):
    from raysweep.launch import resume as resuming
    from raysweep.store.experiment import Experiment
    from raysweep.store.root import Root

    whole, _ = stopped
    root = tmp_path / "experiments"
    shutil.copytree(whole.folder, root / whole.id)
    log = root / whole.id / "lineage.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if "FINISHED" not in line))
    assert Experiment(root / whole.id).status() != "finished"
    told: list[object] = []
    result = resuming.continue_experiment(Root.open(root), whole.id, progress=told.append).experiment
    assert (ends(result), result.status()) == (ends(whole), "finished")
    assert finished(result)["stopped_early"] == "patience"
    assert any(f"stopped early after epoch {ends(whole)[-1]} (no better" in text for text in texts(told))


def test_an_attempt_that_begins_at_the_end_trains_nothing_more(stopped, tmp_path):
    """As after a worker that was lost between the last commit and the report of it."""
    from raysweep.launch import runner
    from raysweep.plan import experiment as experiment_plan
    from raysweep.store.experiment import Experiment
    from raysweep.store.lock import WriterLock
    from raysweep.training.job import from_own_checkpoint
    from raysweep.training.loop import train

    whole, _ = stopped
    root, last = tmp_path / "experiments", ends(whole)[-1]
    copy = Experiment(shutil.copytree(whole.folder, root / whole.id))
    plan = experiment_plan.plan_experiment(small_settings(root, **STILL))
    lock = WriterLock.acquire(copy.folder)
    try:
        job = runner.new_job(plan, copy, lock.token, copy.config())
        end = str(copy.folder / f"checkpoint_epoch_{last}.pt")
        assert train(from_own_checkpoint(job, end, last, None), Recorder()).epochs == last
    finally:
        lock.release()
    assert ends(copy) == ends(whole)


def test_a_child_goes_on_with_the_epochs_that_were_left_and_waits_anew(stopped):
    from raysweep.launch import run as launching
    from raysweep.plan import child
    from raysweep.plan import parent as parents
    from raysweep.tools import replay

    made, _ = stopped
    last = ends(made)[-1]
    found = replay.replay(made.root, made, made.entry(str(last - 1)), made.entry(str(last)))
    assert found.difference is None
    parent = parents.read_parent(made.root, f"{made.id}@{last}")
    assert child.plan_child(parent, made.root, writable=False).settings.training.epochs == 12 - last
    again = launching.run(child.plan_child(parent, made.root, epochs=12)).experiment
    assert ends(again) == list(range(last + 1, last_by_hand(again) + 1))
    assert ends(again)[-1] >= last + 3  # its own epochs are counted, and the first is its best so far
    assert (
        f"its run was stopped early after epoch {last} of 12" in (again.folder / "experiment_changes.log").read_text()
    )
