"""Fixed views of the training images, and their features."""

from __future__ import annotations

import numpy as np
import pytest

from raysweep.errors import ConfigError, Interrupted
from tests.training.test_batches import section_of
from tests.training.test_features import made, own_cache, passes  # noqa: F401
from tests.training.test_freezing import state_of, without_pictures  # noqa: F401

TRAIN, VAL = 1437, 360  # images of digits
MANY = {
    "random_resized_crop": {"p": 0.5},
    "color_jitter": 0.3,
    "rand_augment": {"p": 0.5},
    "random_erasing": 0.5,
    "crop_padding": 1,
    "classes": {"3": {"affine": 15, "flip": True}},
}
SMALL = {"source": "digits", "views": 2}
FROZEN = {
    "model": {"freeze": "backbone"},
    "data": SMALL,
    "training": {"epochs": 3, "batch_size": 256, "augment": {"crop_padding": 2, "flip": True}},
}
OFF = {**FROZEN, "model": {"freeze": "backbone", "features": "off"}}


@pytest.fixture(scope="module")
def digits(image_cache):
    from raysweep.config.settings import DataSection
    from raysweep.data import cache

    return cache.load(DataSection(source="digits"), image_cache)


def batches_of(data, augment, count=3, seed=5):
    import torch

    from raysweep.data.views import Views
    from raysweep.training.augmentation.batches import Batches
    from raysweep.training.feed import Feed

    feed = Feed(data, list(data.mean), list(data.std), torch.device("cpu"), True)
    return Batches(section_of(augment), feed, data.train, data.classes, seed, None, Views(count, 7))


@pytest.mark.parametrize("augment", [{}, MANY], ids=["moves", "many"])
def test_what_an_epoch_shows_is_the_view_of_each_image_by_itself(digits, augment):
    """Whatever the training's seed, the epoch, the batch and the position are."""
    import torch

    order = np.concatenate([np.arange(40), np.arange(0, 40, 3)]) * 31 % TRAIN
    positions = np.arange(10, 26)
    shown = {}
    for seed, epoch in ((5, 2), (6, 5)):  # in both the same views are shown
        batches = batches_of(digits, augment, seed=seed)
        moves = batches.moves(epoch, order)
        shown[seed] = batches.batch(epoch, order, moves, positions, (0, 53)).x
        which = batches.which(epoch, order)[positions]
        one_by_one = [batches.fixed(order[[p]], which[[i]]) for i, p in enumerate(positions)]
        assert torch.equal(torch.cat(one_by_one), shown[seed])
    assert torch.equal(*shown.values())
    other = batches.fixed(order[positions], (which + 1) % 3)
    assert (other != shown[5]).flatten(1).any(1).float().mean() > 0.5


def test_the_bits_of_views_stay(digits):
    """Cached features are of these pixels: whoever changes them has to raise the version of features."""
    import hashlib

    x = batches_of(digits, {"crop_padding": 2}).fixed(np.arange(60), np.arange(60) % 3)
    pixels = x.permute(0, 2, 3, 1).contiguous().numpy()
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:32] == "78db6f1df52940a7e9148a2a624b7dab"


def test_training_on_features_of_views_is_training_on_the_views(quick_run, own_cache, passes):  # noqa: F811
    import torch

    on_images = quick_run(**OFF)
    assert not passes
    on_features = quick_run(**FROZEN)
    assert 2 * TRAIN + VAL <= sum(passes) <= 2 * TRAIN + VAL + 16
    a, b = state_of(on_images), state_of(on_features)
    weights = ("model_state_dict", "optimizer_state_dict")
    assert all(torch.allclose(a[weights[0]][n], b[weights[0]][n], atol=1e-5) for n in a[weights[0]])
    for column in ("train_loss", "val_loss"):
        assert a["history"][column] == pytest.approx(b["history"][column], abs=1e-5)
    log = (on_features.folder / "experiment_changes.log").read_text()
    assert "2 fixed views" in log
    assert "each of 2 views of each image is computed once" in log
    passes.clear()
    plain = quick_run(**{**OFF, "data": {"source": "digits"}})
    assert state_of(plain)["history"]["train_loss"] != a["history"]["train_loss"]


