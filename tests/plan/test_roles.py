"""Roles belong to the lineage: an image keeps its role, and what an ancestor was trained on is never for validation or testing."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from raysweep.data import cache
from raysweep.data.roles import record
from raysweep.errors import DataError, StoreError
from raysweep.store import layout, resolve
from raysweep.store.root import Root
from tests.conftest import draw_classes, small_settings

ONE = {"training": {"epochs": 1, "batch_size": 16}, "sampling": {"samples_per_epoch": 32}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A root with a run on class folders without a split, and one on folders with ``train/`` and ``val/``."""
    from raysweep.launch import run as launching
    from raysweep.launch.workers import start as workers
    from raysweep.plan import experiment as experiment_plan
    from raysweep.training.loop import train
    from tests.conftest import Recorder

    home = tmp_path_factory.mktemp("roles")
    draw_classes(home / "unsplit", {"cat": 40, "dog": 24})
    draw_classes(home / "both" / "train", {"cat": 20, "dog": 12})
    draw_classes(home / "both" / "val", {"cat": 6, "dog": 5}, seed=1)
    copy = home / "both" / "val" / "cat" / "copy.png"  # the data themselves have it on both sides
    copy.write_bytes((home / "both" / "train" / "cat" / "0019.png").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "in_this_process", lambda job, fitted, progress: train(job, Recorder()))
        for name in ("unsplit", "both"):
            settings = small_settings(
                home / "e", data={"source": "auto", "path": str(home / name)}, experiment={"name": name}, **ONE
            )
            launching.run(experiment_plan.plan_experiment(settings))
    return home


class Lineage:
    """A copy of the data and of the run on them, to be changed by a test."""

    def __init__(self, home, tmp_path, name: str) -> None:
        self.folder = tmp_path / name
        shutil.copytree(home / name, self.folder)
        shutil.copytree(home / "e", tmp_path / "e")
        self.root = Root.open(tmp_path / "e")
        self.run = resolve.find_experiment(self.root, name)
        self.data = cache.find(os.environ["RAYSWEEP_CACHE"], self.run.config().data_sha256)

    def child(self, **data):
        """The plan of a child whose data are now in ``folder``."""
        from raysweep.plan import child
        from raysweep.plan import parent as parents

        over = {"data": {"path": str(self.folder), **data}}
        return child.plan_child(parents.read_parent(self.root, f"{self.run.id}@1"), self.root, overrides=over)

    def move(self, source: str, target: str) -> None:
        (self.folder / target).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / source).rename(self.folder / target)

    def add(self, counts: dict[str, int]) -> None:
        draw_classes(self.folder.parent / "new", counts, seed=7)
        for file in (self.folder.parent / "new").rglob("*.png"):
            file.rename(self.folder / file.parent.name / f"new_{file.name}")


@pytest.fixture
def unsplit(made, tmp_path):
    return Lineage(made, tmp_path, "unsplit")


@pytest.fixture
def both(made, tmp_path):
    return Lineage(made, tmp_path, "both")


def digests(folder, part: str) -> set[bytes]:
    return set(np.load(folder / f"{part}_digests.npy").tolist())


def test_what_is_recorded_comes_back(unsplit):
    roles = record.read(unsplit.run.folder)
    assert (len(roles.trained), len(roles.val)) == (len(unsplit.data.train.labels), len(unsplit.data.val.labels))
    assert (len(roles.sealed), roles.groups, roles.on_test) == (0, None, False)
    assert record.read(unsplit.folder) is None


@pytest.mark.parametrize("recorded", [True, False])
def test_images_keep_their_roles_when_the_data_grow(unsplit, recorded):
    """Also where an earlier version recorded its split only by the hash of the data."""
    if not recorded:
        (unsplit.run.folder / layout.ROLES).unlink()
    unsplit.add({"cat": 24, "dog": 12})
    plan = unsplit.child()
    for part in ("train", "val"):
        assert digests(unsplit.data.folder, part) < digests(plan.data.folder, part)
    assert dict(plan.data.reading.validation) == {"cat": 13, "dog": 10}
    assert len(plan.roles.trained) == len(digests(plan.data.folder, "train"))


def test_a_split_that_kept_its_roles_is_made_again_from_the_record(unsplit, tmp_path):
    """Where the cache is gone when the child trains, or continues."""
    unsplit.add({"cat": 9})
    plan = unsplit.child()
    known = plan.roles.known
    again = cache.load_as(plan.settings.data, tmp_path / "cache", plan.data.sha256, known)
    assert again.sha256 == plan.data.sha256
    assert cache.load(plan.settings.data, tmp_path / "cache").sha256 != plan.data.sha256  # the control of this test


def test_an_image_that_was_trained_on_is_refused_for_validation(both):
    for i in range(3):
        both.move(f"train/cat/000{i}.png", f"val/cat/moved{i}.png")
    with pytest.raises(DataError, match=rf"{both.run.id}@1 or an ancestor of it was trained on 3 validation images"):
        both.child()


