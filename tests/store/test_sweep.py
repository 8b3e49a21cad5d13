"""A sweep's folder: unique, found again, and its derived files rebuilt from the branches' own folders."""

from __future__ import annotations

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from raysweep.errors import AmbiguousReferenceError, NotFoundError, RootError, StoreError
from raysweep.store import experiment as experiments
from raysweep.store import experiment as store
from raysweep.store import layout, lineage, resolve, sweep
from raysweep.store.records import ExperimentConfig
from raysweep.store.records_manifest import Manifest, ManifestEntry
from raysweep.store.records_sweep import SweepRecord
from raysweep.store.results import read_results, refresh
from raysweep.store.root import Root

NOW = datetime(2026, 1, 2, 3, 4, 5)
METRICS = {
    "val_acc": 0.5,
    "val_macro_f1": 0.4,
    "balanced_accuracy": 0.45,
    "val_loss": 1.0,
    "worst_class": "=cmd()",
    "worst_recall": 0.1,
}


def branch_folder(root: Path, of: str, name: str, accuracy: float, control: bool = False, searched: bool = False):
    """A finished branch of one epoch, as its own process would have left it."""
    made = experiments.create(Root.open(root), f"s-{name}", NOW)
    made.write_config(
        ExperimentConfig.from_json(
            {
                "sampling_weights": {"a": 1.0},
                "sweep": of,
                "branch": {"name": name, "control": control, "seed": 0},
                "num_epochs": 1,
            }
        )
    )
    metrics = {**METRICS, "val_acc": accuracy}
    made.write_manifest(Manifest([ManifestEntry("checkpoint_epoch_1.pt", 1, "0", 1, None, "now", metrics)]))
    lineage.record(made.folder, lineage.FINISHED, epochs=1)
    return made


def new_sweep(root: Path, *names: str) -> sweep.Sweep:
    made = sweep.create(Root.open(root), "s", NOW)
    branches = [{"name": n, "control": n == "control", "seed": 0, "weights": {"a": 1.0}} for n in names]
    made.write_record(SweepRecord.from_json({"branches": branches, "name": "s"}))
    return made


def test_sweeps_of_the_same_second_have_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: sweep.create(Root.open(tmp_path), "s", NOW), range(20)))
    assert len({s.id for s in made}) == 20
    assert all(s.folder.is_dir() for s in made)


@pytest.mark.parametrize("name", ["../x", "", "x" * 51, "a/b", "=x"])
def test_bad_names_leave_no_folder(tmp_path, name):
    with pytest.raises(RootError):
        sweep.create(Root.open(tmp_path / "root"), name, NOW)
    assert not (tmp_path / "root").exists()


def test_branches_are_found_by_what_their_folders_say(tmp_path):
    mine = new_sweep(tmp_path, "control", "x", "y")
    branch_folder(tmp_path, mine.id, "control", 0.5, control=True)
    branch_folder(tmp_path, mine.id, "x", 0.75)
    branch_folder(tmp_path, "another", "y", 0.9)
    (tmp_path / "s-half_20260102_030405").mkdir()  # a branch killed before it wrote anything
    (tmp_path / "s-link_20260102_030405").symlink_to(tmp_path / "s-x_20260102_030405")
    assert set(mine.experiments()) == {"control", "x"}
    record = refresh(mine, {"y": "its process died"})
    assert [(b.name, b.status) for b in record.branches] == [
        *(("control", "finished"), ("x", "finished"), ("y", "missing")),
    ]
    assert record.branches[2].reason == "its process died"
    assert mine.record() == record


def test_branches_that_a_search_chose_are_added_once(tmp_path):
    mine = new_sweep(tmp_path, "control")
    branch_folder(tmp_path, mine.id, "drawn", 0.6)
    for _ in range(2):
        record = refresh(mine)
    assert [(b.name, b.searched) for b in record.branches] == [("control", False), ("drawn", True)]


def test_results_compare_with_the_control_and_are_safe_in_a_spreadsheet(tmp_path):
    mine = new_sweep(tmp_path, "control", "x", "y")
    branch_folder(tmp_path, mine.id, "control", 0.5, control=True)
    branch_folder(tmp_path, mine.id, "x", 0.75)
    refresh(mine)
    text = (mine.folder / "results.csv").read_text()
    rows = {r["branch"]: r for r in csv.DictReader(io.StringIO(text))}
    assert float(rows["x"]["val_acc_minus_control"]) == 0.25
    assert rows["y"]["val_acc"] == ""
    assert not any(cell.startswith("=") for row in rows.values() for cell in row.values())