def test_other_seeds_share_the_views_and_other_augmentation_has_its_own(quick_run, quick_child, own_cache, passes):  # noqa: F811
    parent = quick_run(**{**FROZEN, "training": {**FROZEN["training"], "epochs": 1}})
    passes.clear()
    quick_child(f"{parent.id}@1", epochs=1, overrides={"seed": 9})
    quick_child(f"{parent.id}@1", epochs=1, weights={"3": 2.0})
    assert sum(passes) <= 16  # only to see that it can be done
    passes.clear()
    child = quick_child(f"{parent.id}@1", epochs=1, overrides={"training": {"augment": {"crop_padding": 1}}})
    assert sum(passes) >= 2 * TRAIN
    assert len(made(own_cache)) == 2
    assert "of each image is computed once" in (child.folder / "experiment_changes.log").read_text()
    without = quick_child(
        f"{parent.id}@1", epochs=1, overrides={"data": {"views": None}, "training": {"augment": {"crop_padding": 0, "flip": False}}}
    )  # fmt: skip
    assert state_of(without)["data_sha256"] == state_of(parent)["data_sha256"]


def test_the_plan_of_a_sweep_says_how_often_features_are_computed(quick_run, tmp_path):
    from raysweep.config import grid
    from raysweep.plan.sweep import plan_sweep
    from raysweep.plan.types import SweepRequest
    from raysweep.store.root import Root

    parent = quick_run(**{**FROZEN, "training": {**FROZEN["training"], "epochs": 1}})

    def notes(**values):
        root = Root.open(tmp_path / "experiments")
        request = SweepRequest(
            root, f"{parent.id}@1", grid.check({"epochs": 1, "weights": {"3": [1.0, 2.0]}, **values})
        )
        return " ".join(plan_sweep(request).notes)

    assert "times: branches differ in training.augment" not in notes(seeds=[0, 1])
    varied = notes(settings={"training.augment.crop_padding": [1, 2], "training.label_smoothing": [0.1, 0.0]})
    assert "Features are computed 2 times: branches differ in training.augment" in varied


@pytest.mark.parametrize("features", ["auto", pytest.param("off", marks=pytest.mark.slow)])
def test_a_stop_within_an_epoch_changes_no_bit(quick_run, without_ray, tmp_path, features):
    from raysweep.launch.resume import continue_experiment
    from raysweep.store.catalog import experiments
    from raysweep.store.root import Root
    from tests.conftest import Recorder, weights_hash
    from tests.training.test_features import _after_batches

    sections = {**FROZEN, "model": {"freeze": "backbone", "features": features}}
    whole = quick_run(**sections)
    recorder = without_ray(Recorder(10**9))
    recorder.should_stop = _after_batches(recorder, 3)
    with pytest.raises(Interrupted):
        quick_run(**sections)
    without_ray(Recorder())
    root = Root.open(tmp_path / "experiments")
    stopped = next(e for e in experiments(root) if e.id != whole.id)
    done = continue_experiment(root, stopped.id).experiment
    assert weights_hash(done) == weights_hash(whole)
    assert "not bit-exact" not in (done.folder / "experiment_changes.log").read_text()


def test_images_that_are_held_out_are_looked_at_as_they_are(quick_run, passes):  # noqa: F811
    """A policy decides by them, as by the validation images."""
    import torch

    policy = {"holdout": 0.2, "policy": {"kind": "worst", "on": "holdout"}}
    runs = [quick_run(**sections, sampling=policy) for sections in (OFF, FROZEN)]
    a, b = map(state_of, runs)
    assert a["policy_decision"]["weights"] == pytest.approx(b["policy_decision"]["weights"])
    assert all(
        torch.allclose(a["model_state_dict"][n], b["model_state_dict"][n], atol=1e-5) for n in a["model_state_dict"]
    )
    assert sum(passes) < 2 * TRAIN + VAL  # those that are held out once, the others twice


def test_views_that_cannot_be_are_refused_or_said(tmp_path):
    from raysweep.plan.experiment import plan_experiment
    from tests.conftest import small_settings

    def notes(views, **augment):
        settings = small_settings(
            tmp_path, model={"freeze": "backbone"}, data={"source": "digits", "views": views}, training={"augment": augment}
        )  # fmt: skip
        return " ".join(note.text for note in plan_experiment(settings).notes)

    assert "data.views=8 changes each in 8 fixed ways, whose features are computed once" in notes(None, crop_padding=1)
    assert "each of 3 views of each image is computed once" in notes(3, crop_padding=1)
    with pytest.raises(ConfigError, match=r"data\.views is 3, but training.augment changes no image"):
        notes(3, crop_padding=0, flip=False)
    mixed = notes(3, crop_padding=1, mixup=0.2)
    assert "because images are mixed" in mixed
    assert "3 fixed views" in mixed
    with pytest.raises(ConfigError, match="changes a batch at once"):
        small_settings(tmp_path, data={"source": "digits", "views": 2}, training={"augment": {"own": "python:a:b"}})
