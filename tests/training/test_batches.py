"""Batches of a training: the bits of earlier versions by default, and with any augmentation the same on every worker and after a stop."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from raysweep.config import load as load_config
from raysweep.errors import ConfigError, WeightsError
from raysweep.launch import resume as resuming
from raysweep.plan import experiment as experiment_plan
from raysweep.store import checkpoint
from raysweep.store.root import Root
from tests.conftest import small_settings, weights_hash
from tests.training.test_exactness import interrupted

EVERY = {
    "crop": {"random_resized_crop": True},
    "affine": {"affine": {"degrees": 20, "translate": 0.2, "scale": [0.8, 1.2], "shear": 10}},
    "jitter": {"color_jitter": {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.2}},
    "rand": {"rand_augment": 15},
    "trivial": {"trivial_augment": True},
    "erasing": {"random_erasing": {"p": 0.7, "value": "random"}},
    "mixup": {"mixup": 0.4},
    "cutmix": {"cutmix": 1.0},
    "either": {"mixup": {"alpha": 0.4, "p": 0.7}, "cutmix": 1.0, "repeats": 2},
    "class": {"classes": {"3": {"affine": 40, "crop_padding": 0}, "5": {"random_erasing": 1.0}}},
}
ALL = {
    "flip": True,
    **EVERY["affine"],
    **EVERY["jitter"],
    **EVERY["rand"],
    "random_resized_crop": {"p": 0.5},
    **EVERY["erasing"],
    **EVERY["either"],
    **EVERY["class"],
}


def section_of(augment):
    return small_settings("x", training={"augment": {"crop_padding": 2, "flip": True, **augment}}).training.augment


@pytest.fixture(scope="module")
def digits(image_cache):
    from raysweep.config.settings import DataSection
    from raysweep.data import cache

    return cache.load(DataSection(source="digits"), image_cache)


def batches_of(data, augment, seed=5):
    import torch

    from raysweep.training.augmentation.batches import Batches
    from raysweep.training.feed import Feed

    feed = Feed(data, list(data.mean), list(data.std), torch.device("cpu"), True)
    return Batches(section_of(augment), feed, data.train, data.classes, seed)


def batch(made, positions, bounds=(0, 60), epoch=3, draws=300, step=37):
    order = np.arange(draws) * step % len(made.images.labels)
    return made.batch(epoch, order, made.moves(epoch, order), np.asarray(positions), bounds)


def coloured(data, channels=3):
    """A data set with the same labels and pictures in colour."""
    from dataclasses import replace

    from raysweep.data.cache import Images

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 400)
    pixels = rng.integers(0, 256, (400, 10, 10, channels), dtype=np.uint8)
    images = Images(pixels, labels)
    return replace(data, train=images, val=images, mean=(120.0, 130.0, 110.0), std=(60.0, 61.0, 62.0))


# --- by default ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "wanted"),
    [("digits", "5e42180bf584ceda9d60187f42b56003"), ("faces", "c062c9478d7bf91ea6aa4a1528842c62")],
)
def test_by_default_the_bits_are_those_of_earlier_versions(image_cache, source, wanted):
    """The hashes were computed before there was any other augmentation. They do not depend on the machine."""
    from raysweep.config.settings import DataSection
    from raysweep.data import cache

    data = cache.load(DataSection(source=source), image_cache)
    made = batches_of(data, {"crop_padding": 4})
    found = hashlib.sha256()
    for a in range(0, 300, 60):
        x, y, mixed = batch(made, np.arange(a, a + 60), (a, a + 60), step=2)
        found.update(x.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
        found.update(y.numpy().tobytes())
        assert mixed is None
    assert found.hexdigest()[:32] == wanted


# --- the same on every worker, after a stop, after a kill -----------------------------------------------------------------


@pytest.mark.parametrize("augment", [*EVERY.values(), ALL], ids=[*EVERY, "all"])
def test_each_worker_sees_the_images_that_a_single_one_would(digits, augment):
    import torch

    for data in (digits, coloured(digits)):
        made = batches_of(data, augment)
        whole = batch(made, np.arange(60, 120), (60, 120))
        for edges in ([60, 90, 120], [60, 61, 79, 120]):
            parts = [batch(made, np.arange(a, b), (60, 120)) for a, b in itertools.pairwise(edges)]
            assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
            assert torch.equal(torch.cat([part.y for part in parts]), whole.y)
            if whole.mixed is not None:
                for of_parts, of_whole in zip(
                    zip(*(part.mixed for part in parts), strict=True), whole.mixed, strict=True
                ):
                    assert torch.equal(torch.cat(of_parts), of_whole)
        plain = batch(batches_of(data, {}), np.arange(60, 120), (60, 120))
        assert not torch.equal(plain.x, whole.x)
        again = batch(batches_of(data, augment), np.arange(60, 120), (60, 120))
        assert torch.equal(again.x, whole.x)
        assert whole.x.is_contiguous(memory_format=torch.channels_last)
        assert not torch.equal(batch(batches_of(data, augment, seed=6), np.arange(60, 120), (60, 120)).x, whole.x)
        assert not torch.equal(batch(made, np.arange(60, 120), (60, 120), epoch=4).x, whole.x)


def test_the_cache_is_not_changed(digits):
    data = coloured(digits)
    before = data.train.pixels.copy()
    for augment in (*EVERY.values(), ALL):
        batch(batches_of(data, {"crop_padding": 0, "flip": False, **augment}), np.arange(60))
    assert np.array_equal(data.train.pixels, before)


def stopped_equals_undisturbed(tmp_path, quick_run, without_ray, **given):
    whole = quick_run(**given)
    broken = interrupted(tmp_path, without_ray, 5, **given)
    done = resuming.continue_experiment(Root.open(tmp_path / "experiments"), broken.id).experiment
    assert weights_hash(done) == weights_hash(whole)
    assert "not bit-exact" not in (done.folder / "experiment_changes.log").read_text()
    return whole


def test_stopped_within_an_epoch_with_everything_on_and_continued(tmp_path, quick_run, without_ray):
    given = {"training": {"batch_size": 100, "augment": ALL}, "sampling": {"samples_per_epoch": 301}}
    whole = stopped_equals_undisturbed(tmp_path, quick_run, without_ray, **given)
    history = checkpoint.read_checkpoint(whole.folder / "checkpoint_epoch_2.pt")["history"]
    for c in "0123456789":  # requested is shown, in pairs, whatever is mixed in
        assert history[f"realised_{c}"] == history[f"requested_{c}"]
        assert all(
            n % 2 == 0 and d <= n // 2 for n, d in zip(history[f"realised_{c}"], history[f"distinct_{c}"], strict=True)
        )
    assert sum(history[f"realised_{c}"][0] for c in "0123456789") == 300
    log = (whole.folder / "experiment_changes.log").read_text()
    assert "Images are mixed by mixup or cutmix: each keeps at least half of itself" in log
    assert "Each image is shown 2 times in a row: an epoch of 300 images has 150 draws." in log


@pytest.mark.slow  # each by itself; all of them together are in the test above
@pytest.mark.parametrize("augment", EVERY.values(), ids=EVERY)
def test_stopped_within_an_epoch_and_continued(tmp_path, quick_run, without_ray, augment):
    given = {"training": {"batch_size": 100, "augment": augment}, "sampling": {"samples_per_epoch": 300}}
    stopped_equals_undisturbed(tmp_path, quick_run, without_ray, **given)


@pytest.mark.slow  # the same on one rank is tested above
def test_two_workers_go_on_exactly_after_a_stop(two_ranks, tmp_path, monkeypatch):
    from raysweep.launch.workers import start as workers
    from tests.training.test_ranks import Trainer, go

    trainer = Trainer(two_ranks)
    monkeypatch.setattr(workers, "in_this_process", trainer)
    given = {"training": {"batch_size": 101, "augment": ALL}}
    whole, broken = go(trainer, tmp_path, **given), go(trainer, tmp_path, 7, **given)
    assert broken.status() == "interrupted"
    done = resuming.continue_experiment(Root.open(tmp_path), broken.id).experiment
    assert weights_hash(done) == weights_hash(whole)


@pytest.mark.slow  # a kill leaves what a stop leaves, which is tested above; this one is real
def test_killed_and_continued_with_everything_on(tmp_path, quick_run):
    given = {
        "training": {"epochs": 4, "batch_size": 50, "augment": ALL},
        "sampling": {"samples_per_epoch": 600},
        "checkpoint": {"every_n_batches": 1},
    }
    whole = quick_run(**given)
    file = tmp_path / "killed.yaml"
    import yaml

    settings = small_settings(tmp_path / "killed", **given).model_dump(mode="json")
    file.write_text(yaml.safe_dump(settings))
    process = subprocess.Popen([sys.executable, "-m", "raysweep", "run", str(file)], stderr=subprocess.DEVNULL)
    try:
        while not list((tmp_path / "killed").glob("small_*/checkpoint_epoch_2_batch_*.pt")):
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    root = Root.open(tmp_path / "killed")
    (folder,) = (tmp_path / "killed").glob("small_*")
    done = resuming.continue_experiment(root, os.path.basename(folder)).experiment
    assert weights_hash(done) == weights_hash(whole)


# --- what is done to which images ------------------------------------------------------------------------------------------


def pixels(made, positions, bounds=(0, 60), **more):
    """What is shown, as pixels again: float64 (n, C, H, W)."""
    found = batch(made, positions, bounds, **more)
    feed = made.feed
    return (found.x.double() / feed.scale.double() + feed.mean.double()).numpy(), found


def test_a_class_with_a_recipe_of_its_own_is_changed_by_it_and_the_others_are_not(digits):
    plain = {"crop_padding": 0, "flip": False}
    own = {**plain, "affine": 30, "classes": {"3": {"random_erasing": 1.0}, "5": {"affine": False, "flip": True}}}
    positions = np.arange(300)
    each = {
        name: batch(batches_of(digits, {**plain, **options}), positions, (0, 300)).x.numpy()
        for name, options in {
            "as they are": {},
            "affine": {"affine": 30},
            "both": {"affine": 30, "random_erasing": 1.0},
            "flip": {"flip": True},
        }.items()
    }
    found = batch(batches_of(digits, own), positions, (0, 300))
    labels = found.y.numpy()
    recipe = {3: "both", 5: "flip"}
    for c in range(10):
        rows = labels == c
        assert np.array_equal(found.x.numpy()[rows], each[recipe.get(c, "affine")][rows])
    assert not np.array_equal(each["flip"], each["as they are"])


def test_shifts_and_mirrors_of_a_class(digits):
    made = batches_of(digits, {"crop_padding": 3, "flip": True, "classes": {"0": {"crop_padding": 0, "flip": False}}})
    order = np.arange(len(digits.train.labels))
    moves, labels = made.moves(1, order), digits.train.labels
    usual = batches_of(digits, {"crop_padding": 3, "flip": True}).moves(1, order)
    assert not moves[labels == 0].any()
    assert np.array_equal(moves[labels != 0], usual[labels != 0])


@pytest.mark.parametrize(
    ("value", "wanted"), [("black", (0, 0, 0)), ("white", (255, 255, 255)), ("mean", (120, 130, 110))]
)
def test_an_erased_part_has_the_colour_and_the_rest_its_bits(digits, value, wanted):
    data = coloured(digits)
    plain = {"crop_padding": 0, "flip": False}
    before, _ = pixels(batches_of(data, plain), np.arange(60))
    after, _ = pixels(batches_of(data, {**plain, "random_erasing": {"p": 0.5, "value": value}}), np.arange(60))
    erased = np.abs(after - np.array(wanted).reshape(1, 3, 1, 1)).max(1) < 0.01
    same = np.abs(after - before).max(1) < 0.01
    assert (erased | same).all()
    of_images = (~same).any((1, 2))
    assert 15 <= of_images.sum() <= 45
    assert 0.02 < (~same).mean((1, 2))[of_images].mean() < 0.33


def test_noise_of_an_erased_part_is_even(digits):
    data = coloured(digits)
    made = batches_of(
        data, {"crop_padding": 0, "flip": False, "random_erasing": {"p": 1, "scale": [0.5, 0.6], "value": "random"}}
    )
    before, _ = pixels(batches_of(data, {"crop_padding": 0, "flip": False}), np.arange(60))
    after, _ = pixels(made, np.arange(60))
    new = after[np.abs(after - before) > 0.01]
    assert len(new) > 5000
    assert np.abs(np.histogram(new, bins=8, range=(0, 256))[0] / len(new) - 1 / 8).max() < 0.015


def test_angles_and_factors_are_drawn_evenly_between_their_limits(monkeypatch, digits):
    """What the kernels are called with, of 1,200 images."""
    from raysweep.training.augmentation import geometry, pipeline

    asked, factors = [], [[], [], [], []]
    inverse = geometry.inverse
    monkeypatch.setattr(geometry, "inverse", lambda *given: asked.append(given) or inverse(*given))
    monkeypatch.setattr(
        pipeline, "_JITTERS", tuple(lambda x, f, k=k: factors[k].extend(f.tolist()) or x for k in range(4))
    )
    made = batches_of(
        coloured(digits), {"affine": EVERY["affine"]["affine"], "color_jitter": EVERY["jitter"]["color_jitter"]}
    )
    batch(made, np.arange(1200), (0, 1200), draws=1200)
    ((angle, move, scale, shear),) = asked
    wanted = [(angle, -20, 20), (scale, 0.8, 1.2), (shear[:, 0], -10, 10), (move[:, 0], -2, 2), (move[:, 1], -2, 2)]
    wanted += [(np.array(factors[k]), 0.5, 1.5) for k in range(3)] + [(np.array(factors[3]), -0.2, 0.2)]
    for values, low, high in wanted:
        assert len(values) == 1200
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high >= values.max() > high - 0.1 * (high - low)
        assert abs(values.mean() - (low + high) / 2) < 3.5 * (high - low) / np.sqrt(12 * 1200)
    assert not shear[:, 1].any()


# --- mixing ----------------------------------------------------------------------------------------------------------------


def test_partners_are_the_images_before_in_the_batch_each_once():
    from raysweep.training.augmentation import mixing

    assert mixing.partners(np.arange(60, 66), 60, 66, 1).tolist() == [65, 60, 61, 62, 63, 64]
    assert mixing.partners(np.array([62, 63]), 60, 66, 2).tolist() == [
        60,
        61,
    ]  # another image than the repeats of its own
    for n, repeats in ((7, 1), (7, 3), (4, 4), (1, 1)):
        assert sorted(mixing.partners(np.arange(n), 0, n, repeats).tolist()) == list(range(n))


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 3.0])
def test_shares_have_the_beta_distribution_with_the_larger_part_for_the_image_itself(alpha):
    from scipy import stats

    from raysweep.config.augmentation import Mixup
    from raysweep.data.augment_draws import Place
    from raysweep.training.augmentation import mixing

    found = mixing.drawn(Mixup(p=1.0, alpha=alpha), None, Place(1, 1, np.arange(5000)), 8, 8)
    assert found.share.min() >= 0.5
    theirs = np.random.default_rng(0).beta(alpha, alpha, 20_000)
    assert stats.ks_2samp(found.share, np.maximum(theirs, 1 - theirs)).pvalue > 1e-3
    assert not found.boxes.any()


def test_the_part_that_is_cut_in_is_the_share_and_both_ways_come_equally_often():
    from raysweep.config.augmentation import Cutmix, Mixup
    from raysweep.data.augment_draws import Place
    from raysweep.training.augmentation import mixing

    place = Place(1, 1, np.arange(4000))
    cut = mixing.drawn(None, Cutmix(p=1.0, alpha=1.0), place, 32, 24)
    assert np.allclose(1 - cut.boxes[:, 2] * cut.boxes[:, 3] / (32 * 24), cut.share)
    assert cut.share.min() >= 0.5
    assert (cut.boxes[:, 0] + cut.boxes[:, 2] <= 32).all()
    assert (cut.boxes[:, 1] + cut.boxes[:, 3] <= 24).all()
    both = mixing.drawn(Mixup(p=1.0, alpha=1.0), Cutmix(p=0.5, alpha=1.0), place, 32, 24)
    cuts, blends = (both.boxes[:, 2] > 0).mean(), ((both.boxes[:, 2] == 0) & (both.share < 1)).mean()
    assert abs(blends - 0.5) < 0.03
    assert 0.2 < cuts < 0.27  # half of a half, less those whose part is no pixel large


@pytest.mark.parametrize("augment", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": {"alpha": 1, "p": 0.5}}])
def test_a_mixed_image_is_the_mixture_of_its_target(digits, augment):
    plain = {"crop_padding": 2, "flip": True}
    alone = batch(batches_of(digits, plain), np.arange(60))
    found = batch(batches_of(digits, {**plain, **augment}), np.arange(60))
    x, other = alone.x.numpy(), np.roll(alone.x.numpy(), 1, axis=0)
    share, mixed = found.mixed.share.numpy(), found.x.numpy()
    assert np.array_equal(found.mixed.other.numpy(), np.roll(alone.y.numpy(), 1))
    assert np.array_equal(found.y.numpy(), alone.y.numpy())
    if "cutmix" in augment:
        own = mixed == x
        assert (own | (mixed == other)).all()
        assert ((mixed != x).mean((1, 2, 3)) <= 1 - share + 1e-6).all()
        assert ((mixed != x).any((1, 2, 3)) <= (share < 1)).all()
    else:
        s = share.reshape(-1, 1, 1, 1)
        assert np.allclose(mixed, s * x + (1 - s) * other, atol=1e-5)
    same = share == 1
    assert np.array_equal(mixed[same], x[same])
    assert same.mean() < 0.7


def test_a_batch_of_one_image_is_not_mixed_with_another(digits):
    alone = batch(batches_of(digits, {}), [7], (7, 8)).x.numpy()
    assert np.allclose(batch(batches_of(digits, {"mixup": 1.0}), [7], (7, 8)).x.numpy(), alone, atol=1e-6)


LINEAR = {
    "cross_entropy": {},
    "class_weights": {"weights": {"0": 3.0}},
    "balanced_softmax": {},
    "logit_adjusted": {"tau": 1.5},
}


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", LINEAR)
def test_the_loss_of_a_mixture_is_the_mixture_of_the_losses(kind, smoothing):
    import torch
    from torch.nn import functional

    from raysweep.config.treatment import LossSection
    from raysweep.training import losses

    counts = {"0": 50, "1": 20, "2": 5}
    shares = {c: n / 75 for c, n in counts.items()}
    loss = losses.of_epoch(LossSection(kind=kind, **LINEAR[kind]), smoothing, shares, counts, 1)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 3, generator=generator)
    y, other = torch.tensor([0, 1, 2, 0, 1, 2, 2]), torch.tensor([1, 1, 0, 2, 0, 2, 1])
    share = torch.tensor([0.5, 0.6, 0.9, 1.0, 0.7, 0.8, 0.55])
    found = loss(logits, y, losses.Mixed(other, share))
    each = [
        float(s * loss(logits[i : i + 1], y[i : i + 1]) + (1 - s) * loss(logits[i : i + 1], other[i : i + 1]))
        for i, s in enumerate(share)
    ]
    assert float(found) == pytest.approx(sum(each), rel=1e-5)
    if kind == "cross_entropy":
        target = losses.soft_targets(y, losses.Mixed(other, share), 3)
        theirs = functional.cross_entropy(logits, target, label_smoothing=smoothing, reduction="sum")
        assert float(found) == pytest.approx(float(theirs), rel=1e-5)
        assert torch.allclose(target.sum(1), torch.ones(7))
    assert float(loss(logits, y, losses.Mixed(other, torch.ones(7)))) == pytest.approx(float(loss(logits, y)), rel=1e-5)


@pytest.mark.parametrize(("kind", "why"), [("focal", r"\(1 - p\)\^gamma"), ("ldam", "margin")])
@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_a_loss_of_one_class_an_image_is_refused_with_the_reason(tmp_path, kind, why, way):
    with pytest.raises(
        ConfigError, match=rf"soft targets, which loss\.kind: {kind} does not take: .*{why}.*Take another loss"
    ):
        small_settings(tmp_path, loss={"kind": kind}, training={"augment": {way: 0.3}})
    small_settings(tmp_path, loss={"kind": kind}, training={"augment": {way: 0}})  # switched off


OWN_LOSSES = """
import torch
def hard(logits, targets):
    return torch.nn.functional.cross_entropy(logits, targets)
