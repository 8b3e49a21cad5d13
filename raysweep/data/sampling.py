"""Which images an epoch shows, and in what order: one index vector per (seed, epoch, weights).

The vector does not depend on the number of workers; rank r takes its slice of each global batch. Random numbers come
from PCG64's raw stream, which NumPy promises never to change (unlike the methods of ``Generator``, NEP 19), so an order
can be reproduced years later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from raysweep.label_sets import LabelCounts, LabelSet
from raysweep.weights import SamplingWeights

# One number per use of randomness, so that no two uses share a stream.
_SHUFFLE, _WALK, _MULTINOMIAL, _POOL, AUGMENT, FOLLOW, VIEWS = range(7)


def raw_stream(entropy: Sequence[int], n: int) -> np.ndarray:
    """``n`` uint64 random numbers, a pure function of ``entropy`` (integers ≥ 0)."""
    return np.random.PCG64(np.random.SeedSequence(list(entropy))).random_raw(n)


def permutation(n: int, entropy: Sequence[int]) -> np.ndarray:
    """A seeded permutation of ``range(n)`` as int64 (n,)."""
    return np.argsort(raw_stream(entropy, n), kind="stable")


def totals(labels: np.ndarray, classes: int) -> np.ndarray:
    """Images of each class, int64 (classes,). ``labels`` int64 (n,), or bool (n, classes) of images with several labels each."""
    return labels.sum(0, dtype=np.int64) if labels.ndim == 2 else np.bincount(labels, minlength=classes)


def class_counts(labels: np.ndarray, classes: Sequence[str]) -> dict[str, int]:
    """Class → images; the labels as :func:`totals` takes them."""
    if labels.ndim == 2:
        sets, of_image = label_sets(labels, classes)
        n = np.bincount(of_image, minlength=len(sets)).tolist()
        return LabelCounts.of(classes, dict(zip(sets, n, strict=True)))
    return {name: int(n) for name, n in zip(classes, totals(labels, len(classes)), strict=False)}


def label_sets(labels: np.ndarray, classes: Sequence[str]) -> tuple[list[LabelSet], np.ndarray]:
    """(the sets of labels that images have, the position of each image's among them, int64 (n,)); ``labels`` bool (n, classes)."""
    packed = np.packbits(labels, axis=1)
    # Each row as one value, compared byte by byte.
    rows = np.ascontiguousarray(packed).view(f"V{packed.shape[1]}").ravel()
    _, first, of_image = np.unique(rows, return_index=True, return_inverse=True)
    sets = [tuple(classes[c] for c in np.flatnonzero(labels[i]).tolist()) for i in first]
    return sets, of_image.reshape(-1)


def pool(
    labels: np.ndarray, classes: Sequence[str], sample_per_class: int | None, seed: int, held: np.ndarray | None = None
) -> np.ndarray:
    """Indices (int64, ascending) of the images that may be shown: all, or a seeded sample of each class.

    Args:
        held: bool (n,), the images that are not shown.
    """
    free = np.ones(len(labels), dtype=bool) if held is None else ~held
    if sample_per_class is None:
        return np.flatnonzero(free).astype(np.int64)
    chosen = []
    for c in range(len(classes)):
        of_class = np.flatnonzero((labels == c) & free)
        chosen.append(of_class[permutation(len(of_class), (seed, _POOL, c))[:sample_per_class]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def epoch_order(
    labels: np.ndarray,
    members: np.ndarray,
    classes: Sequence[str],
    weights: SamplingWeights,
    draws: int,
    *,
    seed: int,
    epoch: int,
    strategy: str = "quota",
    repeats: int = 1,
) -> np.ndarray:
    """The images of one epoch in the order in which they are shown.

    Args:
        labels: int64 (n,), the class of every training image; or bool (n, classes): of images with several labels each, every set of
            labels is drawn as a class is.
        members: int64, the pool: indices that may be shown.
        classes: names; ``labels`` indexes into them.
        draws: N, the length of the epoch.
        seed, epoch: what the order is a function of, with the weights.
        strategy: ``quota``: class c gets exactly ``round(N n_c w_c / sum(n w))`` draws (largest remainder), its images
            repeating only after each of them was shown; ``multinomial``: N independent draws with replacement.
        repeats: how often each draw is shown in a row; N is a multiple of it, see :func:`draws`.

    Returns:
        int64 (draws,), indices into the training images.
    """
    if repeats > 1:
        once = epoch_order(
            labels, members, classes, weights, draws // repeats, seed=seed, epoch=epoch, strategy=strategy
        )
        return np.repeat(once, repeats)
    of_class, mass, quotas = _strata(labels, members, classes, weights, draws)
    if strategy == "multinomial":
        return _multinomial(of_class, mass, draws, (seed, _MULTINOMIAL, epoch))
    taken = []
    for c, quota in enumerate(quotas):
        rounds = -(-quota // len(of_class[c])) if quota else 0
        walk = [of_class[c][permutation(len(of_class[c]), (seed, _WALK, epoch, c, k))] for k in range(rounds)]
        taken.append(np.concatenate(walk)[:quota] if walk else np.empty(0, dtype=np.int64))
    # Shuffle the classes, not the images. Each class's images then keep the order of its walk, and an image is shown
    # again only after every other image of its class was shown.
    class_of = np.repeat(np.arange(len(taken)), [len(walk) for walk in taken])
    class_of = class_of[permutation(draws, (seed, _SHUFFLE, epoch))]
    order = np.empty(draws, dtype=np.int64)
    order[np.argsort(class_of, kind="stable")] = np.concatenate(taken)
    return order


def _strata(
    labels: np.ndarray, members: np.ndarray, classes: Sequence[str], weights: SamplingWeights, draws: int
) -> tuple[list[np.ndarray], np.ndarray, list[int]]:
    """(images of each class or set of labels, int64 each; how many times its weight, float64; how many of ``draws`` it gets)."""
    of = weights.as_dict()
    if labels.ndim == 2:
        # Of all images, so that the pool does not change the numbers of the sets.
        sets, of_image = label_sets(labels, classes)
        ends = np.cumsum(np.bincount(of_image[members], minlength=len(sets)))[:-1]
        images = np.split(members[np.argsort(of_image[members], kind="stable")], ends)
        there = LabelCounts.of(classes, {s: len(some) for s, some in zip(sets, images, strict=True)})
        masses = there.masses(of)
        most = max(masses.values(), default=0) or 1
        parts = np.array([masses[s] / most for s in sets], dtype=np.float64)
        return images, parts, list(weights.set_quotas(there, draws).values())
    images = [members[labels[members] == c] for c in range(len(classes))]
    counts = {name: len(images[c]) for c, name in enumerate(classes)}
    mass = [counts[c] * of[c] for c in classes]
    return images, np.array(mass, dtype=np.float64), list(weights.quotas(counts, draws).values())


def _multinomial(of_class: list[np.ndarray], mass: np.ndarray, draws: int, entropy: Sequence[int]) -> np.ndarray:
    """Independent draws, as by torch's ``WeightedRandomSampler`` but without its limit of 2**24 images."""
    edges = np.cumsum(mass) / mass.sum()
    raw = raw_stream(entropy, 2 * draws)
    uniform = (raw >> np.uint64(11)) * 2.0**-53  # 53 random bits, in [0, 1)
    which = np.minimum(np.searchsorted(edges, uniform[:draws], side="right"), int(np.flatnonzero(mass)[-1]))
    order = np.empty(draws, dtype=np.int64)
    for c, images in enumerate(of_class):
        at = np.flatnonzero(which == c)
        if len(at):
            order[at] = images[(uniform[draws + at] * len(images)).astype(np.int64)]
    return order


def draws(wanted: int, repeats: int) -> int:
    """Images per epoch: as many as wanted, or up to ``repeats - 1`` less, so that each is shown ``repeats`` times."""
    return max(1, wanted // repeats) * repeats


def requested(weights: SamplingWeights, counts: Mapping[str, int], draws: int, repeats: int) -> dict[str, int]:
    """Class → how many of ``draws`` images the weights ask for; what quota sampling shows."""
    return {c: n * repeats for c, n in weights.quotas(counts, draws // repeats).items()}


def batches(draws: int, batch_size: int) -> int:
    """Global batches per epoch.

    The last batch may be short. If only one image is left for it, that image joins the batch before it, because batch
    normalisation needs more than one value to compute a variance.
    """
    full, rest = divmod(draws, batch_size)
    return full + (rest > 1 or (rest == 1 and full == 0))


def batch_bounds(batch: int, draws: int, batch_size: int) -> tuple[int, int]:
    """The positions ``[start, stop)`` of global batch ``batch`` (from 0) in the epoch."""
    return batch * batch_size, draws if batch + 1 == batches(draws, batch_size) else (batch + 1) * batch_size


def pieces(positions: np.ndarray, bounds: tuple[int, int], wanted: int, ranks: int) -> list[np.ndarray]:
    """What a rank computes of a global batch, in parts one after another: ``wanted``, or as many as the rank with the fewest images has.

    Args:
        positions: of this rank, int64 (n,). bounds: the positions ``[start, stop)`` of the batch.
    """
    images = bounds[1] - bounds[0]
    fewest = images if images < ranks else images // ranks
    return np.array_split(positions, max(1, min(wanted, fewest)))


def rank_slice(start: int, stop: int, rank: int, world_size: int) -> tuple[int, int]:
    """The part ``[a, b)`` of the global batch ``[start, stop)`` that a rank computes; sizes differ by at most one.

    If a batch has fewer images than there are ranks, every rank computes the whole batch: no rank may be empty, since
    batch statistics and DDP's collectives need all of them, and the average of equal gradients is the same gradient.
    """
    n = stop - start
    if n < world_size:
        return start, stop
    base, extra = divmod(n, world_size)
    a = start + rank * base + min(rank, extra)
    return a, a + base + (rank < extra)


def order_hash(order: np.ndarray) -> str:
    """SHA-256 of a sample sequence, to compare sequences across runs and world sizes."""
    return hashlib.sha256(np.ascontiguousarray(order, dtype="<i8").tobytes()).hexdigest()
