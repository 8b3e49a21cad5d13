"""Networks that differ only in their last layer: the rest is computed once, and no bit of what they say changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

IMAGES, SHAPE, CLASSES = 600, (4, 4, 1), ("cat", "dog", "eel")  # 600 are three batches


@pytest.fixture
def images() -> Any:
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, *SHAPE), dtype=np.uint8)
    return SimpleNamespace(batches=lambda size: (pixels[a : a + size] for a in range(0, IMAGES, size)))


def network(
    head_seed: int, backbone_seed: int = 0, freeze: str | None = "backbone", scale: float = 1.0, **changes: Any
):
    """(the network, how many batches passed its first layer)"""
    import torch
    from torch import nn

    from raysweep.tools.predict import Network

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(backbone_seed)
            self.first = nn.Linear(16, 32)
            torch.manual_seed(100 + head_seed)
            self.head = nn.Linear(32, len(CLASSES))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return scale * self.head(self.first(x.flatten(1)).relu())

    model, calls = Net().eval(), []
    model.first.register_forward_hook(lambda *_: calls.append(1))
    told: Any = {"model": {"freeze": freeze, "options": {}}}
    made = Network(model, "cnn", CLASSES, (127.0,), (60.0,), SHAPE, f"{head_seed}.pt", "", settings=told)
    return SimpleNamespace(
        **vars(made) | {"standardised": made.standardised, "multi_label": made.multi_label} | changes
    ), calls


def scored(images: Any, *networks: Any) -> list[np.ndarray]:
    import torch

    from raysweep.tools.scores import Scores

    scores = Scores(images, torch.device("cpu"))
    return [scores.of(n) for n in networks]


def test_what_is_the_same_is_computed_once_and_the_bits_are_those_of_each_alone(images):
    made = [network(seed) for seed in range(4)]
    together = scored(images, *(n for n, _ in made))
    assert [len(calls) for _, calls in made] == [3, 0, 0, 0]
    for seed, found in enumerate(together):
        (alone,) = scored(images, network(seed, freeze=None)[0])
        assert np.array_equal(found, alone)
    assert len({found.tobytes() for found in together}) == 4


@pytest.mark.parametrize(
    "other",
    [
        {"backbone_seed": 1},
        {"freeze": None},
        {"mean": (0.0,)},
        {"std": (1.0,)},
        {"name": "vit"},
        {"geometry": SimpleNamespace(fit="pad", background=0)},
    ],
)
def test_a_network_that_is_another_in_any_way_is_computed_whole(images, other):
    first, _ = network(0)
    second, calls = network(1, **other)
    assert len(scored(images, first, second)) == 2
    assert len(calls) == 3
    assert np.array_equal(scored(images, first, second)[1], scored(images, second)[0])


def test_an_output_that_is_not_its_last_layers_is_not_shared(images):
    made = [network(seed, scale=2.0) for seed in range(2)]
    scored(images, *(n for n, _ in made))
    assert [len(calls) for _, calls in made] == [3, 3]
