"""Kernels for whole batches: what torchvision's give for each image, and the same bits however a batch is parted."""

from __future__ import annotations

import numpy as np
import pytest


def pictures(n=12, channels=3, height=24, width=30, seed=0):
    """uint8 (n, channels, height, width): smooth pictures with noise."""
    import torch

    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [127 + 90 * np.sin(rng.uniform(0.1, 0.5) * x + rng.uniform(0.1, 0.5) * y + c) for c in range(n * channels)]
    noisy = np.stack(waves).reshape(n, channels, height, width) + rng.normal(0, 15, (n, channels, height, width))
    return torch.from_numpy(np.clip(noisy, 0, 255).astype(np.uint8))


FILL = (100, 120, 30)


def fill_of(channels):
    import torch

    return torch.tensor(FILL[:channels], dtype=torch.uint8)


def differ(a, b) -> int:
    return int((a.int() - b.int()).abs().max())


def in_parts(function, *arrays):
    """A function of a batch, called with parts of it."""
    import torch

    n = len(arrays[0])
    return torch.cat([function(*(x[a:b] for x in arrays)) for a, b in ((0, 1), (1, 6), (6, n))])


@pytest.mark.parametrize("channels", [1, 3])
def test_moves_are_those_of_torchvision_within_the_image(channels):
    """At the edge torchvision weights the colour outside twice."""
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    from raysweep.training.augmentation import geometry

    x, fill = pictures(channels=channels), fill_of(channels)
    rng = np.random.default_rng(1)
    n = len(x)
    angle, move, scale = rng.uniform(-90, 90, n), rng.integers(-5, 5, (n, 2)).astype(float), rng.uniform(0.7, 1.4, n)
    shear = rng.uniform(-20, 20, (n, 2))
    m = geometry.inverse(angle, move, scale, shear)
    mine = geometry.warp(x, m, fill)
    theirs = torch.stack(
        [
            functional.affine(
                x[i], angle[i], move[i].tolist(), scale[i], shear[i].tolist(), InterpolationMode.BILINEAR, fill.tolist()
            )
            for i in range(n)
        ]
    )
    within = geometry.warp(torch.full_like(x, 255), m, torch.zeros_like(fill)) == 255
    assert 0.5 < within.float().mean() < 0.95
    assert differ(mine[within], theirs[within]) <= 1
    assert torch.equal(in_parts(lambda some, matrices: geometry.warp(some, matrices, fill), x, m), mine)


def test_what_comes_from_outside_has_the_fill_and_nothing_moved_keeps_its_bits():
    import torch

    from raysweep.training.augmentation import geometry

    x, fill = pictures(), fill_of(3)
    zero, one = np.zeros(len(x)), np.ones(len(x))
    none = geometry.inverse(zero, np.zeros((len(x), 2)), one, np.zeros((len(x), 2)))
    assert torch.equal(geometry.warp(x, none, fill), x)
    away = geometry.inverse(zero, np.full((len(x), 2), 200.0), one, np.zeros((len(x), 2)))
    assert (geometry.warp(x, away, fill).permute(0, 2, 3, 1).reshape(-1, 3) == fill).all()
    right = geometry.inverse(zero, np.tile([4.0, 0.0], (len(x), 1)), one, np.zeros((len(x), 2)))
    moved = geometry.warp(x, right, fill)
    assert torch.equal(moved[..., 4:], x[..., :-4])
    assert (moved[..., :4] == fill.view(1, 3, 1, 1)).all()


def test_a_crop_is_that_part_scaled_up():
    import torch
    from torchvision.transforms.v2 import functional

    from raysweep.training.augmentation import geometry

    x = pictures()
    whole = np.tile([0, 0, 24, 30], (len(x), 1))
    assert torch.equal(geometry.warp(x, geometry.of_boxes(whole, 24, 30), None), x)
    boxes = np.tile([5, 7, 12, 15], (len(x), 1))
    mine = geometry.warp(x, geometry.of_boxes(boxes, 24, 30), None)
    theirs = functional.resized_crop(x, 5, 7, 12, 15, [24, 30], antialias=False)
    assert differ(mine[..., 1:-1, 1:-1], theirs[..., 1:-1, 1:-1]) <= 1  # at its edge ours sees the pixels beyond


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness", "hue"])
def test_colours_are_those_of_torchvision(name, channels):
    import torch
    from torchvision.transforms.v2 import functional

    from raysweep.training.augmentation import colour

    x = pictures(channels=channels)
    factor = torch.from_numpy(np.random.default_rng(2).uniform(0, 2, len(x))).float()
    factor = factor / 2 - 0.5 if name == "hue" else factor
    mine = getattr(colour, name)(x, factor)
    theirs = [getattr(functional, f"adjust_{name}")(x[i], float(f)) for i, f in enumerate(factor)]
    assert differ(mine, torch.stack(theirs)) <= 1
    assert torch.equal(in_parts(getattr(colour, name), x, factor), mine)
    if channels == 3:
        assert differ(mine, x) > 10
        assert not torch.equal(mine.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1))


