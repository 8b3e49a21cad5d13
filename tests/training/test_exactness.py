"""Stopping and continuing changes no bit; other weights change the order, and nothing else without a note."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from raysweep.errors import CheckpointError, Interrupted, ResourceError, StoreError
from raysweep.events import Note
from raysweep.launch import resume as resuming
from raysweep.launch import run as launching
from raysweep.plan import experiment as experiment_plan
from raysweep.plan import resources
from raysweep.store import checkpoint, layout
from raysweep.store.experiment import Experiment
from raysweep.store.root import Root
from tests.conftest import Recorder, small_settings, weights_hash

DROPOUT = {"model": {"options": {"widths": [4, 4, 8, 8], "dropout": 0.3}}}  # so that the generators' states count


@pytest.fixture
def straight(quick_run):
    return quick_run(training={"epochs": 3}, **DROPOUT)


def interrupted(tmp_path, without_ray, stop_after, **sections):
    """The experiment of a run that was asked to stop after ``stop_after`` batches."""
    without_ray(Recorder(stop_after))
    with pytest.raises(Interrupted, match="raysweep continue"):
        launching.run(experiment_plan.plan_experiment(small_settings(tmp_path / "experiments", **sections)))
    without_ray(Recorder())
    folders = sorted((tmp_path / "experiments").glob("small_*"), key=lambda p: p.stat().st_mtime)
    return Experiment(folders[-1])


@pytest.mark.parametrize(
    "stop_after",
    [
        pytest.param(1, marks=pytest.mark.slow),
        2,
        pytest.param(3, marks=pytest.mark.slow),
        pytest.param(4, marks=pytest.mark.slow),
        8,
    ],
)  # three batches an epoch: within one, at its end, in the last
def test_interrupted_and_continued_equals_undisturbed(tmp_path, straight, without_ray, stop_after):
    broken = interrupted(tmp_path, without_ray, stop_after, training={"epochs": 3}, **DROPOUT)
    assert broken.status() == "interrupted"
    result = resuming.continue_experiment(Root.open(tmp_path / "experiments"), broken.id)
    assert weights_hash(result.experiment) == weights_hash(straight)
    # The history, too: sums over the epoch were carried across the break.
    rows = [(e.folder / "training_history.csv").read_text().splitlines() for e in (result.experiment, straight)]
    timed = rows[0][0].split(",").index("seconds"), rows[0][0].split(",").index("images_per_second")
    cells = [[[c for i, c in enumerate(r.split(",")) if i not in timed] for r in lines] for lines in rows]
    assert cells[0] == cells[1]
    assert (result.experiment.folder / "training_history.png").exists()


def test_a_child_with_nothing_changed_equals_training_on(straight, quick_run, quick_child):
    half = quick_run(training={"epochs": 1, "schedule_epochs": 3}, **DROPOUT)
    whole = quick_child(f"{half.id}@1", epochs=2)
    assert weights_hash(whole) == weights_hash(straight)
    assert whole.config().parent.experiment == half.id
    history = checkpoint.read_checkpoint(whole.folder / "checkpoint_epoch_3.pt")["history"]
    assert history["epoch"] == [1, 2, 3]


@pytest.mark.slow
def test_the_same_checkpoint_resumed_twice_gives_the_same_bits(straight, quick_child):
    one, two = (quick_child(f"{straight.id}@2", epochs=1, weights={"3": 4.0}) for _ in range(2))
    assert one.id != two.id
    assert weights_hash(one) == weights_hash(two) != weights_hash(straight)


def test_mid_epoch_start_of_children(tmp_path, without_ray, straight, quick_child):
    broken = interrupted(tmp_path, without_ray, 5, training={"epochs": 3}, **DROPOUT)
    file = broken.folder / "checkpoint_epoch_2_batch_2.pt"
    saved = checkpoint.read_checkpoint(file)
    assert (saved["epoch"], saved["current_batch"], saved["total_batches"]) == (1, 2, 3)
    exact = quick_child(file, epochs=2)
    assert weights_hash(exact) == weights_hash(straight)
    anew = quick_child(file, epochs=2, weights={"3": 4.0})
    events = [json.loads(line) for line in (anew.folder / "lineage.jsonl").read_text().splitlines()]
    assert any("drawn anew from its start" in e.get("text", "") for e in events)
    assert next(e for e in events if e["type"] == "TRAINING_DATA_RATIO_CHANGE")["new_weights"]["3"] == 4.0
    # All draws of the redrawn epoch are shown: 500 of them, none carried over from the old order.
    header, *lines = (anew.folder / "training_history.csv").read_text().splitlines()
    row = dict(zip(header.split(","), lines[1].split(","), strict=True))
    assert sum(int(row[f"realised_{c}"]) for c in "0123456789") == 500


@pytest.mark.slow  # quick twin: store/test_damage.py
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_gives_the_same_bits(
    tmp_path, straight, without_ray
):
    broken = interrupted(tmp_path, without_ray, 8, training={"epochs": 3}, checkpoint={"every_n_batches": 1}, **DROPOUT)
    newest = broken.folder / broken.entries()[-1].file
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    told = []
    result = resuming.continue_experiment(Root.open(tmp_path / "experiments"), broken.id, progress=told.append)
    assert any(newest.name in e.text for e in told if isinstance(e, Note))
    assert weights_hash(result.experiment) == weights_hash(straight)


def test_a_finished_experiment_has_nothing_to_continue(tmp_path, straight):
    told = []
    resuming.continue_experiment(Root.open(tmp_path / "experiments"), straight.id, progress=told.append)
    assert any("nothing to do" in e.text for e in told if isinstance(e, Note))


def test_another_seed_changes_the_order_only_after_the_fork(straight, quick_child):
    other = quick_child(f"{straight.id}@2", epochs=1, overrides={"seed": 7})
    assert weights_hash(other) != weights_hash(straight)
    changed = [json.loads(line) for line in (other.folder / "lineage.jsonl").read_text().splitlines()]
    assert next(e for e in changed if e["type"] == "CONFIGURATION_CHANGE")["changes"] == {"seed": [0, 7]}


def notes_of(experiment) -> list[str]:
    """What the log notes, but for the learning rate of a child, which every child's log tells."""
    events = [json.loads(line) for line in (experiment.folder / "lineage.jsonl").read_text().splitlines()]
    return [e["text"] for e in events if e["type"] == "NOTE" and "learning rate" not in e["text"]]


