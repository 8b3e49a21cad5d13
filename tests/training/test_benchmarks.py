"""The benchmarks: nothing else runs them between two releases."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("model", ["cnn", "vit"])
def test_the_networks_of_the_benchmarks_are_built(model):
    import torch

    from benchmarks import epoch

    assert set(epoch.MODELS) == {"cnn", "vit"}
    assert epoch.network(model, 7)(torch.zeros(2, 1, 48, 48)).shape == (2, 7)
