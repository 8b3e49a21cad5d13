"""Batches from the GPU's copy of the data equal batches gathered on the CPU."""

from __future__ import annotations

import numpy as np

from raysweep.config.settings import DataSection
from raysweep.data import augment, cache


def test_the_copy_on_the_device_gives_the_same_batches(image_cache):
    import torch

    from raysweep.training.feed import Feed

    data = cache.load(DataSection(source="digits"), image_cache)
    cpu = torch.device("cpu")
    feed = Feed(data, list(data.mean), list(data.std), cpu, True)
    resident = Feed(data, list(data.mean), list(data.std), cpu, True)
    resident.resident = {id(data.train): torch.from_numpy(np.ascontiguousarray(data.train.pixels))}
    index = np.array([5, 3, 3, 900, 41])
    for draws in (None, augment.epoch_draws(5, 3, True, seed=1, epoch=2)):
        x, y = feed.batch(data.train, index, draws)
        x2, y2 = resident.batch(data.train, index, draws)
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
        assert x.shape == (5, 1, 8, 8)
        assert x.is_contiguous(memory_format=torch.channels_last)


def test_the_training_images_are_normalised(image_cache):
    import torch

    from raysweep.training.feed import Feed

    data = cache.load(DataSection(source="digits"), image_cache)
    feed = Feed(data, list(data.mean), list(data.std), torch.device("cpu"), False)
    x, y = feed.batch(data.train, np.arange(len(data.train.labels)), None)
    assert abs(float(x.mean())) < 1e-4
    assert abs(float(x.std()) - 1) < 1e-3
    assert np.array_equal(y.numpy(), data.train.labels)