@pytest.mark.slow
def test_the_log_says_once_why_the_bits_may_differ(tmp_path, straight, quick_child, without_ray):
    assert notes_of(quick_child(f"{straight.id}@2", epochs=1)) == []
    file = straight.folder / "checkpoint_epoch_2.pt"
    saved = checkpoint.read_checkpoint(file)
    saved["conditions"] |= {"torch": "1.0", "device": "NVIDIA H200", "precision": "bf16", "threads": 3, "world_size": 2}
    sent = tmp_path / "sent.pt"
    checkpoint.write(sent, saved)
    (note,) = notes_of(quick_child(sent, epochs=1))
    for words in ("device CPU instead of NVIDIA H200", "precision fp32 instead of bf16", "1 thread instead of 3"):
        assert words in note
    assert note.startswith("not bit-exact: ")
    assert "1 worker instead of 2" in note
    assert "instead of 1.0" in note


@pytest.mark.slow  # quick twin: cli/test_verify.py: different bits under different conditions
def test_the_log_names_a_variable_of_the_environment_that_changes_bits(straight, quick_child, monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert notes_of(quick_child(f"{straight.id}@2", epochs=1)) == [
        "not bit-exact: MKL_CBWR COMPATIBLE instead of unset"
    ]


@pytest.mark.slow  # quick twin: an interrupted run that goes on as it was
def test_an_interrupted_run_continues_with_other_resources_on_request(tmp_path, straight, without_ray):
    broken = interrupted(tmp_path, without_ray, 4, training={"epochs": 3}, **DROPOUT)
    asked = resources.ResourceOverrides(threads=2)
    result = resuming.continue_experiment(Root.open(tmp_path / "experiments"), broken.id, asked=asked)
    assert result.experiment.status() == "finished"
    assert result.experiment.config().threads == 2
    assert result.experiment.config().settings["scaling"]["threads"] == 2
    assert notes_of(broken) == ["not bit-exact: 2 threads instead of 1"]
    events = [json.loads(line) for line in (broken.folder / "lineage.jsonl").read_text().splitlines()]
    assert {"scaling.threads": [1, 2]} in [e.get("changes") for e in events]


def test_more_threads_than_the_machine_has_are_refused_with_a_remedy(tmp_path, without_ray):
    broken = interrupted(tmp_path, without_ray, 4, training={"epochs": 3}, **DROPOUT)
    config = broken.config()
    broken.write_config(replace(config, threads=500))
    with pytest.raises(ResourceError, match=r"500.*`raysweep continue` also takes --threads"):
        resuming.continue_experiment(Root.open(tmp_path / "experiments"), broken.id)
    assert broken.status() == "interrupted"


def test_a_configuration_without_its_parents_hash_is_refused(tmp_path, straight, quick_child):
    made = quick_child(f"{straight.id}@2", epochs=1)
    config = made.config()
    made.write_config(replace(config, parent=replace(config.parent, sha256=None)))
    for file in made.folder.glob("checkpoint_*.pt"):
        file.unlink()
    with pytest.raises(CheckpointError, match="does not say of its parent: sha256"):
        resuming.continue_experiment(Root.open(tmp_path / "experiments"), made.id)


def test_what_was_found_without_a_manifest_is_committed_before_the_training_goes_on(tmp_path, without_ray, monkeypatch):
    """The first checkpoint within an epoch was written, and its commit failed; then the next checkpoint fails, too."""
    broken = interrupted(tmp_path, without_ray, 2, training={"epochs": 2}, checkpoint={"every_n_batches": 1})
    known = broken.entries()
    (broken.folder / layout.MANIFEST).unlink()

    def full(*_):
        raise StoreError("the disk is full")

    monkeypatch.setattr(checkpoint, "write", full)
    with pytest.raises(StoreError, match="the disk is full"):
        resuming.continue_experiment(Root.open(tmp_path / "experiments"), broken.id)
    assert broken.has_manifest
    assert [e.file for e in broken.entries()] == [e.file for e in known]
