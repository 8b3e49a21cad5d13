"""How long the passes of a small network take with so many threads, measured now, on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from raysweep.training import outputs, trial

_ROUNDS = 5
_FEW = (2, 8, 32, 128)
_MOST_S = 0.15  # of one batch: a larger network uses its threads well, and measuring it would take long


def of_a_batch(
    model: nn.Module, shape: tuple[int, int, int], images: int, channels_last: bool, threads: Sequence[int]
) -> dict[int, float]:
    """The fewest seconds of a pass forward and back, by the number of threads; empty where one takes longer than is worth it.

    Args:
        model: its state changes.
        shape: of an image, (height, width, channels).
        images: of a batch.
    """
    height, width, channels = shape
    model.train()
    if channels_last:
        model.to(memory_format=torch.channels_last)
    labels = torch.zeros(images, dtype=torch.int64)
    x = trial.arranged(torch.zeros(images, channels, height, width), channels_last)

    def seconds(count: int, some: int = images) -> float:
        torch.set_num_threads(count)
        began = time.perf_counter()
        logits, _ = outputs.parts(model(x[:some]))
        torch.autograd.backward(functional.cross_entropy(logits.float(), labels[:some]))
        return time.perf_counter() - began

    before, most = torch.get_num_threads(), max(threads)
    sizes = [*(n for n in _FEW if n < images), images]  # few first: a large network takes a minute for a whole batch
    try:
        seconds(most, sizes[0])  # the first pass prepares more than it computes
        if any(seconds(most, some) > _MOST_S for some in sizes):
            return {}
        rounds = [{count: seconds(count) for count in threads} for _ in range(_ROUNDS)]
    finally:
        torch.set_num_threads(before)
    return {count: min(found[count] for found in rounds) for count in threads}