def soft(logits, targets, soft_targets):
    assert soft_targets.shape == logits.shape
    return torch.nn.functional.cross_entropy(logits, soft_targets)
"""


def test_a_loss_of_the_user_has_to_take_soft_targets(project, tmp_path, quick_run):
    project(mine=OWN_LOSSES)
    given = {"training": {"epochs": 1, "label_smoothing": 0.0, "augment": {"mixup": 0.5}}}
    with pytest.raises(ConfigError, match=r"python:mine:hard does not take soft_targets"):
        experiment_plan.plan_experiment(small_settings(tmp_path, loss={"kind": "python:mine:hard"}, **given))
    mine = quick_run(loss={"kind": "python:mine:soft"}, **given)
    ours = quick_run(**given)
    losses = [e.manifest().ends[-1].metrics["train_loss"] for e in (mine, ours)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# --- planning ---------------------------------------------------------------------------------------------------------------


def planned(tmp_path, **augment):
    return experiment_plan.plan_experiment(
        small_settings(tmp_path, training={"augment": {"crop_padding": 1, **augment}})
    )


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (
            {"classes": {"33": {"affine": 5}}},
            r"training\.augment\.classes names class '33', which the data do not have",
        ),
        (
            {"classes": {"3": {"crop_padding": 8}}},
            r"training\.augment\.crop_padding is 8, but the images have 8 pixels a side",
        ),
        ({"classes": {"3": {"mixup": 1}}}, r"training\.augment\.classes\.3\.mixup: there is no such option"),
        ({"affine": {"scale": [2, 1]}}, "the smaller number comes first"),
        ({"random_resized_crop": {"scale": [0, 1]}}, "scale"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, augment, message):
    with pytest.raises((ConfigError, WeightsError), match=message):
        planned(tmp_path, **augment)


def test_what_an_option_does_not_do_is_said(tmp_path):
    texts = [
        note.text
        for note in planned(tmp_path, color_jitter={"hue": 0.2}, trivial_augment=True, mixup=0.2, repeats=3).notes
    ]
    assert any("are gray: training.augment.color_jitter changes their brightness and contrast only" in t for t in texts)
    assert any(
        "trivial_augment moves images by up to 32 pixels, as published, and these have 8 a side" in t for t in texts
    )
    assert any(t.startswith("Images are mixed by mixup:") for t in texts)
    assert any("an epoch of 498 images has 166 draws" in t for t in texts)
    assert not any("augment" in note.text or "mixed" in note.text for note in planned(tmp_path).notes)


def test_classes_are_found_in_another_unicode_form_and_numbers_are_names(tmp_path):
    settings = planned(tmp_path, classes={3: {"flip": True}, " 4": {"flip": True}}).settings
    assert set(settings.training.augment.classes) == {"3", "4"}


def test_short_forms_and_what_is_saved_are_the_same(tmp_path):
    def augment(**given):
        return small_settings(tmp_path, training={"augment": given}).training.augment

    assert augment(affine=15).affine.degrees == 15
    assert augment(color_jitter=0.4).color_jitter.saturation == 0.4
    assert augment(random_erasing=0.3).random_erasing.p == 0.3
    assert augment(color_jitter=True).color_jitter.contrast == 0.4
    words = {
        word: load_config.load("base", [f"training.augment={word}"]).training.augment for word in ("cutmix", "none")
    }
    assert words["cutmix"].cutmix.alpha == 1
    assert words["cutmix"].crop_padding == 4
    assert not words["none"].changes
    with pytest.raises(ConfigError, match="python:MODULE:NAME is needed, not 'fliping'"):
        load_config.load("base", ["training.augment=fliping"])
    assert augment(rand_augment=True).rand_augment.magnitude == 9
    assert augment(random_resized_crop=True).crop_padding == 1  # small_settings asks for it
    assert section_of({"trivial_augment": False}).of_class("x").trivial_augment is None
    off = {"mixup": 0, "cutmix": False, "affine": False, "rand_augment": {"p": 0}}
    assert section_of(off) == section_of({})  # so that a child which switches them off changes nothing
    assert section_of({"classes": {"3": None}}) == section_of({})
    every = section_of(ALL)
    assert section_of(every.model_dump(mode="json")) == every
    assert every.changes
    assert not section_of({"crop_padding": 0, "flip": False}).changes
    assert section_of({"crop_padding": 0, "flip": False, "classes": {"3": {"affine": 3}}}).changes


@pytest.mark.slow  # the same images on the CPU are tested above; importing what the device needs takes seconds
def test_on_another_device_nothing_of_the_cpu_is_mixed_in(digits):
    """torch's meta device has no values, but refuses to mix devices as a GPU does."""
    import torch

    from raysweep.data.augment_draws import Place
    from raysweep.training.augmentation import mixing, pipeline

    positions = np.arange(60)
    x = torch.zeros(60, 3, 10, 10, dtype=torch.uint8, device="meta")
    augmented = {**ALL, "rand_augment": False}  # equalize asks for values, which are not there
    for augment in (augmented, {"classes": {"3": {**EVERY["affine"], **EVERY["jitter"], **EVERY["erasing"]}}}):
        changed = pipeline.Augmentation(section_of(augment), digits.classes, np.array([1, 2, 3], dtype=np.uint8))
        out = changed(x, digits.train.labels[:60], Place(1, 1, positions))
        assert out.device.type == "meta"
        assert out.shape == x.shape
        assert out.dtype == torch.uint8
    section = section_of(ALL)
    found = mixing.drawn(section.mixup, section.cutmix, Place(1, 1, positions), 10, 10)
    labels = torch.zeros(60, dtype=torch.int64, device="meta")
    out, mixed = mixing.mix(x.float(), x.float(), labels, found)
    assert out.device.type == mixed.share.device.type == mixed.other.device.type == "meta"
