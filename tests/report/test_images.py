"""Which images an experiment was validated on, and which of them are also in training."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from raysweep.errors import NotFoundError, StoreError
from raysweep.store import layout
from raysweep.store.experiment import Experiment
from raysweep.store.root import Root
from tests.conftest import Recorder, draw_classes, small_settings


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose validation images eel/0000 and eel/0001 are also in training, the second as a dog, and twice."""
    from raysweep.launch import run as launching
    from raysweep.launch.workers import start as workers
    from raysweep.plan import experiment as experiment_plan
    from raysweep.training.loop import train

    folder = tmp_path_factory.mktemp("leaky")
    draw_classes(folder / "train", {"cat": 30, "dog": 10, "eel": 20})
    draw_classes(folder / "val", {"cat": 9, "dog": 6, "eel": 6}, seed=1)
    shutil.copy(folder / "val" / "eel" / "0000.png", folder / "train" / "eel" / "copy.png")
    for name in ("one.png", "two.png"):
        shutil.copy(folder / "val" / "eel" / "0001.png", folder / "train" / "dog" / name)
    settings = small_settings(
        folder / "e",
        data={"source": "folder", "path": str(folder)},
        training={"epochs": 2, "batch_size": 30, "augment": {"crop_padding": 0, "flip": False}},
        sampling={"samples_per_epoch": 30},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "in_this_process", lambda job, *_: train(job, Recorder()))
        return launching.run(experiment_plan.plan_experiment(settings)).experiment


@pytest.fixture
def run(trained, tmp_path):
    """A copy that the test may change."""
    folder = shutil.copytree(trained.folder, tmp_path / "e" / trained.id)
    return Experiment(folder, Root.open(tmp_path / "e"))


def test_every_validation_image_has_its_name_its_hash_and_its_copies(run):
    from raysweep.data import decoded
    from raysweep.report import images, predictions

    found = images.read(run)
    data = decoded.data_of(run)
    classes = data.classes
    last = predictions.read(run, 2)
    assert len(found.names) == len(last.labels) == 21
    for name, label in zip(found.names, last.labels, strict=True):
        assert name.startswith(f"val/{classes[label]}/")
    by_name = dict(zip(found.names, range(21), strict=True))
    one, two = by_name["val/eel/0000.png"], by_name["val/eel/0001.png"]
    assert np.flatnonzero(found.leaked).tolist() == sorted([one, two])
    assert (found.in_training[one], found.of_its_class[one]) == (1, 1)
    assert (found.in_training[two], found.of_its_class[two]) == (2, 0)
    assert np.flatnonzero(found.other_class).tolist() == [two]
    assert run.manifest().images == found.sha256
    import hashlib

    pixels = data.val.pixels[one].tobytes()
    assert found.pixels[one].decode() == hashlib.blake2b(pixels, digest_size=16).hexdigest()


def test_the_file_is_written_once_and_every_epoch_has_its_order(run):
    table = pq.read_table(run.folder / layout.VAL_IMAGES)
    assert table.column_names == ["index", "name", "pixels", "in_training", "of_its_class"]
    every = pq.read_table(run.folder / layout.PREDICTIONS)
    assert every.column_names == ["epoch", "index", "label", "prediction", "probabilities"]  # no name twice
    assert table["index"].to_pylist() == list(range(21))


def test_going_on_writes_it_where_an_earlier_version_began(run):
    from raysweep.report import images
    from raysweep.training.checkpointing import CheckpointWriter

    expected = images.read(run)
    (run.folder / layout.VAL_IMAGES).unlink()
    run.write_manifest(replace(run.manifest(), images=None))
    writer = CheckpointWriter(run.folder, None, ["cat", "dog", "eel"], "val_acc", images=expected)
    assert writer.save_images(None) == expected.sha256
    assert images.read(run).sha256 == expected.sha256
    there = (run.folder / layout.VAL_IMAGES).stat().st_mtime_ns
    assert writer.save_images(expected.sha256) == expected.sha256
    again = CheckpointWriter(run.folder, None, ["cat", "dog", "eel"], "val_acc", images=expected)
    assert again.save_images(expected.sha256) == expected.sha256
    assert (run.folder / layout.VAL_IMAGES).stat().st_mtime_ns == there  # it said so already
    unknown = CheckpointWriter(run.folder, None, ["cat", "dog", "eel"], "val_acc")
    assert unknown.save_images("recorded before") == "recorded before"


def test_of_an_earlier_version_the_cache_says_it_and_without_both_nobody_does(run, monkeypatch, tmp_path):
    from raysweep.report import images

    expected = images.read(run)
    (run.folder / layout.VAL_IMAGES).unlink()
    with pytest.raises(NotFoundError, match=r"val_images\.parquet is missing"):
        images.read(run)
    assert images.of([run], 21).sha256 == expected.sha256
    assert images.of([run], 20) is None  # it is about other images
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "gone"))
    assert images.of([run], 21) is None


def test_a_damaged_file_is_an_error_that_verify_names(run):
    from raysweep.report import images
    from raysweep.tools import derived

    assert derived.check(run, run.entries()).faults == []
    (run.folder / layout.VAL_IMAGES).write_bytes(b"torn")
    with pytest.raises(StoreError, match=r"val_images\.parquet is damaged"):
        images.read(run)
    (fault,) = derived.check(run, run.entries()).faults
    assert fault.startswith(str(run.folder / layout.VAL_IMAGES))


def test_an_exchanged_name_is_found_by_verify(run):
    from raysweep.report import images
    from raysweep.tools import derived

    there = images.read(run)
    images.write(run, replace(there, names=[*there.names[1:], there.names[0]]))
    assert derived.check(run, run.entries()).faults == ["val_images.parquet is not what was saved."]
    manifest = json.loads((run.folder / layout.MANIFEST).read_text())
    del manifest["images"]  # an earlier version knows nothing of it
    (run.folder / layout.MANIFEST).write_text(json.dumps(manifest))
    assert derived.check(run, run.entries()).faults == []


def test_a_cache_that_a_stranger_names_is_not_opened(run, monkeypatch, tmp_path):
    """Its folder counts where this user made the experiment, as everything else that settings name."""
    from raysweep.data import decoded

    cache = decoded.data_of(run).folder
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "empty"))
    elsewhere = shutil.copytree(cache, tmp_path / "other" / cache.name).parent
    config = json.loads((run.folder / layout.CONFIG).read_text())
    config["settings"]["data"]["cache_dir"] = str(elsewhere)
    (run.folder / layout.CONFIG).write_text(json.dumps(config))
    assert decoded.data_of(run) is None
    monkeypatch.setenv("RAYSWEEP_TRUST", str(run.root.path))
    assert decoded.data_of(run).folder == elsewhere / cache.name
