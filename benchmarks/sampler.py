"""One epoch with all classes shown equally often: ours against ``torchsampler`` (``ImbalancedDatasetSampler``), on CIFAR-10-LT's counts.

``python -m benchmarks.sampler`` prints, over ``--epochs`` epochs, how many images each class gets, how many different images of the
largest and of the smallest class are shown, and the milliseconds to draw an epoch's order. The two take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from raysweep.data import sampling
from raysweep.weights import SamplingWeights

COUNTS = {
    "airplane": 5000, "automobile": 2997, "bird": 1796, "cat": 1077, "deer": 645, "dog": 387, "frog": 232, "horse": 139, "ship": 83,
    "truck": 50,
}  # fmt: skip


def drawers() -> dict[str, Callable[[int], np.ndarray]]:
    """Name → a function of the epoch that gives the order of its images, int (n,)."""
    import torch
    from torchsampler import ImbalancedDatasetSampler

    labels = np.repeat(np.arange(len(COUNTS)), list(COUNTS.values()))
    classes = list(COUNTS)
    weights = SamplingWeights.complete({c: 1 / n for c, n in COUNTS.items()}, classes)
    members = np.arange(len(labels))

    def ours(epoch: int) -> np.ndarray:
        return sampling.epoch_order(labels, members, classes, weights, len(labels), seed=0, epoch=epoch)

    theirs = ImbalancedDatasetSampler(range(len(labels)), labels=labels.tolist())

    def torchsampler(epoch: int) -> np.ndarray:
        torch.manual_seed(epoch)
        return np.array([int(i) for i in theirs])

    return {"raysweep (quota)": ours, "torchsampler": torchsampler}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampler", description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    epochs = parser.parse_args().epochs
    labels = np.repeat(np.arange(len(COUNTS)), list(COUNTS.values()))
    every = drawers()
    orders: dict[str, list[np.ndarray]] = {name: [] for name in every}
    taken: dict[str, list[float]] = {name: [] for name in every}
    for epoch in range(1, epochs + 1):
        for name, draw in every.items():
            began = time.perf_counter()
            orders[name].append(draw(epoch))
            taken[name].append(1e3 * (time.perf_counter() - began))
    names = list(COUNTS)
    print(
        f"{'':<20}{'images of a class':>20}{f'different {names[0]}s':>22}{f'different {names[-1]}s of {COUNTS[names[-1]]}':>26}{'ms':>8}"
    )
    for name, found in orders.items():
        counts = np.array([np.bincount(labels[order], minlength=len(names)) for order in found])
        first, last = ([len(np.unique(order[labels[order] == c])) for order in found] for c in (0, len(names) - 1))
        print(
            f"{name:<20}{f'{counts.min():,} – {counts.max():,}':>20}{f'{min(first):,} – {max(first):,}':>22}"
            f"{f'{min(last)} – {max(last)}':>26}{statistics.median(taken[name]):>8.1f}"
        )


if __name__ == "__main__":
    main()
