"""Finding experiments by what people type, and saying what each is, also where folders are damaged."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.errors import AmbiguousReferenceError, CheckpointError, NotFoundError, RaysweepError, RootError
from raysweep.store import catalog, layout, lineage, lock, resolve
from raysweep.store import experiment as store
from raysweep.store.records import ExperimentConfig
from raysweep.store.root import Root
from tests.store.making import flip_bit, make_experiment
from tests.store.test_experiment import any_json, manifests

TIME = "20250108_143022"
FIELDS = [
    *("id", "name", "created", "status", "epochs_done", "epochs_target", "best_acc", "best_epoch", "best_macro_f1"),
    *(
        "worst_class",
        "worst_recall",
        "metrics",
        "sampling_weights",
        "seed",
        "parent",
        "parent_best_acc",
        "parent_seed",
        "change",
    ),
    *("sweep", "branch", "control", "path"),
]


def ids(found) -> list[str]:
    return [e.id for e in found]


@pytest.fixture
def root(tmp_path) -> Path:
    """Three experiments; two have one name, and one's name is the beginning of another's."""
    for name in (f"cats_{TIME}", f"dogs_{TIME}", "cats_20250109_000000", f"cats2_{TIME}"):
        make_experiment(tmp_path / "root" / name, [(1, None), (2, None)], best=1)
    return tmp_path / "root"


# Listing


def test_experiments_are_listed_oldest_first(root):
    make_experiment(root / "zebra_20240101_000000")
    assert ids(catalog.experiments(Root.open(root)))[0] == "zebra_20240101_000000"
    assert ids(catalog.experiments(Root.open(root)))[-1] == "cats_20250109_000000"


def test_experiments_of_the_same_second_are_listed_in_the_order_they_were_made(tmp_path):
    made = []
    for _ in range(12):
        experiment = store.create(Root.open(tmp_path), "exp", datetime(2025, 1, 8))
        experiment.write_config(ExperimentConfig.from_json({}))
        made.append(experiment.id)
    assert made[-1].endswith("_12")
    assert ids(catalog.experiments(Root.open(tmp_path))) == made


def test_what_is_no_experiment_is_not_listed(root, tmp_path):
    before = ids(catalog.experiments(Root.open(root)))
    (root / "empty").mkdir()
    (root / "a file").touch()
    make_experiment(root / ".raysweep" / f"x_{TIME}")
    make_experiment(root / ".hidden_20250108_143022")
    outside = make_experiment(tmp_path / "elsewhere" / f"x_{TIME}")
    (root / f"link_{TIME}").symlink_to(outside.folder)
    (root / f"config_is_a_folder_{TIME}" / layout.CONFIG).mkdir(parents=True)
    assert ids(catalog.experiments(Root.open(root))) == before


def test_no_root_is_no_experiments_and_a_file_is_an_error(tmp_path):
    assert catalog.experiments(Root.open(tmp_path / "nowhere")) == []
    (tmp_path / "file").touch()
    with pytest.raises(RootError, match="file"):
        catalog.experiments(Root.open(tmp_path / "file"))


# Finding


def test_an_experiment_is_found_by_id_name_prefix_and_path(root):
    assert resolve.find_experiment(Root.open(root), f"cats_{TIME}").id == f"cats_{TIME}"
    assert resolve.find_experiment(Root.open(root), "dogs").id == f"dogs_{TIME}"
    assert resolve.find_experiment(Root.open(root), "do").id == f"dogs_{TIME}"
    assert (
        resolve.find_experiment(Root.open(root), "cats2").id == f"cats2_{TIME}"
    )  # the whole name; as a prefix alone it would do too
    assert resolve.find_experiment(Root.open(root), "cats_20250109").id == "cats_20250109_000000"
    assert (
        resolve.find_experiment(Root.open(Path("nowhere")), str(root / f"cats_{TIME}")).folder
        == (root / f"cats_{TIME}").resolve()
    )


def test_what_fits_several_names_them(root):
    with pytest.raises(
        AmbiguousReferenceError, match=rf"'cats' fits 2 experiments .*cats_{TIME}, cats_20250109_000000\."
    ):
        resolve.find_experiment(Root.open(root), "cats")
    with pytest.raises(AmbiguousReferenceError, match="'ca' fits 3 experiments"):
        resolve.find_experiment(Root.open(root), "ca")


def test_what_fits_none_gets_a_suggestion(root, tmp_path):
    with pytest.raises(NotFoundError, match=r"called 'dgos'. Did you mean 'dogs'"):
        resolve.find_experiment(Root.open(root), "dgos")
    with pytest.raises(NotFoundError, match=r"There is no experiment under .*raysweep run"):
        resolve.find_experiment(Root.open(tmp_path / "empty"), "dogs")


HOSTILE = ["x" * 5000, "a\0b", "../..", "", "/", "x" * 300 + ".pt", "\ud800", "cats@²", "cats@", "@best", "~", "*"]


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_found_or_refused_in_words(root, text):
    with pytest.raises(NotFoundError):
        resolve.find_experiment(Root.open(root), text)
    with pytest.raises(NotFoundError):
        resolve.find_checkpoint(Root.open(root), text)


@pytest.mark.parametrize(
    ("reference", "split"),
    [
        ("cats@5", ("cats", "5")),
        ("cats@best", ("cats", "best")),
        ("a b.c@latest", ("a b.c", "latest")),
        ("cats", None),
        ("cats@newest", None),
        ("cats@-1", None),
        ("a@b@5", None),
        ("@5", None),
        ("cats@5\n", None),
    ],
)
def test_references(reference, split):
    assert resolve.split_reference(reference) == split


def test_a_checkpoint_is_found_by_reference_and_by_path(root):
    folder = root / f"dogs_{TIME}"
    for reference, epoch in (("dogs@1", 1), ("dogs@latest", 2), ("dogs@best", 1), (f"{folder}@2", 2)):
        experiment, entry, path = resolve.find_checkpoint(Root.open(root), reference)
        assert (experiment.id, entry.epoch, path.name) == (folder.name, epoch, f"checkpoint_epoch_{epoch}.pt")
    experiment, entry, path = resolve.find_checkpoint(Root.open(root), str(folder / "checkpoint_epoch_2.pt"))
    assert (experiment.id, entry.epoch) == (folder.name, 2)
    shutil.copyfile(folder / "checkpoint_epoch_1.pt", folder / layout.BEST)
    _, entry, path = resolve.find_checkpoint(Root.open(root), str(folder / layout.BEST))
    assert (entry.epoch, path.name) == (1, layout.BEST)
    (folder / layout.BEST).write_bytes(b"another")  # what was named is what counts, not what should be there
    _, entry, path = resolve.find_checkpoint(Root.open(root), str(folder / layout.BEST))
    assert (entry, path.name) == (None, layout.BEST)


def test_a_checkpoint_of_no_manifest_is_found_without_an_entry(root, tmp_path):
    (tmp_path / "alone.pt").write_bytes(b"x")
    _, entry, path = resolve.find_checkpoint(Root.open(root), str(tmp_path / "alone.pt"))
    assert entry is None
    assert path == tmp_path / "alone.pt"


def test_a_file_whose_name_looks_like_a_reference_is_that_file(tmp_path, monkeypatch):
    (tmp_path / "cats@5").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert resolve.find_checkpoint(Root.open(tmp_path), "cats@5")[2] == Path("cats@5")


def test_a_missing_checkpoint_says_what_there_is(root):
    with pytest.raises(NotFoundError, match=r"no checkpoint '7'. It has the epochs 1, 2"):
        resolve.find_checkpoint(Root.open(root), "dogs@7")
    with pytest.raises(NotFoundError, match=r"no file nowhere.pt"):
        resolve.find_checkpoint(Root.open(root), "nowhere.pt")
    with pytest.raises(
        NotFoundError, match=r"an experiment, not a checkpoint. Did you mean dogs@best, .* Give a path to a .pt"
    ):
        resolve.find_checkpoint(Root.open(root), "dogs")


# Summaries


def test_the_documented_fields(root):
    experiment = make_experiment(
        root / "child_20250110_010203",
        [(4, None), (5, None), (6, 20)],
        best=4,
        timestamp="20250110_010203",
        sampling_weights={"a": 2.0},
        parent={"experiment": "cats", "epoch": 3, "sha256": "0"},
        sweep="s",
        branch={"name": "heavy", "control": False},
        settings={"seed": 7},
    )
    (experiment.folder / layout.HISTORY_CSV).write_text("val_acc,epoch\n0.8,2\n0.7,3\n0.9,4\n")
    lineage.record(experiment.folder, lineage.RATIO, old_weights={"a": 1, "b": 1}, new_weights={"a": 2.0, "b": 1})
    lineage.record(experiment.folder, lineage.CONFIGURATION, changes={"seed": [3, 7]})
    row = catalog.summary(experiment).to_json()
    assert [k for k in row if k != "note"] == list(FIELDS)
    assert row == {
        "id": "child_20250110_010203",
        "name": "child",
        "created": "2025-01-10T01:02:03",
        "status": store.CRASHED,  # it has no end and nobody holds it
        "epochs_done": 5,
        "epochs_target": 12,  # num_epochs are additional ones
        "best_acc": 0.4,
        "best_epoch": 4,
        "best_macro_f1": 0.2,
        "worst_class": None,
        "worst_recall": None,
        "metrics": {},
        "sampling_weights": {"a": 2.0},
        "seed": 7,
        "parent": {"experiment": "cats", "epoch": 3, "sha256": "0"},
        "parent_best_acc": 0.8,
        "parent_seed": 3,
        "change": {"a": [1.0, 2.0]},
        "sweep": "s",
        "branch": "heavy",
        "control": False,
        "path": str(experiment.folder),
    }


def test_a_folder_of_the_old_system_is_summed_up_from_its_names_and_history(tmp_path):
    folder = tmp_path / f"old_{TIME}"
    folder.mkdir()
    (folder / layout.CONFIG).write_text(json.dumps({"experiment_name": "old", "num_epochs": 3}))
    for name in ("checkpoint_epoch_1.pt", "checkpoint_epoch_3.pt", "checkpoint_epoch_2.pt"):
        (folder / name).touch()
    history = folder / layout.HISTORY_CSV
    history.write_text("train_loss,train_acc,val_loss,val_acc\n1,0.1,1,0.2\n1,0.1,1,0.6\n1,0.1,1,0.5\n")
    row = catalog.summary(store.Experiment(folder)).to_json()
    assert (row["status"], row["epochs_done"], row["best_acc"], row["best_epoch"]) == (store.LEGACY, 3, 0.6, 2)
    assert row["created"] == "2025-01-08T14:30:22"
    for damage in (b"val_acc\n0.5,\n\n,\n", b"train_loss\n1\n", b"a,val_acc\n1\n", b"val_acc\n\0\n", b"\xff\xfe", b""):
        history.write_bytes(damage)
        assert catalog.summary(store.Experiment(folder)).epochs_done == 3


def test_one_damaged_folder_does_not_hide_the_others(root):
    (root / f"dogs_{TIME}" / layout.CONFIG).write_text("{")
    (root / f"cats_{TIME}" / layout.LINEAGE).write_text("damaged\n")
    rows = {e.id: catalog.summary(e).to_json() for e in catalog.experiments(Root.open(root))}
    assert len(rows) == 4
    assert [k for k, r in rows.items() if r["status"] == "damaged"] == [f"cats_{TIME}", f"dogs_{TIME}"]
    assert "is not valid JSON" in rows[f"dogs_{TIME}"]["note"]
    assert "lineage.jsonl is damaged" in rows[f"cats_{TIME}"]["note"]
    assert "note" not in rows[f"cats2_{TIME}"]


def test_a_lost_manifest_is_noted_and_the_checkpoints_still_counted(root):
    experiment = store.Experiment(root / f"dogs_{TIME}")
    (experiment.folder / layout.MANIFEST).unlink()
    (experiment.folder / layout.HISTORY_CSV).write_text("val_acc,epoch\n0.7,1\n0.6,2\n")
    row = catalog.summary(experiment).to_json()
    assert (row["epochs_done"], row["best_epoch"], row["best_acc"]) == (2, 1, 0.7)
    assert "manifest.json is missing" in row["note"]
    flip_bit(experiment.folder / "checkpoint_epoch_2.pt")
    row = catalog.summary(experiment).to_json()
    assert row["epochs_done"] == 1
    assert "checkpoint_epoch_2.pt is damaged" in row["note"]


configs = st.one_of(
    any_json,
    st.dictionaries(
        st.sampled_from(["timestamp", "num_epochs", "parent", "sampling_weights", "sweep", "epoch"]),
        any_json,
        max_size=5,
    ),
    st.fixed_dictionaries({"parent": st.dictionaries(st.sampled_from(["epoch", "experiment"]), any_json)}),
)


@given(configs, st.one_of(st.none(), manifests), st.one_of(st.none(), any_json), st.one_of(st.none(), any_json))
@settings(max_examples=150, deadline=None)
def test_no_content_of_the_files_stops_the_list(config, manifest, event, held):
    """Whatever valid JSON a folder's files hold, ``raysweep list`` has a row for it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / f"exp_{TIME}"
        folder.mkdir()
        for file, value in (
            (layout.CONFIG, config),
            (layout.MANIFEST, manifest),
            (layout.LINEAGE, event),
            (layout.LOCK, held),
        ):
            if value is not None or file == layout.CONFIG:
                (folder / file).write_text(json.dumps(value) + "\n")
        (row,) = [catalog.summary(e).to_json() for e in catalog.experiments(Root.open(Path(name)))]
        assert [k for k in row if k != "note"] == list(FIELDS)
        assert isinstance(row["sampling_weights"], dict)
        assert row["parent"] is None or {"experiment", "epoch"} <= set(row["parent"])
        json.dumps(row)
        try:
            lineage.last(folder)
            who = lock.holder(folder)
            if who is not None:
                lock.alive(who)
        except RaysweepError:
            assert row["status"] == "damaged"
            assert row["note"]


