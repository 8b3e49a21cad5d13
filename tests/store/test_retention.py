"""What may be deleted, and what never is."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.errors import CheckpointError, StoreError
from raysweep.store import experiment as experiments
from raysweep.store import files, layout, lineage, retention, sweep
from raysweep.store.experiment import Experiment
from raysweep.store.records import ExperimentConfig
from raysweep.store.records_manifest import BestEpoch, Manifest, ManifestEntry
from raysweep.store.root import Root

NOW = datetime(2026, 1, 2, 3, 4, 5)


def with_epochs(root: Path, epochs: int, best: int) -> Experiment:
    made = experiments.create(Root.open(root), "run", NOW)
    made.write_config(ExperimentConfig.from_json({"sampling_weights": {}}))
    entries = []
    for e in range(1, epochs + 1):
        for name in (f"checkpoint_epoch_{e}.pt", f"epoch_{e}_model.pt"):
            (made.folder / name).write_bytes(b"x" * 10)
        entries.append(ManifestEntry(f"checkpoint_epoch_{e}.pt", 10, f"sha{e}", e, None, "now", {}))
    made.write_manifest(Manifest(entries, BestEpoch(best, f"checkpoint_epoch_{best}.pt")))
    lineage.record(made.folder, lineage.FINISHED)
    return made


@given(st.integers(1, 12), st.data(), st.integers(1, 5), st.one_of(st.none(), st.integers(1, 6)))
def test_the_best_the_newest_and_parents_always_stay(tmp_path_factory, epochs, data, last, every):
    best = data.draw(st.integers(1, epochs))
    parents = data.draw(st.sets(st.integers(1, epochs)))
    made = with_epochs(tmp_path_factory.mktemp("r"), epochs, best)
    gone = {e.epoch for e in retention.removable(made, last, every, {f"sha{p}" for p in parents})}
    stay = {
        best,
        *parents,
        *range(epochs - last + 1, epochs + 1),
        *(e for e in range(1, epochs + 1) if every and e % every == 0),
    }
    assert gone == set(range(1, epochs + 1)) - stay


def test_parents_of_experiments_and_of_sweeps_are_in_use(tmp_path):
    made = with_epochs(tmp_path, 3, 3)
    child = experiments.create(Root.open(tmp_path), "child", NOW)
    child.write_config(ExperimentConfig.from_json({"parent": {"experiment": made.id, "epoch": 1, "sha256": "sha1"}}))
    planned = sweep.create(Root.open(tmp_path), "s", NOW)
    files.write_json(planned.folder / layout.SWEEP, {"parent": {"sha256": "sha2"}, "branches": []})
    broken = experiments.create(Root.open(tmp_path), "broken", NOW)
    (broken.folder / "experiment_config.json").write_text("{")
    assert retention.in_use(Root.open(tmp_path)) == {"sha1", "sha2"}


def test_removal_is_logged_and_leaves_a_manifest_that_is_true(tmp_path):
    made = with_epochs(tmp_path, 4, 2)
    done = retention.remove(made, retention.removable(made, 1, None, set()), "a test")
    assert (done.freed, [e.epoch for e in done.entries], done.spared) == (40, [1, 3], [])
    assert [e.epoch for e in made.entries()] == [2, 4]
    assert sorted(p.name for p in made.folder.glob("*.pt")) == [
        *("checkpoint_epoch_2.pt", "checkpoint_epoch_4.pt", "epoch_2_model.pt", "epoch_4_model.pt"),
    ]
    events = [json.loads(line) for line in (made.folder / "lineage.jsonl").read_text().splitlines()]
    assert events[-1]["text"] == "removed checkpoint_epoch_1.pt, checkpoint_epoch_3.pt (a test)"
    assert made.status() == "finished"


def test_a_run_keeps_what_it_is_asked_to(quick_run, quick_child):
    run = quick_run(training={"epochs": 5}, checkpoint={"keep": {"last": 1, "every": 2}})
    best = run.manifest().best.epoch
    assert {e.epoch for e in run.entries()} == {2, 4, 5, best}
    assert all(e.verify(run.folder) is None for e in run.entries())
    child = quick_child(f"{run.id}@2", epochs=1)  # what is left can be branched from
    assert child.status() == "finished"


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        (None, None),
        ({}, None),
        ({"checkpoint": "x"}, None),
        ({"checkpoint": {"keep": "all"}}, None),
        ({"checkpoint": {"keep": {"last": 2, "every": None}}}, (2, None)),
        ({"checkpoint": {"keep": {"last": 2, "every": 5}}}, (2, 5)),
        ({"checkpoint": {"keep": {"last": "x"}}}, "last"),
        ({"checkpoint": {"keep": {"last": 0}}}, "last"),
        ({"checkpoint": {"keep": {"last": 1, "every": -1}}}, "every"),
    ],
)
def test_the_rule_of_an_experiment_or_what_is_wrong_with_it(tmp_path, settings, rule):
    made = with_epochs(tmp_path, 2, 2)
    files.write_json(made.folder / layout.CONFIG, {} if settings is None else {"settings": settings})
    if isinstance(rule, str):
        with pytest.raises(StoreError, match=rf"checkpoint\.keep in .*{rule}"):
            retention.rule(made)
    else:
        assert retention.rule(made) == rule


def test_a_parent_stays_also_where_its_child_is_damaged_elsewhere(tmp_path):
    child = experiments.create(Root.open(tmp_path), "child", NOW)
    wrong = {"parent": {"experiment": "x", "epoch": 1, "sha256": "sha1"}, "class_counts": 7}
    files.write_json(child.folder / layout.CONFIG, wrong)
    with pytest.raises(StoreError, match="class_counts must be a mapping, not 7"):
        child.config()
    assert retention.in_use(Root.open(tmp_path)) == {"sha1"}


def child_of(root: Path, sha: str, name: str = "child") -> Experiment:
    made = experiments.create(Root.open(root), name, NOW)
    made.write_config(ExperimentConfig.from_json({"parent": {"experiment": "run", "epoch": 1, "sha256": sha}}))
    return made


def test_a_child_whose_configuration_is_lost_is_known_by_its_log(tmp_path):
    child = child_of(tmp_path, "sha1")
    lineage.record(child.folder, lineage.START)
    lineage.record(child.folder, lineage.RESUME, sha256="sha1")
    (child.folder / layout.CONFIG).write_text("{")
    used = retention.InUse(Root.open(tmp_path))
    assert (used.look(), used.unknown) == ({"sha1"}, [])
    (child.folder / layout.LINEAGE).unlink()
    used = retention.InUse(Root.open(tmp_path))
    assert (used.look(), used.unknown) == (set(), [child.id])


def test_looking_again_reads_only_what_is_new(tmp_path, monkeypatch):
    child_of(tmp_path, "sha1")
    used = retention.InUse(Root.open(tmp_path))
    used.look()
    read, original = [], Experiment.written_config

    def counted(self: Experiment):
        read.append(self.id)
        return original(self)

    monkeypatch.setattr(Experiment, "written_config", counted)
    new = child_of(tmp_path, "sha2", "other")
    assert used.look() == {"sha1", "sha2"}
    assert read == [new.id]


def test_a_child_that_was_recorded_after_the_first_look_keeps_its_source(tmp_path):
    made = with_epochs(tmp_path, 4, 4)
    used = retention.InUse(Root.open(tmp_path))
    entries = retention.removable(made, 1, None, used.look())
    child_of(tmp_path, "sha2")
    done = retention.remove(made, entries, "a test", used)
    assert [e.epoch for e in done.spared] == [2]
    assert [e.epoch for e in made.entries()] == [2, 4]
    assert (made.folder / "checkpoint_epoch_2.pt").exists()
    assert (made.folder / "epoch_2_model.pt").exists()


def test_a_child_that_is_being_recorded_keeps_its_source(tmp_path):
    made = with_epochs(tmp_path, 4, 4)
    entries = retention.removable(made, 1, None, set())
    with (
        retention.claimed(made.folder / "checkpoint_epoch_1.pt"),
        retention.claimed(made.folder / "checkpoint_epoch_1.pt"),
    ):
        done = retention.remove(made, entries, "a test")
    assert [e.epoch for e in done.spared] == [1]
    assert [e.epoch for e in made.entries()] == [1, 4]


def test_who_claims_while_a_checkpoint_is_deleted_waits_and_is_told(tmp_path, monkeypatch):
    """Between the last look at the children and the deletion, another thread wants to record a child."""
    import threading

    made = with_epochs(tmp_path, 2, 2)
    path, told, waiting = made.folder / "checkpoint_epoch_1.pt", [], threading.Event()

    def claim() -> None:
        waiting.set()
        try:
            with retention.claimed(path):
                child_of(tmp_path, "sha1")
        except CheckpointError as error:
            told.append(str(error))

    other, write = threading.Thread(target=claim), Experiment.write_manifest

    def delayed(self: Experiment, manifest: Manifest) -> None:
        other.start()
        waiting.wait()
        other.join(0.2)  # it cannot go on before this process has finished
        assert other.is_alive()
        write(self, manifest)

    monkeypatch.setattr(Experiment, "write_manifest", delayed)
    retention.remove(made, made.entries()[:1], "a test")
    other.join()
    assert len(told) == 1
    assert "checkpoint_epoch_1.pt has been deleted meanwhile" in told[0]
    assert retention.in_use(Root.open(tmp_path)) == set()


def test_a_child_of_a_checkpoint_that_was_just_deleted_leaves_no_folder(quick_run, quick_child, tmp_path, monkeypatch):
    from raysweep.plan import child

    run = quick_run(training={"epochs": 2})
    planned = child.plan_child

    def meanwhile(*args, **options):
        plan = planned(*args, **options)
        retention.remove(run, run.entries()[:1], "a test")
        return plan

    monkeypatch.setattr(child, "plan_child", meanwhile)
    with pytest.raises(CheckpointError, match="has been deleted meanwhile"):
        quick_child(f"{run.id}@1", epochs=1)
    assert [p.name for p in (tmp_path / "experiments").iterdir() if not p.name.startswith(".")] == [run.id]


def test_hundreds_of_checkpoints_go_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(retention, "_AT_ONCE", 3)
    made = with_epochs(tmp_path, 10, 10)
    child_of(tmp_path, "sha5")
    done = retention.remove(made, made.entries()[:-1], "a test")
    assert [e.epoch for e in done.entries] == [1, 2, 3, 4, 6, 7, 8, 9]
    assert [e.epoch for e in made.entries()] == [5, 10]
    assert len(lineage.read(made.folder)) == 2


def test_bytes_that_another_name_keeps_are_not_called_free(tmp_path):
    import os

    made = with_epochs(tmp_path, 2, 2)
    os.link(made.folder / "checkpoint_epoch_1.pt", tmp_path / "other")
    assert retention.remove(made, made.entries()[:1], "a test").freed == 10