def test_a_damaged_plan_is_an_error_that_names_the_file(tmp_path):
    mine = new_sweep(tmp_path, "control")
    (mine.folder / "sweep.json").write_text("{")
    with pytest.raises(StoreError, match=r"sweep\.json is not valid JSON"):
        mine.record()
    (mine.folder / "sweep.json").write_text(json.dumps({"branches": 3}))
    with pytest.raises(StoreError, match="does not hold a sweep"):
        mine.record()


def test_references(tmp_path):
    mine = new_sweep(tmp_path, "control")
    for reference in (mine.id, "s", "s_2026", str(mine.folder)):
        assert resolve.find_sweep(Root.open(tmp_path), reference).id == mine.id
    new_sweep(tmp_path, "control")
    with pytest.raises(AmbiguousReferenceError, match="fits 2 sweeps"):
        resolve.find_sweep(Root.open(tmp_path), "s")
    with pytest.raises(NotFoundError, match=r"No sweep.*There are: s_"):
        resolve.find_sweep(Root.open(tmp_path), "nothing")


def test_a_copied_branch_does_not_take_its_place_and_a_renamed_sweep_keeps_its_branches(tmp_path):
    import shutil

    made = new_sweep(tmp_path, "control", "b")
    made.write_record(replace(made.record(), id=made.id))
    for name in ("control", "b"):
        branch_folder(tmp_path, made.id, name, 0.5, name == "control")
    refresh(made)
    own = made.experiments()["b"]
    shutil.copytree(own.folder, own.folder.with_name("s-b_19990101_000000"))  # before it by name
    shutil.copytree(own.folder, own.folder.with_name(f"{own.id} copy"))
    assert made.experiments()["b"].id == own.id
    moved = sweep.Sweep(made.folder.rename(made.folder.with_name("better-name")))
    assert moved.experiments()["b"].id == own.id
    assert set(moved.experiments()) == {"control", "b"}


def test_links_that_lead_out_of_the_root_are_no_sweeps(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    mine = new_sweep(outside, "control")
    (root / "sweeps").symlink_to(outside / "sweeps")
    assert sweep.all_sweeps(Root.open(root)) == []
    for reference in (mine.id, "s", str(root / "sweeps" / mine.id)):
        with pytest.raises(NotFoundError):
            resolve.find_sweep(Root.open(root), reference)
    with pytest.raises(RootError, match="leads out of the root"):
        sweep.create(Root.open(root), "s", NOW)
    (root / "sweeps").unlink()
    (root / "sweeps").mkdir()
    (root / "sweeps" / mine.id).symlink_to(mine.folder)
    kept = new_sweep(root, "control")
    (root / "sweeps" / "t_20260102_030405").symlink_to(kept.folder)  # within the root a link is the user's own
    assert {s.id for s in sweep.all_sweeps(Root.open(root))} == {kept.id, "t_20260102_030405"}
    with pytest.raises(NotFoundError, match="leads out of the root"):
        resolve.find_sweep(Root.open(root), str(root / "sweeps" / mine.id))


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ("[" * 200_000, "nested too deep"),
        ('{"branches": [5]}', "branches must be a mapping, not 5"),
        ('{"branches": [{"name": "x"}]}', r"branches\.weights is missing"),
        ('{"branches": [], "parent": "x"}', "parent must be a mapping"),
        ('{"branches": [], "settings": []}', "settings must be a mapping"),
    ],
)
def test_a_plan_of_wrong_types_is_named(tmp_path, plan, told):
    mine = new_sweep(tmp_path, "control")
    (mine.folder / "sweep.json").write_text(plan)
    with pytest.raises(StoreError, match=rf"sweep\.json.*{told}"):
        mine.record()


def test_files_that_still_say_dead_are_read_as_crashed(tmp_path):
    mine = new_sweep(tmp_path, "control")
    refresh(mine)
    for file in (mine.folder / layout.SWEEP, mine.folder / layout.RESULTS):
        text = file.read_text()
        assert "missing" in text
        file.write_text(text.replace("missing", "dead"))
    assert [b.status for b in mine.record().branches] == [store.CRASHED]
    assert [row["status"] for row in read_results(mine)] == [store.CRASHED]