def test_a_checkpoint_that_is_a_link_out_of_the_root_is_refused(root, tmp_path):
    folder = root / f"dogs_{TIME}"
    outside = tmp_path / "outside.pt"
    (folder / "checkpoint_epoch_1.pt").rename(outside)
    for name in ("checkpoint_epoch_1.pt", "best_checkpoint.pt"):
        (folder / name).symlink_to(outside)
        with pytest.raises(CheckpointError, match=f"{name} is a link that leads out of the root"):
            resolve.find_checkpoint(Root.open(root), str(folder / name))
    link = tmp_path / "mine.pt"  # elsewhere a link is the user's own, and what it leads to is what counts
    link.symlink_to(folder / "checkpoint_epoch_2.pt")
    experiment, entry, path = resolve.find_checkpoint(Root.open(root), str(link))
    assert (experiment.id, entry, path) == (folder.name, None, link)


def test_what_no_path_can_be_is_refused_in_words(root):
    with pytest.raises(RootError, match="cannot be read: embedded null byte"):
        catalog.experiments(Root.open(root / "a\0b"))
    with pytest.raises(NotFoundError):
        resolve.find_checkpoint(Root.open(root), f"dogs@{'1' * 5000}")


@pytest.mark.parametrize("name", [layout.CONFIG, layout.MANIFEST, layout.LINEAGE, layout.HISTORY_CSV, layout.LOCK])
@pytest.mark.parametrize("what", ["a pipe", "deep", "a device"])
def test_a_file_that_nobody_would_write_costs_one_row_at_most(root, name, what):
    path = root / f"dogs_{TIME}" / name
    path.unlink(missing_ok=True)
    if what == "a pipe":
        os.mkfifo(path)
    elif what == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text("[" * 200_000 + "\n")
    rows = [catalog.summary(e).to_json() for e in catalog.experiments(Root.open(root))]
    assert len(rows) + (name == layout.CONFIG and what != "deep") == 4  # without a configuration it is no experiment
    json.dumps(rows, allow_nan=False)


def test_numbers_that_json_does_not_have_are_no_accuracy(root):
    path = root / f"dogs_{TIME}" / layout.MANIFEST
    path.write_text(path.read_text().replace('"val_acc": 0.2', '"val_acc": 1e400'))
    row = catalog.summary(resolve.find_experiment(Root.open(root), "dogs")).to_json()
    assert (row["best_acc"], row["epochs_done"]) == (0.1, 2)
