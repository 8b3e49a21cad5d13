"""Sealed test images: decoded only where somebody opens them; what cannot be decoded is named there, and nowhere an error."""

from __future__ import annotations

import json

import numpy as np
import pytest

from raysweep.data import cache, sealed
from raysweep.data.places import META
from raysweep.errors import DataError
from tests.data.drawing import as_csv, as_folder, encoded, pictures, section

NAMES = {"train": "train", "val": "val", "test": "test"}


@pytest.fixture
def folder(tmp_path):
    """30 training images, 6 for validation and 7 for testing, one of which is broken and another also in training."""
    some = pictures({"angry": 18, "happy": 12}, {"angry": 4, "happy": 2})
    test = [p._replace(split="test") for p in pictures({"angry": 3, "happy": 2}, seed=1)]
    as_folder(tmp_path / "d", some + test, NAMES)
    (tmp_path / "d" / "test" / "happy" / "broken.png").write_bytes(b"no image")
    (tmp_path / "d" / "test" / "angry" / "again.png").write_bytes(encoded(some[0].pixels))
    return tmp_path / "d"


def opened(path, **options):
    return sealed.open_sealed(section(path, val="auto"), path.parent / "cache", form=(8, 1), **options)


def test_a_run_does_not_decode_test_images_and_counts_their_bytes(folder, monkeypatch):
    from raysweep.data import decode

    seen = []
    before = decode.decode
    monkeypatch.setattr(decode, "decode", lambda item, *form: seen.append(item.name) or before(item, *form))
    data = cache.load(section(folder, val="auto"), folder.parent / "cache")
    assert (len(data.train.labels), len(data.val.labels)) == (30, 6)
    assert not [name for name in seen if name.startswith("test")]
    seal = data.reading.seal
    assert (seal.images, seal.in_train, seal.in_val, seal.unread) == (7, 1, 0, 0)
    assert seal.of_class == {"angry": 1}  # the class that the copy has in training
    assert "7 images for testing, not looked at" in seal.line()
    assert "1 in training" in seal.line()


def test_opened_they_are_whole_and_the_broken_ones_are_named(folder):
    data = cache.load(section(folder, val="auto"), folder.parent / "cache")
    found = opened(folder, classes=["happy", "angry"], recorded=data.reading.seal.sha256)
    assert found.classes == ("happy", "angry")
    assert found.images.shape == (6, 8, 8, 1)
    assert found.images.pixels.dtype == np.uint8
    assert sorted(found.labels.tolist()) == [0, 0, 1, 1, 1, 1]
    assert [(u.name, u.of_class) for u in found.undecodable] == [("test/happy/broken.png", "happy")]
    assert found.undecodable[0].reason
    assert found.count == 7
    again = [name for name, copy in zip(found.names, found.among(cache.digests(data, "train")), strict=True) if copy]
    assert again == ["test/angry/again.png"]


def test_they_are_decoded_once(folder, monkeypatch):
    from raysweep.data import build

    first = opened(folder)
    monkeypatch.setattr(build, "build_sealed", None)
    assert (opened(folder).images.pixels == first.images.pixels).all()


def test_damaged_files_are_decoded_again_and_it_is_said(folder):
    opened(folder)
    file = next((folder.parent / "cache").glob("sealed-*/test_images.npy"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    told = []
    assert opened(folder, tell=told.append).count == 7
    assert "is damaged (test_images.npy" in told[0]


def test_other_test_images_than_those_that_were_sealed_are_refused(folder):
    data = cache.load(section(folder, val="auto"), folder.parent / "cache")
    (folder / "test" / "happy" / "new.png").write_bytes(encoded(np.zeros((8, 8), dtype=np.uint8)))
    with pytest.raises(DataError, match="not those that were sealed when the experiment began: 8 are there"):
        opened(folder, recorded=data.reading.seal.sha256)


def test_without_test_images_it_says_what_to_give(tmp_path):
    path = as_csv(tmp_path / "x.csv", pictures({"angry": 3, "happy": 3}, {"angry": 1, "happy": 1}))
    with pytest.raises(DataError, match=r"x\.csv has no sealed test images"):
        opened(path)
    with pytest.raises(DataError, match=r"with data\.val=test its test images are used for validation"):
        sealed.open_sealed(section(path), tmp_path / "cache", form=(8, 1))


def test_other_classes_are_refused_with_both_lists(folder):
    with pytest.raises(DataError, match="Classes must be the same"):
        opened(folder, classes=["happy", "sad"])


def test_the_seal_is_the_same_however_the_files_are_called(folder, tmp_path):
    one = opened(folder).sha256
    (folder / "test" / "happy" / "broken.png").rename(folder / "test" / "happy" / "zzz.png")
    assert opened(folder).sha256 == one
    assert json.loads(next((tmp_path / "cache").glob(f"sealed-*/{META}")).read_text())["sha256"] == one


def test_the_manifest_of_a_run_has_the_seal_and_opens_them(folder, quick_run):
    """As `raysweep evaluate` does: from the recorded settings and the manifest."""
    from raysweep.config import load as load_config
    from raysweep.plan.experiment import cache_dir
    from raysweep.store import checkpoint

    run = quick_run(data={"source": "auto", "path": str(folder)}, training={"epochs": 1})
    recorded = run.manifest().sealed
    assert recorded.images == 7
    settings = load_config.validate(run.config().settings, "the experiment")
    saved = checkpoint.read_checkpoint(run.folder / run.entry("latest").file)
    side, _, channels = saved["preprocessing"]["shape"]
    found = sealed.open_sealed(
        settings.data,
        cache_dir(settings, run.root),
        form=(side, channels),
        classes=saved["classes"],
        recorded=recorded.sha256,
    )
    assert (found.count, len(found.undecodable)) == (7, 1)


def test_what_a_dry_run_decoded_is_audited_by_the_run(folder, tmp_path, monkeypatch):
    from raysweep.data import decode
    from raysweep.plan import experiment as experiment_plan
    from tests.conftest import small_settings

    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "cold"))
    settings = small_settings(tmp_path / "e", data={"source": "auto", "path": str(folder)})
    dry = experiment_plan.plan_experiment(settings, writable=False)
    assert "7 images for testing. Whether training has copies of them is not looked at now" in "\n".join(
        dry.data.reading.lines()
    )
    assert not list((tmp_path / "cold").rglob("sealed_files.npy"))
    monkeypatch.setattr(decode, "decode", None)  # it was decoded already
    for writable in (True, False):
        plan = experiment_plan.plan_experiment(settings, writable=writable)
        assert (plan.data.reading.seal.images, plan.data.reading.seal.in_train) == (7, 1)
    assert plan.data.folder == dry.data.folder


def test_a_sweep_passes_with_test_files_that_cannot_be_decoded(folder, quick_run, quick_child):
    """Run, children and comparison never look at them; their bytes alone are hashed."""
    from raysweep.report import comparison

    data = {"source": "auto", "path": str(folder)}
    run = quick_run(data=data, training={"epochs": 1, "batch_size": 16}, sampling={"samples_per_epoch": 32})
    child = quick_child(f"{run.id}@1", epochs=1, weights={"happy": 2.0})
    found = comparison.compare(run.root, [child.id])
    assert sum(found.counts.values()) == 6
    assert child.manifest().sealed == run.manifest().sealed
    assert not list(folder.parent.rglob("sealed-*"))
