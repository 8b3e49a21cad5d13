"""A sweep with cells: every branch is compared with the control of its own settings, by every command that compares."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests.cli.test_errors import run_cli
from tests.report.making import sweep_of

CLASSES = ("rare", "some", "many")
BASE, OTHER, BOTH = (0.3, 0.7, 0.8), (0.5, 0.7, 0.8), (0.95, 0.9, 0.9)
SETTINGS = {"loss.kind": "focal"}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """``focal`` is a cell, and ``focal_rare=4`` a branch in it."""
    made = sweep_of(
        tmp_path_factory.mktemp("cells"),
        CLASSES,
        BASE,
        {"focal": ({}, OTHER), "focal_rare=4": ({"rare": 4.0}, BOTH), "rare=4": ({"rare": 4.0}, BASE)},
        seeds=(0, 1, 2),
    )
    record = made.record()
    branches = []
    for b in record.branches:
        arm = b.name.rpartition("-seed")[0]
        own = SETTINGS if arm.startswith("focal") else {}
        branches.append(replace(b, arm=arm, settings=own, reference="focal" if arm == "focal_rare=4" else None))
    made.write_record(replace(record, branches=tuple(branches)))
    return made


def test_a_difference_is_that_from_the_control_of_the_cell(sweep):
    from raysweep.report import comparison
    from raysweep.report.effects import ALL

    found = comparison.of_sweep(sweep)
    assert {b.name: b.reference for b in found.branches} == {"focal": "", "focal_rare=4": "focal", "rare=4": ""}
    assert {b.name: b.settings for b in found.branches}["focal"] == SETTINGS
    recall = {name: found.of(name, "rare", "recall") for name in ("focal", "focal_rare=4", "rare=4")}
    assert recall["focal_rare=4"].reference == pytest.approx(recall["focal"].value)
    assert recall["rare=4"].reference == pytest.approx(recall["focal"].reference)
    assert 0.3 < recall["focal_rare=4"].difference < 0.6
    both = next(b for b in found.branches if b.name == "focal_rare=4")
    focal = next(b for b in found.branches if b.name == "focal")
    assert both.references == focal.experiments
    assert focal.references == found.branches[-1].references
    (mine,) = [p for p in found.pairs if p.name == "focal_rare=4"]
    (its,) = [p for p in found.pairs if p.name == "focal"]
    assert np.array_equal(mine.reference, its.branch)
    # the branch is chosen by what it gains over the one control
    gain = found.findings.chosen("macro_f1")
    assert gain.branch == "focal_rare=4"
    f1 = [found.of(name, ALL, "macro_f1") for name in ("focal_rare=4", "focal")]
    assert gain.gain == pytest.approx(f1[0].value - f1[1].reference)


def test_offsets_are_told_for_every_reference(sweep):
    from raysweep.report import comparison, verdict

    found = comparison.of_sweep(sweep)
    assert found.moved == ["control + offsets", "focal + offsets"]
    assert any("Compared with focal, the control of the same settings: focal_rare=4." in n for n in found.notes)
    lines = [line.text for line in verdict.lines(found)]
    assert any(text.startswith("focal_rare=4 (against focal): macro-F1") for text in lines), lines
    assert any("; focal gets " in text for text in lines), lines


def test_a_branch_without_the_control_of_its_cell_is_left_out(sweep, tmp_path):
    from raysweep.report import comparison
    from raysweep.store import resolve
    from raysweep.store.root import Root

    shutil.copytree(sweep.root.path, tmp_path / "copy")
    sweep = resolve.find_sweep(Root.open(tmp_path / "copy"), sweep.id)
    for name, experiment in sweep.experiments().items():
        if name.startswith("focal-seed"):
            (experiment.folder / "val_predictions.parquet").unlink()
    found = comparison.of_sweep(sweep)
    assert [b.name for b in found.branches] == ["rare=4"]
    assert "focal_rare=4 is omitted, because focal, the control of its cell, is not finished." in found.notes


def test_commands_use_the_reference_of_the_branch(sweep, capsys):
    from raysweep.report import flips, page
    from raysweep.store.results import read_results
    from raysweep.tools import subjects

    found = flips.of_branch(sweep, "focal_rare=4")
    assert (found.reference, found.old_seeds) == ("focal", 3)
    assert flips.of_branch(sweep, "rare=4").reference == "the control"
    root = str(sweep.root.path)
    code, out, _ = run_cli(capsys, "compare", sweep.experiments()["focal_rare=4-seed0"].id, "--root", root)
    assert code == 0
    assert "focal + offsets" in out
    assert "control + offsets" not in out
    code, out, _ = run_cli(capsys, "compare", sweep.id, "--json", "--root", root)
    against = {e["branch"]: e["against"] for e in json.loads(out)["effects"]}
    assert against["focal_rare=4"] == "focal"
    assert against["focal"] == against["rare=4"] == "the control"
    assert {"control + offsets", "focal + offsets"} <= set(against)
    text = page.write(sweep.root, sweep.id).read_text()
    assert "rare 1→4; loss.kind=&#39;focal&#39;; against focal" in text
    subject = subjects.find(sweep.root, sweep.id)
    assert [g.name for g in subject.groups] == ["focal_rare=4", "control"]
    assert all("s-control" in r for r in subject.groups[1].references)
    assert any("the control of the same settings" in n for n in subject.notes)
    from raysweep.store.results import refresh

    refresh(sweep)
    rows = {r["branch"]: r for r in read_results(sweep)}
    mine, its = rows["focal_rare=4-seed1"], rows["focal-seed1"]
    assert mine["val_acc_minus_control"] == pytest.approx(mine["val_acc"] - its["val_acc"])
    assert its["val_acc_minus_control"] == pytest.approx(its["val_acc"] - rows["control-seed1"]["val_acc"])
    assert (mine["reference"], its["reference"]) == ("focal", None)


def test_seeds_are_added_to_the_controls_of_cells_as_to_the_control(sweep):
    from raysweep.launch.sweep.more_seeds import MoreSeeds, extended

    record = extended(sweep.record(), MoreSeeds(1, 3))
    count = {}
    for b in record.branches:
        count[b.arm] = count.get(b.arm, 0) + 1
    assert count == {"control": 6, "focal": 6, "focal_rare=4": 4, "rare=4": 4}
    assert {b.reference for b in record.branches if b.arm == "focal_rare=4"} == {"focal"}


def test_sweeps_of_earlier_versions_mean_the_one_control(tmp_path):
    from raysweep.report import comparison

    old = sweep_of(tmp_path, CLASSES, BASE, {"rare4": ({"rare": 4.0}, OTHER)})
    assert '"arm"' not in (old.folder / "sweep.json").read_text()
    found = comparison.of_sweep(old)
    assert [(b.name, b.reference) for b in found.branches] == [("rare4", "")]
    assert found.moved == ["control + offsets"]


def test_the_command_of_the_sweep_has_what_all_branches_share_and_no_setting_of_a_cell(sweep):
    from raysweep.report import commands
    from raysweep.store import lineage

    for name, experiment in sweep.experiments().items():
        own = {"loss.kind": ["cross_entropy", "focal"]} if name.startswith("focal") else {}
        forked = {
            "training.fork.schedule": [None, "restart"],
            "training.fork.start": [None, 2],
            "training.fork.rate": [None, 0.1],
        }
        changes = {**own, **forked, "training.grad_clip": [None, 1.0]}
        lineage.record(experiment.folder, lineage.CONFIGURATION, changes=changes)
    words, _ = commands.of_sweep(sweep)
    assert "training.fork.schedule" in words
    assert "loss.kind" not in words
    assert "training.fork.start" not in words
    record = sweep.record()
    sweep.write_record(replace(record, grid={**record.grid, "fork": {"schedule": "restart"}}))
    words, grid = commands.of_sweep(sweep)
    assert "training.grad_clip=1.0" in words
    assert "training.fork" not in words
    assert "restart" in grid
    child = commands.of_child(sweep.experiments()["focal-seed0"])
    assert "training.fork.schedule" in child
    assert "loss.kind" in child
    assert "training.fork.start" not in child
    sweep.write_record(record)