def test_an_image_that_was_trained_on_is_refused_for_testing(both):
    both.move("train/cat/0000.png", "test/cat/moved.png")
    with pytest.raises(DataError, match="trained on 1 test image of these data"):
        both.child()


def test_what_a_grandparent_was_trained_on_is_refused(both):
    both.move("train/cat/0000.png", "../aside.png")
    roles = both.child().roles
    assert len(roles.trained) == 32
    record.write(both.run.folder, roles)  # as the child would have
    both.move("../aside.png", "val/cat/back.png")
    with pytest.raises(DataError, match="an ancestor of it was trained on 1 validation image"):
        both.child()


def test_copies_that_the_data_have_on_both_sides_are_no_change_of_sides(both):
    assert both.data.reading.copies.leaked == {"cat": 1}
    both.move("train/cat/0003.png", "../aside.png")
    assert len(both.child().roles.val) == 12


def test_another_split_of_what_was_trained_on_is_refused(both):
    with pytest.raises(DataError, match="an ancestor was trained on them"):
        both.child(val="split")


def test_a_continued_experiment_refuses_what_changed_sides(both, without_ray):
    from raysweep.launch import resume as launching

    settings = both.run.config().settings
    longer = {
        **settings,
        "data": {**settings["data"], "path": str(both.folder)},
        "training": {**settings["training"], "epochs": 2},
    }
    both.run.write_config(replace(both.run.config(), settings=longer))
    both.move("train/cat/0000.png", "val/cat/moved.png")
    with pytest.raises(DataError, match=rf"{both.run.id} or an ancestor of it was trained on 1 validation image"):
        launching.continue_experiment(both.root, both.run.id)


def test_where_the_roles_are_gone_it_is_said(both, monkeypatch):
    (both.run.folder / layout.ROLES).unlink()
    monkeypatch.setattr(cache, "find", lambda *_: None)
    shutil.copytree(both.folder, both.folder.parent / "other")
    both.folder = both.folder.parent / "other"
    both.move("train/cat/0000.png", "val/cat/moved.png")
    monkeypatch.setattr("raysweep.plan.roles._read_again", lambda *_: None)
    assert any(f"not checked: which of these images {both.run.id}" in note.text for note in both.child().notes)


def test_a_damaged_record_is_told(both):
    (both.run.folder / layout.ROLES).write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"image_roles\.parquet is damaged"):
        both.child()


def stripped(path, target):
    """A checkpoint as a version without roles wrote it: its settings have none of the options."""
    import torch

    saved = torch.load(path, weights_only=True)
    for key in ("val", "min_val", "max_val", "group"):
        saved["config"]["settings"]["data"].pop(key)
    target.parent.mkdir()
    torch.save(saved, target)
    return target


def test_a_checkpoint_without_roles_means_the_split_that_it_recorded(tmp_path, quick_run, without_ray):
    from raysweep.launch import run as launching
    from raysweep.plan import child
    from raysweep.plan import parent as parents
    from raysweep.report import comparison, predictions, verdict
    from tests.conftest import weights_hash

    draw_classes(tmp_path / "d" / "train", {"cat": 20, "dog": 12})
    draw_classes(tmp_path / "d" / "test", {"cat": 6, "dog": 5}, seed=1)
    data = {"source": "auto", "path": str(tmp_path / "d"), "val": "test", "min_val": 0}
    three = {**ONE, "training": {**ONE["training"], "epochs": 2}}
    whole = quick_run(data=data, **three)
    old = stripped(whole.folder / "checkpoint_epoch_1.pt", tmp_path / "old" / "checkpoint_epoch_1.pt")
    plan = child.plan_child(parents.read_parent(whole.root, str(old)), whole.root, epochs=1)
    assert (plan.settings.data.val, plan.settings.data.min_val) == ("test", 0)
    again = launching.run(plan).experiment
    assert weights_hash(again) == weights_hash(whole)
    assert again.manifest().ends[-1].metrics["val_acc"] == whole.manifest().ends[-1].metrics["val_acc"]
    assert predictions.read(again).on_test
    for log in (again, whole):
        assert "Chosen on the test images (data.val=test)" in (log.folder / layout.CHANGES).read_text()
    found = comparison.compare(whole.root, [whole.id, again.id])
    assert verdict.lines(found)[0].text.startswith("Chosen on the test images")
    (again.folder / layout.ROLES).unlink()  # as an earlier version leaves it: only the log says it, in words
    assert predictions.read(again).on_test


def test_a_new_run_on_the_same_folders_leaves_the_test_images_sealed(tmp_path):
    from raysweep.plan import experiment as experiment_plan

    draw_classes(tmp_path / "d" / "train", {"cat": 30, "dog": 24})
    draw_classes(tmp_path / "d" / "test", {"cat": 6, "dog": 5}, seed=1)
    settings = small_settings(tmp_path / "e", data={"source": "auto", "path": str(tmp_path / "d")}, **ONE)
    plan = experiment_plan.plan_experiment(settings)
    assert (dict(plan.data.reading.validation), plan.data.reading.seal.images) == ({"cat": 10, "dog": 10}, 11)
    assert len(plan.roles.sealed) == 11
    assert not plan.data.reading.on_test
