"""What may be deleted, and what never is."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.errors import StoreError
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
    freed = retention.remove(made, retention.removable(made, 1, None, set()), "a test")
    assert freed == 40
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


@pytest.mark.parametrize("dry", [True, False])
def test_the_verb(quick_run, quick_child, tmp_path, capsys, dry):
    from tests.cli.test_errors import run_cli

    run = quick_run(training={"epochs": 4})
    quick_child(f"{run.id}@1", epochs=1, name="young")
    best = run.manifest().best.epoch
    code, out, err = run_cli(
        capsys, "prune", run.id, "--last", 1, *(["--dry-run"] if dry else []), "--root", tmp_path / "experiments"
    )
    assert code == 0
    gone = {1, 2, 3, 4} - {1, best, 4}
    assert out.split("\t")[1] == ", ".join(f"@{e}" for e in sorted(gone))
    left = {e.epoch for e in run.entries()}
    assert left == ({1, 2, 3, 4} if dry else {1, best, 4})
    assert ("nothing was deleted" in err) == dry


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


def test_one_damaged_experiment_does_not_keep_the_others_from_being_pruned(tmp_path, capsys):
    from tests.cli.test_errors import run_cli

    made = with_epochs(tmp_path, 3, 3)
    made.write_config(ExperimentConfig.from_json({"settings": {"checkpoint": {"keep": {"last": 1}}}}))
    broken = experiments.create(Root.open(tmp_path), "broken", NOW)
    files.write_json(broken.folder / layout.CONFIG, {"settings": "x"})
    code, out, err = run_cli(capsys, "prune", "--root", tmp_path)
    assert (code, out.split("\t")[:2]) == (0, [made.id, "@1, @2"])
    assert "broken_20260102_030405 is skipped" in err
