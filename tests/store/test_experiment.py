"""An experiment's folder: unique and well named, its manifest, and what is used when something in it is damaged."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.errors import NotFoundError, RaysweepError, RootError, StoreError
from raysweep.store import experiment as store
from raysweep.store import files, gate, layout, lineage, lock
from raysweep.store.experiment import Experiment
from raysweep.store.layout import Position
from raysweep.store.records_manifest import BestEpoch, Manifest
from raysweep.store.root import Root
from tests.store.making import checkpoint_file, failing, flip_bit, make_experiment, temps, torch_like

WHEN = datetime(2025, 1, 8, 14, 30, 22)
ID = "exp_20250108_143022"
# Any JSON value; its objects often have the manifest's names, so that the generator gets past the first check.
NAMES = st.sampled_from(["checkpoints", "best", "file", "bytes", "sha256", "epoch", "batch", "metrics"])
FILES = st.sampled_from(
    ["checkpoint_epoch_1.pt", "checkpoint_epoch_2_batch_3.pt", "../../etc/passwd", "best_checkpoint.pt"]
)
any_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), FILES),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(NAMES, st.text()), inner, max_size=6)
    ),
    max_leaves=15,
)
rows = st.fixed_dictionaries(
    {"file": FILES, "bytes": st.integers(), "sha256": st.just("0" * 64), "epoch": st.integers()},
    optional={"batch": any_json, "metrics": any_json},
)
manifests = st.one_of(any_json, st.fixed_dictionaries({"checkpoints": st.lists(rows, max_size=4), "best": any_json}))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


# Making


def test_experiments_of_the_same_second_get_numbers(tmp_path):
    made = [store.create(Root.open(tmp_path / "root"), "exp", WHEN).id for _ in range(4)]
    assert made == [ID, f"{ID}_2", f"{ID}_3", f"{ID}_4"]
    assert sorted(p.name for p in (tmp_path / "root").iterdir()) == made  # and the probe of the root left nothing


def test_many_at_once_get_a_folder_each(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: store.create(Root.open(tmp_path / "root"), "exp", WHEN).id, range(32)))
    assert sorted(made) == sorted(p.name for p in (tmp_path / "root").iterdir())
    assert len(set(made)) == 32


def test_a_probe_left_by_a_kill_does_not_close_the_root(tmp_path, monkeypatch):
    # In a container every run may have the same host name and process number.
    monkeypatch.setattr(os, "rmdir", failing(errno.EBUSY))
    with pytest.raises(RootError):
        Root.open(tmp_path).check_writable()
    monkeypatch.undo()
    assert len(temps(tmp_path)) == 1
    Root.open(tmp_path).check_writable()


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/x",
        "a/b",
        "a\\b",
        "",
        " ",
        ".",
        "..",
        ".hidden",
        "x" * 300,
        "ü" * 110,
        "a\nb",
        "a\0b",
        "CON",
        "nul.txt",
        "sweeps",
        "a@b",
        "a:b",
        "-rf",
        "x.",
        "\u202etxt.exe",
        "a\ud800",
    ],
)
def test_bad_names_are_refused_and_leave_no_folder(tmp_path, name):
    with pytest.raises(RootError, match="The experiment cannot be made: "):
        store.create(Root.open(tmp_path / "root"), name, WHEN)
    assert list(tmp_path.iterdir()) == []


@given(st.one_of(st.text(max_size=130), st.text("./\\ab\0 -@", max_size=6)))
@settings(max_examples=150, deadline=None)
def test_any_name_makes_one_folder_directly_under_the_root_or_none(name):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        try:
            made = store.create(Root.open(root), name, WHEN)
        except RootError:
            assert not root.exists()
        else:
            assert [p.resolve() for p in root.iterdir()] == [made.folder.resolve()]
            assert layout.split_id(made.id) == (name, "20250108_143022")
        assert {p.name for p in Path(folder).iterdir()} <= {"root"}


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_root_that_cannot_be_written_is_named(tmp_path, monkeypatch, number):
    with monkeypatch.context() as m:
        m.setattr(os, "mkdir", failing(number))
        with pytest.raises(
            RootError, match=f"{tmp_path}/root: {os.strerror(number)}. Choose another folder with --root"
        ):
            store.create(Root.open(tmp_path / "root"), "exp", WHEN)
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_is_a_file_is_named(tmp_path):
    (tmp_path / "root").write_text("a file")
    for root in (tmp_path / "root", tmp_path / "root" / "below"):
        with pytest.raises(RootError, match="Experiments cannot be written to"):
            store.create(Root.open(root), "exp")
    assert (tmp_path / "root").read_text() == "a file"


# Configuration


def test_the_configuration_comes_back_and_damage_names_the_file(tmp_path):
    experiment = make_experiment(tmp_path / ID, note="Gefühl")
    assert Experiment.open(experiment.folder).config().more == {"note": "Gefühl"}
    path = experiment.folder / layout.CONFIG
    for content, told in (
        (b"{", "is not valid JSON"),
        (b"[]", "does not hold an object"),
        (b"\xff", "is not valid JSON"),
    ):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=f"{layout.CONFIG} {told}"):
            experiment.config()
    path.unlink()
    with pytest.raises(StoreError, match="could not be read: No such file"):
        experiment.config()
    with pytest.raises(NotFoundError, match=f"{ID} is not an experiment"):
        Experiment.open(experiment.folder)


# The manifest


def test_the_manifest_keeps_every_field_and_the_order_of_time(tmp_path):
    experiment = make_experiment(tmp_path / ID)
    positions = [Position(2, None), Position(10, 4), Position(10, 30), Position(1, None), Position(10, None)]
    entries = [checkpoint_file(experiment.folder, p, {"val_acc": 0.5}) for p in positions]
    best = BestEpoch(2, "checkpoint_epoch_2.pt", "val_acc", 0.5)
    experiment.write_manifest(Manifest(entries, best))
    assert experiment.manifest().best == best
    assert experiment.entries() == [entries[3], entries[0], entries[1], entries[2], entries[4]]


def test_what_the_manifest_does_not_list_does_not_exist(tmp_path):
    experiment = make_experiment(tmp_path / ID, [(1, None), (2, None)])
    checkpoint_file(experiment.folder, Position(3, None))  # a kill came before the commit
    assert [e.epoch for e in experiment.entries()] == [1, 2]
    assert experiment.newest_good()[0].epoch == 2
    with pytest.raises(NotFoundError):
        experiment.entry("3")


@given(manifests)
@settings(max_examples=150, deadline=None)
def test_no_manifest_crashes_the_reader_or_points_out_of_the_folder(value):
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment(folder)
        (experiment.folder / layout.MANIFEST).write_text(json.dumps(value))
        assert all(Path(e.file).name == e.file for e in experiment.entries())
        good, problems = experiment.newest_good()
        assert good is None  # there is no file at all
        assert len(problems) >= len(experiment.entries())
        for which in ("best", "latest", "1"):
            try:
                experiment.entry(which)
            except RaysweepError:
                continue


def test_best_latest_and_numbers(tmp_path):
    experiment = make_experiment(tmp_path / ID, [(4, None), (5, None), (6, 200)], best=4)
    assert experiment.entry("best").file == "checkpoint_epoch_4.pt"
    assert experiment.entry("latest").file == "checkpoint_epoch_6_batch_200.pt"
    assert experiment.entry("5").file == "checkpoint_epoch_5.pt"
    for which in ("6", "7", "-1", "²", "newest", ""):  # epoch 6 has not ended
        with pytest.raises(NotFoundError, match=r"no checkpoint .* It has the epochs 4, 5; @best and @latest work too"):
            experiment.entry(which)


def test_an_experiment_without_checkpoints_says_so(tmp_path):
    experiment = make_experiment(tmp_path / ID)
    for which in ("best", "latest", "1"):
        with pytest.raises(NotFoundError, match="none yet"):
            experiment.entry(which)
    assert experiment.newest_good() == (None, [])


# Falling back


def test_a_first_save_within_an_epoch_that_was_not_committed_is_no_fault(tmp_path):
    experiment = make_experiment(tmp_path / ID, [(1, 7)])
    (experiment.folder / "manifest.json").unlink()
    assert experiment.manifest().problems == ()
    assert experiment.newest_good()[0].batch == 7
    flip_bit(experiment.folder / "checkpoint_epoch_1_batch_7.pt")
    assert len(experiment.manifest().problems) == 2


def test_a_folder_without_an_event_is_removed_and_one_with_events_stays(tmp_path):
    begun = make_experiment(tmp_path / ID, [(1, None)])
    unbegun = store.create(Root.open(tmp_path), "base")
    held = lock.WriterLock.acquire(unbegun.folder)
    unbegun.write_config(begun.config())
    lineage.open_log(unbegun.folder, "base", "", datetime.now())
    (unbegun.folder / layout.LINEAGE).write_text('{"seq": 1, "ty')  # half of the event was written
    held.release()
    for experiment in (begun, unbegun):
        with pytest.raises(StoreError, match="the disk"), store.beginning(experiment):
            raise StoreError("the disk")
    assert [p.name for p in tmp_path.iterdir()] == [begun.id]
    assert begun.newest_good()[0].epoch == 1


def test_a_folder_without_an_event_stays_where_somebody_else_writes_to_it(tmp_path):
    unbegun = store.create(Root.open(tmp_path), "base")
    lock.WriterLock.acquire(unbegun.folder)
    gate.leave(unbegun.folder)  # as for another process
    with pytest.raises(StoreError, match="the disk"), store.beginning(unbegun):
        raise StoreError("the disk")
    assert (unbegun.folder / layout.LOCK).exists()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (truncate, "checkpoint_epoch_3.pt has [0-9,]+ bytes instead of [0-9,]+"),
        (lambda path: path.write_bytes(b""), "checkpoint_epoch_3.pt has 0 bytes instead of"),
        (flip_bit, "checkpoint_epoch_3.pt does not have the recorded SHA-256"),
        (Path.unlink, "checkpoint_epoch_3.pt is missing"),
        (lambda path: (path.unlink(), path.mkdir()), "checkpoint_epoch_3.pt"),
    ],
)
def test_the_newest_good_checkpoint_is_used_and_the_damage_told(tmp_path, harm, told):
    experiment = make_experiment(tmp_path / ID, [(1, None), (2, None), (3, None)])
    harm(experiment.folder / "checkpoint_epoch_3.pt")
    good, problems = experiment.newest_good()
    assert good.epoch == 2
    assert len(problems) == 1
    assert re.search(told, problems[0])
    assert re.search(told, experiment.entry("latest").verify(experiment.folder))
    assert experiment.entry("1").verify(experiment.folder) is None


def test_several_damaged_ones_are_all_told_newest_first(tmp_path):
    experiment = make_experiment(tmp_path / ID, [(1, None), (2, None), (3, 7)])
    flip_bit(experiment.folder / "checkpoint_epoch_3_batch_7.pt")
    truncate(experiment.folder / "checkpoint_epoch_2.pt")
    good, problems = experiment.newest_good()
    assert good.epoch == 1
    assert [p.split()[0] for p in problems] == ["checkpoint_epoch_3_batch_7.pt", "checkpoint_epoch_2.pt"]
    flip_bit(experiment.folder / "checkpoint_epoch_1.pt")
    assert experiment.newest_good()[0] is None


def test_damage_that_is_older_is_not_looked_for(tmp_path):
    experiment = make_experiment(tmp_path / ID, [(1, None), (2, None)])
    flip_bit(experiment.folder / "checkpoint_epoch_1.pt")
    good, problems = experiment.newest_good()
    assert (good.epoch, problems) == (2, [])


def test_a_checkpoint_that_is_a_link_out_of_the_root_is_refused(tmp_path):
    experiment = make_experiment(tmp_path / "root" / ID, [(1, None), (2, None)])
    path = experiment.folder / "checkpoint_epoch_2.pt"
    outside = tmp_path / "outside.pt"
    path.rename(outside)
    path.symlink_to(outside)  # same bytes, same hash
    good, problems = experiment.newest_good()
    assert good.epoch == 1
    assert problems == ["checkpoint_epoch_2.pt is a link that leads out of the root"]
    path.unlink()
    outside.rename(tmp_path / "root" / "kept.pt")
    path.symlink_to(tmp_path / "root" / "kept.pt")  # within the root it is anybody's own way to save space
    assert experiment.newest_good()[0].epoch == 2


# A manifest that is gone


def lose(experiment: Experiment, how: str) -> None:
    path = experiment.folder / layout.MANIFEST
    path.unlink() if how == "missing" else truncate(path)
    if how == "torn":
        path.write_bytes(path.read_bytes()[:-30])


def write_history(experiment: Experiment, epochs: int) -> None:
    text = "train_loss,train_acc,val_loss,val_acc,epoch,val_macro_f1,recall_a\n"
    text += "".join(f"1.5,0.5,1.25,{e / 10},{e},{e / 20},\n" for e in range(1, epochs + 1))
    (experiment.folder / layout.HISTORY_CSV).write_text(text)


@pytest.mark.parametrize("how", ["missing", "torn"])
def test_without_the_manifest_what_verifies_by_itself_is_used_and_it_is_said(tmp_path, how):
    experiment = make_experiment(tmp_path / ID, [(1, None), (2, None), (3, None), (4, 8)], best=2)
    write_history(experiment, 3)
    before = experiment.entries()
    lose(experiment, how)
    flip_bit(experiment.folder / "checkpoint_epoch_4_batch_8.pt")
    good, problems = experiment.newest_good()
    assert good.epoch == 3
    assert f"manifest.json is {how}" in problems[0]
    assert "checkpoint_epoch_4_batch_8.pt" in problems[1]
    assert [(e.file, e.bytes, e.sha256) for e in experiment.entries()] == [
        (e.file, e.bytes, e.sha256) for e in before[:3]
    ]
    assert experiment.entry("latest") == good
    # What chooses the best epoch comes back too, from the history.
    assert [e.metrics["val_acc"] for e in experiment.entries()] == [0.1, 0.2, 0.3]
    assert good.metrics == {
        "train_loss": 1.5,
        "train_acc": 0.5,
        "val_loss": 1.25,
        "val_acc": 0.3,
        "val_macro_f1": 0.15,
    }
    experiment.write_manifest(Manifest(experiment.entries(), None))  # the next commit makes it whole again
    assert experiment.newest_good() == (good, [])


def test_without_the_manifest_an_epoch_that_was_never_committed_does_not_count(tmp_path):
    # A kill between the file and the first manifest: nothing but the file tells of epoch 1, which is trained anew.
    experiment = make_experiment(tmp_path / ID)
    checkpoint_file(experiment.folder, Position(1, None))
    assert experiment.entries() == []
    assert experiment.newest_good() == (None, [])
    # A later checkpoint proves that the earlier one was committed, also where the history is lost.
    checkpoint_file(experiment.folder, Position(2, 5))
    assert [e.position for e in experiment.entries()] == [(1, None), (2, 5)]


def test_without_the_manifest_files_that_are_no_checkpoints_are_left_alone(tmp_path):
    experiment = make_experiment(tmp_path / ID, [(1, None), (2, None)])
    write_history(experiment, 2)
    lose(experiment, "missing")
    (experiment.folder / "checkpoint_epoch_3.pt").write_bytes(b"no container")
    (experiment.folder / "checkpoint_epoch_4.pt").mkdir()
    torch_like(tmp_path.parent / "outside.pt", b"x")
    (experiment.folder / "checkpoint_epoch_5.pt").symlink_to(tmp_path.parent / "outside.pt")
    torch_like(experiment.folder / "epoch_2_model.pt", b"x")
    assert [e.epoch for e in experiment.entries()] == [1, 2]


def test_a_folder_of_the_old_system_has_no_manifest_and_is_not_called_damaged(tmp_path):
    experiment = make_experiment(tmp_path / ID)
    (experiment.folder / layout.LINEAGE).unlink()
    checkpoint_file(experiment.folder, Position(1, None))
    checkpoint_file(experiment.folder, Position(2, None))
    assert experiment.newest_good() == (None, [])
    assert experiment.status() == store.LEGACY


# Status


@pytest.mark.parametrize(
    ("kinds", "writer", "status"),
    [
        ([lineage.START], "alive", store.RUNNING),
        ([lineage.START], "elsewhere", store.RUNNING),  # cannot be asked: not called crashed
        ([lineage.START], "dead", store.CRASHED),
        ([lineage.START], None, store.CRASHED),
        ([lineage.START, lineage.INTERRUPTED], None, store.INTERRUPTED),
        ([lineage.START, lineage.INTERRUPTED, lineage.CONTINUED], "alive", store.RUNNING),
        ([lineage.START, lineage.FINISHED], None, store.FINISHED),
        ([lineage.START, lineage.FINISHED, lineage.NOTE], None, store.FINISHED),
        ([lineage.START, lineage.FAILED], "alive", store.FAILED),
        ([], "alive", store.RUNNING),  # it has the lock and is about to write its first event
        ([], None, store.LEGACY),
    ],
)
def test_status(tmp_path, kinds, writer, status):
    for kind in kinds:
        lineage.record(tmp_path, kind)
    if writer is not None:
        lock.WriterLock.acquire(tmp_path)
        change = {"dead": {"started": "1"}, "elsewhere": {"host": "elsewhere"}}.get(writer, {})
        held = json.loads((tmp_path / layout.LOCK).read_text())
        (tmp_path / layout.LOCK).write_text(json.dumps(held | change))
    assert Experiment(tmp_path).status() == status


def test_a_damaged_log_is_not_called_a_folder_of_the_old_system(tmp_path):
    lineage.record(tmp_path, lineage.START)
    (tmp_path / layout.LINEAGE).write_bytes(b"damaged\n")
    with pytest.raises(StoreError, match="damaged"):
        Experiment(tmp_path).status()


# Files that somebody else may have written


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"parent": "x"}, "parent must be a mapping, not 'x'"),
        ({"parent": {"experiment": "a", "epoch": "1" * 5000}}, r"parent\.epoch must be a whole number"),
        ({"class_counts": 7}, "class_counts must be a mapping, not 7"),
        ({"class_counts": {"a": -1}}, "class_counts is wrong: the number of class 'a' must be a whole number"),
        ({"sampling_weights": {"a": "1"}}, "the weight of class 'a' must be a number"),
        ({"settings": "x"}, "settings must be a mapping"),
        ({"branch": {}}, r"branch\.name is missing"),
    ],
)
def test_a_configuration_of_wrong_types_is_named(tmp_path, values, told):
    experiment = make_experiment(tmp_path / ID, **values)
    with pytest.raises(StoreError, match=rf"{layout.CONFIG} is damaged: .*{told}"):
        experiment.config()


def test_a_row_stands_where_its_files_name_says(tmp_path):
    experiment = make_experiment(tmp_path / ID, [(1, None), (2, None)], best=1)
    path = experiment.folder / layout.MANIFEST
    path.write_text(path.read_text().replace('"epoch": 2', '"epoch": 9'))
    good, problems = experiment.newest_good()
    assert (good.epoch, [e.epoch for e in experiment.entries()]) == (2, [1, 2])
    assert problems == ["manifest.json contradicts the name of checkpoint_epoch_2.pt, which counts"]


@pytest.mark.parametrize(
    ("best", "value"),
    [
        ({"file": 7, "epoch": "x", "value": "y"}, None),
        ({"file": "../../etc/passwd", "epoch": 1, "value": 1.0}, None),
        ({"file": "checkpoint_epoch_1.pt", "epoch": 2, "value": 1.0}, None),
        ({"file": "checkpoint_epoch_2_batch_3.pt", "epoch": 2, "value": 1.0}, None),
        ({"file": "checkpoint_epoch_" + "1" * 5000 + ".pt", "epoch": 1, "value": 1.0}, None),
        ({"file": "checkpoint_epoch_2.pt", "epoch": 2, "value": 0.7}, 0.7),
        ({"file": "checkpoint_epoch_2.pt", "epoch": 2, "value": "y", "metric": "val_acc"}, 0.2),
        ({"file": "checkpoint_epoch_2.pt", "epoch": 2, "metric": "other"}, -1.0),
        ("x", None),
    ],
)
def test_the_best_is_what_a_writer_can_rely_on_or_none(tmp_path, best, value):
    experiment = make_experiment(tmp_path / ID, [(1, None), (2, None)])
    path = experiment.folder / layout.MANIFEST
    files.write_json(path, {**files.read_json(path), "best": best})
    found = experiment.manifest().best
    assert (found and found.value) == value


def test_metrics_are_numbers_and_the_texts_they_should_be(tmp_path):
    experiment = make_experiment(tmp_path / ID)
    metrics = {"val_acc": "\x1b[2J", "val_loss": 0.5, "worst_class": "a", "worst_recall": [1], "order_sha256": None}
    experiment.write_manifest(Manifest([checkpoint_file(experiment.folder, Position(1, None), metrics)]))
    assert experiment.entry("1").metrics == {"val_loss": 0.5, "worst_class": "a", "order_sha256": None}


def test_a_pipe_in_a_checkpoints_place_is_not_waited_for(tmp_path):
    experiment = make_experiment(tmp_path / ID, [(1, None), (2, None)])
    path = experiment.folder / "checkpoint_epoch_2.pt"
    path.unlink()
    os.mkfifo(path)
    for _ in range(2):  # with the manifest and without
        good, problems = experiment.newest_good()
        assert good.epoch == 1
        assert any("checkpoint_epoch_2.pt" in p for p in problems)
        write_history(experiment, 2)
        (experiment.folder / layout.MANIFEST).unlink(missing_ok=True)


def test_a_root_with_nul_is_refused_in_words(tmp_path):
    with pytest.raises(RootError, match="embedded null byte"):
        Root.open(tmp_path / "a\x00b").check_writable()
