"""Records: what is read is written again to the byte, unknown keys included; what is changed is all that changes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime

import pytest

from raysweep.store import files, layout, lineage, sweep
from raysweep.store.experiment import Experiment
from raysweep.store.fields import FIELDS, Row
from raysweep.store.records import BranchRef, ExperimentConfig, LineageEvent, ParentRef
from raysweep.store.records_manifest import BestEpoch, Manifest, ManifestEntry
from raysweep.store.records_sweep import BranchRecord, SweepRecord
from raysweep.store.root import Root

PARENT = {"experiment": "p", "epoch": 3, "batch": 0, "sha256": "0", "file": "f", "new": [1]}
CONFIG = {
    "from_the_future": {"x": 1},
    "experiment_name": "kid",
    "timestamp": "20260101_000000",
    "sampling_weights": {"a": 2.0},
    "num_epochs": 2,
    "sample_per_class": None,
    "parent": PARENT,
    "fresh_optimizer": False,
    "sweep": "s",
    "branch": {"name": "b", "control": True, "seed": None},
    "threads": None,
    "settings": {"seed": 7, "checkpoint": {"keep": None}},
    "another": None,
}


def test_a_configuration_is_written_as_it_was_read(tmp_path):
    experiment = Experiment(tmp_path)
    files.write_json(tmp_path / layout.CONFIG, CONFIG)
    before = (tmp_path / layout.CONFIG).read_bytes()
    experiment.write_config(experiment.config())
    assert (tmp_path / layout.CONFIG).read_bytes() == before
    experiment.write_config(replace(experiment.config(), threads=4, world_size=2))
    assert (tmp_path / layout.CONFIG).read_text() == json.dumps(
        {**CONFIG, "threads": 4, "world_size": 2}, indent=2
    ) + "\n"


def test_a_configuration_has_typed_parts():
    config = ExperimentConfig.from_json(CONFIG)
    assert config.parent == ParentRef("p", 3, 0, "0", "f", more={"new": [1]})
    assert config.parent.reference == "p@3"
    assert config.branch == BranchRef("b", True)
    assert (config.fork, config.setting("seed"), config.setting("checkpoint", "keep", "last")) == (3, 7, None)
    assert config.more == {"from_the_future": {"x": 1}, "another": None}
    old = ExperimentConfig.from_json({})
    assert (old.fork, old.settings, old.parent, old.setting("seed")) == (0, None, None, None)
    assert old.to_json() == {}


def test_a_record_that_is_made_has_all_names_but_those_that_say_nothing():
    assert list(ParentRef("p", 3, 0, "0", "f").to_json()) == ["experiment", "epoch", "batch", "sha256", "file"]
    assert ParentRef("p", 3).to_json() == {"experiment": "p", "epoch": 3}
    made = BranchRecord("b", seed=1).to_json()
    assert list(made) == ["name", "control", "seed", "weights", "shares", "experiment", "status"]
    assert list(SweepRecord(branches=(BranchRecord("b"),)).to_json())[-1] == "branches"


def test_a_sweep_keeps_what_a_newer_version_wrote(tmp_path):
    made = sweep.create(Root.open(tmp_path), "s", datetime(2026, 1, 2))
    branches = [{"name": "b", "new": 1, "weights": {"a": 1.0}, "status": "failed", "reason": "why"}]
    made.write_record(SweepRecord.from_json({"new": [1, {}], "name": "s", "parent": PARENT, "branches": branches}))
    text = (made.folder / layout.SWEEP).read_bytes()
    made.write_record(made.record())
    assert (made.folder / layout.SWEEP).read_bytes() == text
    assert json.loads(text)["new"] == [1, {}]
    assert made.record().lacks("name", "grid") == ["grid"]
    (branch,) = made.record().branches
    assert replace(branch, reason=None).to_json() == {k: v for k, v in branches[0].items() if k != "reason"}


def test_a_manifest_keeps_what_a_newer_version_wrote(tmp_path):
    row = {
        **{"file": "checkpoint_epoch_1.pt", "bytes": 1, "sha256": "0", "epoch": 1, "batch": None, "created": "now"},
        **{"metrics": {"val_acc": 0.5}, "new": 1},
    }
    best = {"epoch": 1, "file": row["file"], "metric": "val_acc", "value": 0.5, "new": 2}
    value = {"format_version": 1, "experiment": tmp_path.name, "checkpoints": [row], "best": best, "new": 3}
    files.write_json(tmp_path / layout.MANIFEST, value)
    experiment = Experiment(tmp_path)
    manifest = experiment.manifest()
    assert manifest.best == BestEpoch(1, row["file"], "val_acc", 0.5, more={"new": 2})
    before = (tmp_path / layout.MANIFEST).read_bytes()
    experiment.write_manifest(manifest)
    assert (tmp_path / layout.MANIFEST).read_bytes() == before
    entry = ManifestEntry("checkpoint_epoch_2_batch_3.pt", 1, "0", 2, 3, "now")
    experiment.write_manifest(replace(manifest, entries=[entry, *manifest.entries]))
    assert [e.batch for e in experiment.entries()] == [None, 3]
    assert experiment.manifest().ends == list(manifest.entries)
    assert Manifest().to_json("x") == {"format_version": 1, "experiment": "x", "checkpoints": [], "best": None}


@pytest.mark.parametrize("value", [[], {"seq": 1}, {"type": 7}, "x", None])
def test_what_is_no_event_is_refused(value):
    with pytest.raises((KeyError, TypeError)):
        LineageEvent.from_json(value)


def test_an_event_tells_its_changes_whoever_wrote_it():
    told = {"seq": 4, "time": "t", "type": lineage.CONFIGURATION, "changes": {"seed": [0, 7], "x": 3, "y": [1]}}
    event = LineageEvent.from_json(told)
    assert event.changes == {"seed": (0, 7)}
    assert event.to_json() == told
    for odd in ({}, {"changes": 7, "given": [1]}):
        event = LineageEvent(1, "t", lineage.RESUME, odd)
        assert (event.changes, event.given) == ({}, {})


def test_a_row_of_the_list_comes_back_from_json():
    row = Row("i", "n", parent=ParentRef("p", 3, sha256="0"), change={"a": (1.0, 2.0)}, path="x", note="why")
    assert list(row.to_json()) == [*FIELDS, "note"]
    assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row
    assert list(Row("i", "n").to_json()) == list(FIELDS)
