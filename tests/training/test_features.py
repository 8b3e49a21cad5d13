"""Features computed once: the last layer is trained on what it gets from each image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raysweep.errors import ConfigError, DataError, Interrupted
from tests.training.test_freezing import same, state_of, without_pictures  # noqa: F401

STILL = {"crop_padding": 0, "flip": False}
ONCE = {"model": {"freeze": "backbone"}, "training": {"epochs": 2, "augment": STILL}}
OFF = {**ONCE, "model": {"freeze": "backbone", "features": "off"}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch, image_cache):
    """Features of one test are none of another."""
    import shutil

    folder = tmp_path / "cache"
    shutil.copytree(image_cache, folder, ignore=shutil.ignore_patterns("features", "*.lock"))
    monkeypatch.setenv("RAYSWEEP_CACHE", str(folder))
    return folder


@pytest.fixture
def passes(monkeypatch):
    """How many images have been passed through the whole network for features."""
    from raysweep.training import features

    seen, computed = [], features.computed
    monkeypatch.setattr(features, "computed", lambda model, head, x: seen.append(len(x)) or computed(model, head, x))
    return seen


def made(folder: Path) -> list[Path]:
    return [p for p in (folder / "features").glob("*") if p.is_dir() and not p.name.startswith(".")]


def test_training_on_features_is_training_on_images(quick_run, own_cache, passes):
    import torch

    on_images = quick_run(**OFF)
    assert not passes
    on_features = quick_run(**ONCE)
    images = sum(passes)
    assert images >= 1797  # the digits
    a, b = state_of(on_images), state_of(on_features)
    assert all(
        torch.allclose(a["model_state_dict"][n], b["model_state_dict"][n], atol=1e-5) for n in a["model_state_dict"]
    )
    assert a["history"]["val_loss"] == pytest.approx(b["history"]["val_loss"], abs=1e-5)
    orders = [[entry.metrics["order_sha256"] for entry in e.entries()] for e in (on_images, on_features)]
    assert orders[0] == orders[1]
    again = quick_run(**ONCE, seed=5)  # other weights: other features
    assert len(made(own_cache)) == 2
    passes.clear()
    quick_run(**ONCE)
    assert sum(passes) <= 8  # only to see that it can be done
    assert "computed once" in (again.folder / "experiment_changes.log").read_text()


def test_logits_on_features_are_those_of_the_network(quick_run, tmp_path):
    import numpy as np

    from raysweep.data import cache
    from raysweep.report import predictions
    from raysweep.store.root import Root
    from raysweep.tools import predict

    experiment = quick_run(**ONCE)
    found = predictions.read(experiment)
    network = predict.load(Root.open(tmp_path / "experiments"), f"{experiment.id}@{found.epoch}")
    data = cache.find(os.environ["RAYSWEEP_CACHE"], state_of(experiment)["data_sha256"])
    shown = network.probabilities(data.val.take(np.arange(50)))
    assert np.abs(shown - found.probabilities[:50]).max() < 1e-5


def test_a_child_trains_on_its_parents_features(quick_run, quick_child, passes):
    from tests.conftest import weights_hash

    whole = quick_run(**{**ONCE, "training": {**ONCE["training"], "epochs": 2}})
    half = quick_run(**{**ONCE, "training": {**ONCE["training"], "epochs": 1, "schedule_epochs": 2}})
    passes.clear()
    child = quick_child(f"{half.id}@1", epochs=1)
    assert sum(passes) <= 8
    assert weights_hash(child) == weights_hash(whole)
    other = quick_child(f"{half.id}@1", epochs=1, weights={"3": 4.0})
    assert sum(passes) <= 16
    assert weights_hash(other) != weights_hash(whole)


@pytest.mark.parametrize(
    "stop_after", [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(5, marks=pytest.mark.slow)]
)
def test_a_stop_anywhere_changes_no_bit(quick_run, without_ray, tmp_path, stop_after):
    from raysweep.launch.resume import continue_experiment
    from raysweep.store.catalog import experiments
    from raysweep.store.root import Root
    from tests.conftest import Recorder, weights_hash

    sections = {**ONCE, "training": {**ONCE["training"], "ema": 0.9}}
    sections["model"] = {"freeze": "backbone", "unfreeze": 2}  # features, then images
    whole = quick_run(**sections)
    one, two = (state_of(whole, n)["model_state_dict"] for n in "12")
    assert not same(one, two)
    recorder = without_ray(Recorder(10**9))
    recorder.stop_after = stop_after
    recorder.should_stop = _after_batches(recorder, stop_after)
    with pytest.raises(Interrupted):
        quick_run(**sections, experiment={"name": "stopped"})
    without_ray(Recorder())
    root = Root.open(tmp_path / "experiments")
    stopped = next(e for e in experiments(root) if e.id.startswith("stopped"))
    done = continue_experiment(root, stopped.id).experiment
    assert weights_hash(done) == weights_hash(whole)
    assert "not bit-exact" not in (done.folder / "experiment_changes.log").read_text()


@pytest.mark.parametrize(
    "stop_after", [3, pytest.param(5, marks=pytest.mark.slow)]
)  # in the epoch that thaws, after it
def test_features_that_must_be_are_so_until_the_epoch_that_thaws(
    quick_run, quick_child, without_ray, tmp_path, stop_after
):
    from raysweep.launch.resume import continue_experiment
    from raysweep.store.catalog import experiments
    from raysweep.store.root import Root
    from tests.conftest import Recorder

    sections = {"model": {"freeze": "backbone", "unfreeze": 2, "features": "float32"}}
    training = {"epochs": 3, "batch_size": 250, "augment": STILL}
    recorder = without_ray(Recorder(10**9))
    recorder.should_stop = _after_batches(recorder, stop_after)
    with pytest.raises(Interrupted):
        quick_run(**sections, training=training)
    without_ray(Recorder())
    root = Root.open(tmp_path / "experiments")
    (stopped,) = experiments(root)
    assert (stopped.entry("latest").epoch, stopped.entry("latest").batch) == ((2, 1) if stop_after == 3 else (3, 1))
    assert continue_experiment(root, stopped.id).experiment.status() == "finished"
    child = quick_child(f"{stopped.id}@3", epochs=1)
    assert "computed once" not in (child.folder / "experiment_changes.log").read_text()
    with pytest.raises(ConfigError, match="because more than the last layer is trained"):
        quick_run(model={**sections["model"], "unfreeze": 1}, training=training)  # never frozen


def _after_batches(recorder, count):
    """Asks to stop once so many batches were reported; the features are computed before."""
    from raysweep.events import TrainingStarted

    def ask():
        recorder.asked += any(isinstance(e, TrainingStarted) for e in recorder.events)
        return "TEST" if recorder.asked >= count else None

    return ask


def test_who_is_killed_while_features_are_computed_goes_on(quick_run, own_cache, passes, monkeypatch):
    from raysweep.data import features as stored

    monkeypatch.setattr(stored, "ROWS", 256)
    whole = quick_run(**ONCE)
    (folder,) = made(own_cache)
    content = (folder / "train.npy").read_bytes()
    temp = folder.with_name(f".tmp-{folder.name}")
    folder.rename(temp)
    # as a kill leaves it: a torn row, a torn line
    row = int((len(content) - 128) / 1437)
    (temp / "features.json").unlink()
    (temp / "val.npy").unlink()
    (temp / "train.npy").write_bytes(content[: 128 + 700 * row])
    from xxhash import xxh3_128_hexdigest

    lines = [f"256 {xxh3_128_hexdigest(content[128 + a * row : 128 + (a + 256) * row])} 0.0\n" for a in (0, 256)]
    (temp / "train.rows").write_text("".join(lines) + "256 abc")
    passes.clear()
    again = quick_run(**ONCE)
    assert (made(own_cache)[0] / "train.npy").read_bytes() == content
    assert sum(passes) <= 1797 - 512 + 8
    assert state_of(again)["conditions"]["features"] == state_of(whole)["conditions"]["features"]


def test_a_flipped_bit_in_the_features_is_found(quick_run, own_cache, passes):
    quick_run(**ONCE)
    (folder,) = made(own_cache)
    content = bytearray((folder / "train.npy").read_bytes())
    content[5000] ^= 1
    (folder / "train.npy").write_bytes(content)
    passes.clear()
    quick_run(**ONCE)
    assert sum(passes) >= 1797  # computed again
    found = folder / "train.npy"
    assert found.read_bytes() != bytes(content)


def test_features_that_cannot_be_are_said_or_refused(quick_run, tmp_path, monkeypatch):
    from raysweep.plan.experiment import plan_experiment
    from tests.conftest import small_settings

    def notes(**model):
        plan = plan_experiment(
            small_settings(tmp_path, model={"freeze": "backbone", **model}, training={"augment": {"flip": False}})
        )
        return " ".join(note.text for note in plan.notes)

    assert "whole network, because images are changed at random (training.augment.crop_padding; 0 does not)" in notes()
    with pytest.raises(ConfigError, match="features cannot be computed once, because images are changed at random"):
        notes(features="float32")
    assert "parameters are frozen" in notes(features="off")
    assert "what is frozen has random weights" in notes()


@pytest.mark.parametrize(
    ("augment", "key"),
    [
        ({"repeats": 2}, None),
        ({"classes": {"3": {"flip": False, "affine": False}}}, None),
        ({"repeats": 2, "classes": {"3": {"flip": True}}}, "classes; {} does not"),
        ({"mixup": 0.2}, "mixup; null does not"),
    ],
)
def test_only_what_changes_images_keeps_from_features(tmp_path, augment, key):
    from raysweep.training import features
    from raysweep.training.freezing import Freezing
    from tests.conftest import small_settings

    settings = small_settings(tmp_path, training={"augment": {**STILL, **augment}})
    why = features.unfit(settings, Freezing("head", ("0.weight", "head.weight"), frozenset({"0.weight"}), None), 1)
    assert why == (None if key is None else f"images are changed at random (training.augment.{key})")


def test_half_precision_says_how_far_it_is(quick_run, own_cache):
    import numpy as np

    sections = {**ONCE, "model": {"freeze": "backbone", "features": "float16"}}
    experiment = quick_run(**sections)
    log = (experiment.folder / "experiment_changes.log").read_text()
    assert "float16" in log
    assert "rounding them changed no logit by more than" in log
    (folder,) = made(own_cache)
    from raysweep.data import features as stored

    found = stored.reopen(folder)
    assert found.parts["train"].rows.dtype == np.float16
    assert 0 < found.apart < 0.01


def test_rows_of_a_large_file_are_read_where_they_lie(tmp_path, monkeypatch):
    import numpy as np

    from raysweep.data import features as stored

    rows = np.arange(3000 * 5, dtype=np.float32).reshape(3000, 5)
    compute = {s: (lambda a, b: (rows[a:b], 0.0)) for s in ("train", "val")}
    stored.build(tmp_path / "f", {"train": 3000, "val": 7}, (5,), "float32", compute, lambda *_: None)
    small = stored.reopen(tmp_path / "f")
    monkeypatch.setattr(stored, "IN_MEMORY", 100)
    large = stored.reopen(tmp_path / "f")
    index = np.array([2999, 0, 5, 5])
    assert large.parts["train"].rows is None
    for found in (small, large):
        assert np.array_equal(found.parts["train"].take(index), rows[index])
    os.truncate(tmp_path / "f" / "train.npy", 1000)
    with pytest.raises(DataError):
        large.parts["train"].take(index)


@pytest.mark.slow  # quick twin: test_freezing.py::test_two_workers_freeze_thaw_average_and_accumulate_as_one
@pytest.mark.parametrize("views", [None, 2])
def test_two_workers_train_on_features_as_one(two_ranks, tmp_path, monkeypatch, views):
    import torch

    from raysweep.launch.workers import start as workers
    from tests.training.test_ranks import Trainer, go

    def run(ranks, folder):
        monkeypatch.setattr(workers, "in_this_process", Trainer(ranks))
        training = {"epochs": 2, "augment": STILL if views is None else {"crop_padding": 2, "flip": True}}
        model = {"freeze": "backbone", "unfreeze": 2}
        return go(Trainer(ranks), tmp_path / folder, training=training, model=model, data={"views": views})

    one, two = run(None, "one"), run(two_ranks, "two")
    for epoch in "12":
        a, b = (state_of(e, epoch)["model_state_dict"] for e in (one, two))
        assert {n for n in a if not torch.allclose(a[n], b[n], atol=1e-3)} == set()