def test_extreme_colours_stay_colours():
    import torch

    from raysweep.training.augmentation import colour

    x = torch.tensor([[0, 255, 255], [255, 0, 255]], dtype=torch.uint8).view(2, 3, 1, 1).expand(2, 3, 4, 4).clone()
    x = torch.cat([x, torch.zeros_like(x[:1]), torch.full_like(x[:1], 255)])
    for name in ("brightness", "contrast", "saturation", "sharpness", "hue"):
        for f in (0.0, 0.5, 1.0, 2.0):
            out = getattr(colour, name)(x, torch.full((4,), f / 4 if name == "hue" else f))
            assert out.dtype == torch.uint8
            if f == 1.0 and name != "hue":
                assert torch.equal(out, x)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("wide", [False, True])
def test_the_operations_and_strengths_are_those_of_torchvision(wide, channels):
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import RandAugment, TrivialAugmentWide

    from raysweep.training.augmentation import geometry, policies

    fill, x = fill_of(channels), pictures(4, channels=channels)
    theirs = (TrivialAugmentWide if wide else RandAugment)(interpolation=InterpolationMode.BILINEAR, fill=fill.tolist())
    table = policies.strengths(wide, 24, 30)
    assert list(policies.OPERATIONS) == list(theirs._AUGMENTATION_SPACE)
    for k, name in enumerate(policies.OPERATIONS):
        strengths, signed = theirs._AUGMENTATION_SPACE[name]
        of_theirs = strengths(31, 24, 30)
        for m in (0, 11, 23, 30):
            for negative in (False, True):
                value = 0.0 if of_theirs is None else float(of_theirs[m]) * (-1 if signed and negative else 1)
                given = {"interpolation": InterpolationMode.BILINEAR, "fill": {torch.Tensor: fill.tolist()}}
                wanted = theirs._apply_image_or_video_transform(x, name, value, **given)

                def mine(images, k=k, m=m, negative=negative):
                    n = len(images)
                    return policies.apply(images, np.full(n, k), np.full(n, m), np.full(n, negative), table, fill)

                within = torch.ones_like(x, dtype=torch.bool)
                if name in policies._MOVING:
                    matrices = policies._matrices(np.full(4, name), np.full(4, value), 24, 30)
                    within = geometry.warp(torch.full_like(x, 255), matrices, torch.zeros_like(fill)) == 255
                if within.any():
                    assert differ(mine(x)[within], wanted[within]) <= 1, (name, m, negative)


def test_policies_choose_operations_evenly_and_do_not_depend_on_the_batch():
    import torch

    from raysweep.config.augmentation import RandAugment
    from raysweep.data.augment_draws import Place
    from raysweep.training.augmentation import policies

    n = 1400
    seen: list[np.ndarray] = []
    apply = policies.apply
    try:
        policies.apply = lambda x, which, *more: seen.append(which) or x  # type: ignore[assignment]
        for p in (1.0, 0.5):
            policies.rand_augment(
                torch.zeros(n, 1, 4, 4), RandAugment(num_ops=2, magnitude=9, p=p), Place(1, 1, np.arange(n)), fill_of(1)
            )
            policies.trivial_augment(torch.zeros(n, 1, 4, 4), p, Place(1, 1, np.arange(n)), fill_of(1))
    finally:
        policies.apply = apply
    assert len(seen) == 6
    for which in seen[:3]:
        assert abs(np.bincount(which, minlength=14) - n / 14).max() < 5 * np.sqrt(n / 14)
    assert not np.array_equal(seen[0], seen[1])
    assert all(abs((which == 0).mean() - (0.5 + 0.5 / 14)) < 0.06 for which in seen[3:])
    x = pictures(20)

    def place(positions):
        return Place(3, 2, positions)

    section = RandAugment(num_ops=3, magnitude=20)
    for change in (
        lambda some, positions: policies.rand_augment(some, section, place(positions), fill_of(3)),
        lambda some, positions: policies.trivial_augment(some, 1.0, place(positions), fill_of(3)),
    ):
        assert torch.equal(in_parts(change, x, np.arange(20)), change(x, np.arange(20)))
