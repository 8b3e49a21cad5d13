"""Effects: how much better or worse a branch is than its reference on the same images, and whether that is more than noise.

Intervals and tests are paired: both networks were evaluated on the same validation images, so an image that is hard for
both adds no uncertainty to the difference. Images say nothing about the randomness of training itself; seeds measure that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

METRICS = ("recall", "precision", "f1")
OVERALL = ("accuracy", "macro_f1")
BETTER, WORSE, NOISE = "better", "worse", "within noise"
UNKNOWN = "unknown"  # the label where there are no predictions, or fewer than FEW images
NO_IMAGES = "no images"  # the label of a class without validation images, of which nothing is known
FEW = 10  # images of a class; with fewer, resampling them shows next to nothing, so there is no interval
LEVEL = 0.05  # of the false-discovery rate; intervals cover 1 - LEVEL
RESAMPLES = 4000
MORE_RESAMPLES = 100_000
MOST_CELLS = 64  # up to which MORE_RESAMPLES fit into memory
MANY_CELLS = 2000  # from which fewer resamples are drawn, and the same for
MANY_CLASSES = 100
AT_ONCE = 8_000_000  # numbers in a table of resamples

Counts = np.ndarray  # float64 (resamples, cells): how many images of each cell
Measure = Callable[[Counts], np.ndarray]  # → (resamples,)


@dataclass(frozen=True)
class Effect:
    """One difference, branch minus reference, averaged over the seeds."""

    branch: str
    target: str  # a class, or ALL
    metric: str
    reference: float
    value: float
    difference: float
    low: float  # ends of the 95 % interval over images; NaN with fewer than FEW images
    high: float
    p: float
    q: float = 1.0  # p after Benjamini–Hochberg over all effects of the comparison
    noise: float | None = (
        None  # seed variance: differences up to this size arise from other seeds, 95 %; None for one seed
    )
    label: str = NOISE
    images: int | None = None  # validation images of the class, or in all; None where that is not known


ALL = "(all)"


@dataclass(frozen=True)
class Pair:
    """A branch and its reference on the same images.

    ``labels`` int (n,); ``branch`` and ``reference`` int (seeds, n): the predicted classes, one row for each seed.
    ``one_reference``: all rows of the reference are the same network, so they do not show the variance between seeds.
    """

    name: str
    labels: np.ndarray
    branch: np.ndarray
    reference: np.ndarray
    one_reference: bool = False


def effects(pairs: Sequence[Pair], classes: Sequence[str], seed: int = 0) -> list[Effect]:
    """Every difference of every pair, with interval, test and label.

    A difference is called better or worse if its false-discovery rate is at most LEVEL over all branches, classes and
    metrics (Benjamini & Hochberg 1995) and if it is larger than the seed variance, where that is known.

    Args:
        classes: the names of the classes, in the order of the labels.
        seed: of the resampling. The same predictions and seed give the same numbers.
    """
    found: list[Effect] = []
    for pair in pairs:
        rng = np.random.default_rng(seed)
        counts = np.bincount(pair.labels, minlength=len(classes)).tolist()
        for index, name in enumerate(classes):
            if not counts[index]:
                found += [_nothing(pair.name, name, metric) for metric in METRICS]
                continue
            drawn = _Drawn(_class_cells(pair, index), rng, many=len(classes) > MANY_CLASSES)
            for metric in METRICS:
                found.append(_effect(pair, name, metric, drawn, *_of_class(drawn.cells, metric), counts[index]))
        for metric in OVERALL:
            cells, references, branches = _overall(pair, len(classes), metric)
            drawn = _Drawn(cells, rng, many=len(cells.counts) > MANY_CELLS)
            found.append(_effect(pair, ALL, metric, drawn, references, branches, len(pair.labels)))
    return _labelled(found, _floors(pairs, classes))


def _nothing(branch: str, target: str, metric: str) -> Effect:
    """What is known of a class without validation images."""
    unknown = (math.nan,) * 7  # reference, value, difference, interval, p and q
    return Effect(branch, target, metric, *unknown, label=NO_IMAGES, images=0)


# --- cells: images that get the same predictions from all networks ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Cells:
    """Images counted by (label, predictions of all networks). ``rows`` (cells, 1 + 2 × seeds): the label, the references'
    predictions, the branches' predictions; ``counts`` float64 (cells,): images in each cell."""

    rows: np.ndarray
    counts: np.ndarray
    seeds: int

    @property
    def equal(self) -> bool:
        """Whether reference and branch predict the same of every image."""
        s = self.seeds
        return bool(np.array_equal(self.rows[:, 1 : 1 + s], self.rows[:, 1 + s :]))

    @property
    def swapped(self) -> np.ndarray:
        """For each cell the index of the cell in which branch and reference are exchanged; -1 if there is no such cell."""
        s = self.seeds
        other = np.concatenate([self.rows[:, :1], self.rows[:, 1 + s :], self.rows[:, 1 : 1 + s]], axis=1)
        place = {tuple(row): i for i, row in enumerate(self.rows.tolist())}
        return np.array([place.get(tuple(row), -1) for row in other.tolist()])


def _cells(label: np.ndarray, reference: np.ndarray, branch: np.ndarray) -> _Cells:
    rows, counts = _counted(np.concatenate([label[None], reference, branch]).T)
    # Add for every cell the one with branch and reference exchanged, also if it has no image: the permutation test needs it.
    s = len(reference)
    mirror = np.concatenate([rows[:, :1], rows[:, 1 + s :], rows[:, 1 : 1 + s]], axis=1)
    every, first = np.unique(np.concatenate([rows, mirror]), axis=0, return_index=True)
    full = np.where(first < len(rows), counts[np.minimum(first, len(rows) - 1)], 0)
    return _Cells(every, full.astype(np.float64), s)


def _counted(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the different rows of a table of small numbers in order, how often each occurs): ``np.unique(axis=0)``, much faster."""
    base = int(table.max()) + 1 if table.size else 1
    if base ** table.shape[1] >= 2**62:
        rows, counts = np.unique(table, axis=0, return_counts=True)
        return rows, counts
    key = np.zeros(len(table), dtype=np.int64)
    for column in table.T:
        key = key * base + column
    _, first, counts = np.unique(key, return_index=True, return_counts=True)
    return table[first], counts


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """over / under; 0 / 0 is 0, as in scikit-learn."""
    result: np.ndarray = np.divide(over, under, out=np.zeros_like(over), where=under > 0)
    return result


def _class_cells(pair: Pair, index: int) -> _Cells:
    """The cells of one class against all others."""
    return _cells(pair.labels == index, pair.reference == index, pair.branch == index)


def _of_class(cells: _Cells, metric: str) -> tuple[list[Measure], list[Measure]]:
    """(the metric of each reference, the metric of each branch) of a class, by seed."""
    actual = cells.rows[:, 0].astype(bool)

    def measure(column: int) -> Measure:
        predicted = cells.rows[:, column].astype(bool)
        weights = np.stack([actual & predicted, actual, predicted], axis=1).astype(np.float64)

        def of(counts: Counts) -> np.ndarray:
            hit, real, predicted = (counts @ weights).T
            match metric:
                case "recall":
                    return _ratio(hit, real)
                case "precision":
                    return _ratio(hit, predicted)
            return _ratio(2 * hit, real + predicted)

        return of

    s = cells.seeds
    return [measure(1 + i) for i in range(s)], [measure(1 + s + i) for i in range(s)]


def _overall(pair: Pair, classes: int, metric: str) -> tuple[_Cells, list[Measure], list[Measure]]:
    if metric == "accuracy":
        cells = _cells(np.zeros_like(pair.labels), pair.reference == pair.labels, pair.branch == pair.labels)
    else:
        cells = _cells(pair.labels, pair.reference, pair.branch)
    actual = cells.rows[:, 0]
    there = np.bincount(pair.labels, minlength=classes) > 0  # macro-F1 leaves out the classes without images

    def measure(column: int) -> Measure:
        predicted = cells.rows[:, column]

        def accuracy(counts: Counts) -> np.ndarray:
            share: np.ndarray = counts @ predicted.astype(np.float64) / counts.sum(1)
            return share

        def macro(counts: Counts) -> np.ndarray:
            hit = _sums(counts, np.where(actual == predicted, actual, classes), classes)
            both = _sums(counts, actual, classes) + _sums(counts, predicted, classes)
            mean: np.ndarray = _ratio(2 * hit, both)[:, there].mean(1)
            return mean

        return accuracy if metric == "accuracy" else macro

    s = cells.seeds
    return cells, [measure(1 + i) for i in range(s)], [measure(1 + s + i) for i in range(s)]


def _sums(counts: Counts, kinds: np.ndarray, classes: int) -> np.ndarray:
    """float64 (resamples, classes): the images of each class, where ``kinds`` (cells,) is the class of each cell. Cells of a
    higher number are left out. With a thousand classes this is a hundred times as fast as a product of matrices."""
    order = np.argsort(kinds, kind="stable")[: int(np.sum(kinds < classes))]
    sums = np.zeros((len(counts), classes))
    if len(order):
        first = np.flatnonzero(np.r_[True, np.diff(kinds[order]) > 0])
        sums[:, kinds[order][first]] = np.add.reduceat(counts[:, order], first, axis=1)
    return sums


# --- interval and test ------------------------------------------------------------------------------------------------


def _effect(
    pair: Pair,
    target: str,
    metric: str,
    resamples: _Drawn,
    of_reference: list[Measure],
    of_branch: list[Measure],
    images: int,
) -> Effect:
    def mean(counts: Counts, measures: list[Measure]) -> np.ndarray:
        result: np.ndarray = np.mean([m(counts) for m in measures], axis=0)
        return result

    def difference(counts: Counts) -> np.ndarray:
        result: np.ndarray = mean(counts, of_branch) - mean(counts, of_reference)
        return result

    cells = resamples.cells
    here = cells.counts[None]
    reference, value = float(mean(here, of_reference)[0]), float(mean(here, of_branch)[0])
    low, high = (math.nan, math.nan) if images < FEW else _interval(resamples, difference)
    if cells.equal:
        p = 1.0
    elif cells.seeds == 1 and metric in ("recall", "accuracy"):
        p = _exact(cells, metric)
    else:
        p = _permuted(resamples, difference)
    return Effect(pair.name, target, metric, reference, value, value - reference, low, high, p, images=images)


class _Drawn:
    """The resamples of one table of cells. They are drawn once and serve every metric that is computed from these cells."""

    def __init__(self, cells: _Cells, rng: np.random.Generator, many: bool = False) -> None:
        self.cells, self.rng = cells, rng
        # A thousand classes, or the thousands of cells of their macro-F1, would take minutes; their intervals need no third
        # digit, and where p is small more resamples are drawn anyway.
        self.times = RESAMPLES // 4 if many else RESAMPLES
        self._kept: dict[str, Counts] = {}

    def images(self) -> Iterator[Counts]:
        """Draws of as many images with replacement: of the cells' counts from a multinomial."""
        n = int(self.cells.counts.sum())
        return self._parts("images", lambda k: self.rng.multinomial(n, self.cells.counts / n, size=k))

    def exchanges(self) -> Iterator[Counts]:
        """The counts after the two networks' predictions were exchanged for each image with probability 1/2."""
        return self._parts("exchanges", self.exchanged)

    def exchanged(self, times: int) -> Counts:
        counts, swapped = self.cells.counts, self.cells.swapped
        differ = np.flatnonzero((swapped != np.arange(len(swapped))) & (counts > 0))
        moved = self.rng.binomial(counts[differ].astype(np.int64), 0.5, size=(times, len(differ)))
        changed = np.repeat(counts[None], times, axis=0)
        changed[:, differ] -= moved
        changed[:, swapped[differ]] += moved
        return changed

    def _parts(self, kind: str, draw: Callable[[int], np.ndarray]) -> Iterator[Counts]:
        if len(self.cells.counts) <= MOST_CELLS:
            if kind not in self._kept:
                self._kept[kind] = draw(self.times).astype(np.float64)
            yield self._kept[kind]
            return
        for times in _parts(self.cells, self.times):
            yield draw(times).astype(np.float64)


def _parts(cells: _Cells, rows: int) -> list[int]:
    """How many of these rows to make at a time, so that a table of them fits into memory."""
    most = max(1, AT_ONCE // len(cells.counts))
    return [min(most, rows - start) for start in range(0, rows, most)]


def _interval(resamples: _Drawn, difference: Measure) -> tuple[float, float]:
    """The 95 % interval of a paired bootstrap over images, bias-corrected and accelerated (Efron 1987, doi
    10.1080/01621459.1987.10478410)."""
    from scipy.stats import norm

    cells = resamples.cells
    observed = float(difference(cells.counts[None])[0])
    if cells.equal:
        return observed, observed
    drawn = np.concatenate([difference(counts) for counts in resamples.images()])
    if np.ptp(drawn) == 0:
        return observed, observed
    below = (np.mean(drawn < observed - 1e-12) + np.mean(drawn <= observed + 1e-12)) / 2
    bias = norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
    acceleration = _acceleration(cells, difference) if len(cells.counts) <= MANY_CELLS else 0.0
    ends = []
    for share in (LEVEL / 2, 1 - LEVEL / 2):
        z = bias + norm.ppf(share)
        ends.append(float(norm.cdf(bias + z / (1 - acceleration * z))))
    low, high = np.quantile(drawn, np.clip(ends, 0, 1))
    return float(min(low, observed)), float(max(high, observed))


def _acceleration(cells: _Cells, difference: Measure) -> float:
    """How the difference's spread changes with its value, from leaving out one image at a time. Among thousands of cells it
    is next to 0."""
    there = np.flatnonzero(cells.counts)
    without = np.repeat(cells.counts[None], len(there), axis=0)
    without[np.arange(len(there)), there] -= 1
    left_out = difference(without)
    weight = cells.counts[there]
    far = np.average(left_out, weights=weight) - left_out
    spread = np.sum(weight * far**2)
    return float(np.sum(weight * far**3) / (6 * spread**1.5)) if spread > 0 else 0.0


def _exact(cells: _Cells, metric: str) -> float:
    """The p-value of McNemar's exact test: are the images that only one of the two networks has right split like tosses of a fair coin?"""
    from scipy.stats import binomtest

    counted = cells.rows[:, 0].astype(bool) if metric == "recall" else np.ones(len(cells.rows), dtype=bool)
    one = cells.counts[counted & (cells.rows[:, 1] == 1) & (cells.rows[:, 2] == 0)].sum()
    other = cells.counts[counted & (cells.rows[:, 1] == 0) & (cells.rows[:, 2] == 1)].sum()
    return 1.0 if one + other == 0 else float(binomtest(int(one), int(one + other)).pvalue)


def _permuted(resamples: _Drawn, difference: Measure) -> float:
    """The p-value of a paired permutation test, which exchanges the two networks' predictions image by image: if the networks
    were equally good, every exchange would be equally likely."""
    cells = resamples.cells
    observed = abs(float(difference(cells.counts[None])[0]))

    def as_extreme(counts: Counts) -> int:
        return int(np.sum(np.abs(difference(counts)) >= observed - 1e-12))

    times, found = resamples.times, sum(map(as_extreme, resamples.exchanges()))
    # Among a thousand comparisons only a very small p is significant, so a small p is estimated with more resamples.
    if found < 5 and len(cells.counts) <= MOST_CELLS:
        found += as_extreme(resamples.exchanged(MORE_RESAMPLES))
        times += MORE_RESAMPLES
    return (1 + found) / (1 + times)


# --- seeds, and the label ---------------------------------------------------------------------------------------------


def _floors(pairs: Sequence[Pair], classes: Sequence[str]) -> dict[tuple[str, str], float]:
    """(target, metric) → the seed variance: how far apart two means over the seeds lie by chance, with 95 % probability.

    The standard deviation s between seeds is pooled over all branches and references; the result is t · s · √(2 / seeds).
    """
    from scipy.stats import t

    values: dict[tuple[str, str], list[np.ndarray]] = {}
    for labels, rows in _seed_groups(pairs):
        for place, found in _per_seed(labels, rows, classes).items():
            values.setdefault(place, []).append(found)
    floors = {}
    for place, groups in values.items():
        degrees = sum(len(g) - 1 for g in groups)
        variance = sum(float(np.sum((g - g.mean()) ** 2)) for g in groups) / degrees
        size = np.mean([len(g) for g in groups])
        floors[place] = float(t.ppf(1 - LEVEL / 2, degrees)) * math.sqrt(variance * 2 / size)
    return floors


def _seed_groups(pairs: Sequence[Pair]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(labels, predictions) of every branch and reference that has several seeds, each once."""
    known: set[bytes] = set()
    for pair in pairs:
        if len(pair.branch) < 2:
            continue
        for rows in (pair.branch,) if pair.one_reference else (pair.branch, pair.reference):
            if (key := rows.tobytes()) not in known:  # branches of a sweep share their control
                known.add(key)
                yield pair.labels, rows


def _per_seed(labels: np.ndarray, rows: np.ndarray, classes: Sequence[str]) -> dict[tuple[str, str], np.ndarray]:
    """(target, metric) → its value for each seed."""
    k = len(classes)
    matrices = np.stack([np.bincount(labels * k + row, minlength=k * k).reshape(k, k) for row in rows]).astype(float)
    hit, real, predicted = matrices.diagonal(axis1=1, axis2=2), matrices.sum(2), matrices.sum(1)
    table = {"recall": _ratio(hit, real), "precision": _ratio(hit, predicted), "f1": _ratio(2 * hit, real + predicted)}
    found = {(name, metric): table[metric][:, c] for c, name in enumerate(classes) for metric in METRICS}
    found[ALL, "accuracy"] = hit.sum(1) / matrices.sum((1, 2))
    found[ALL, "macro_f1"] = table["f1"][:, real[0] > 0].mean(1)
    return found


def _labelled(found: list[Effect], floors: dict[tuple[str, str], float]) -> list[Effect]:
    from scipy.stats import false_discovery_control

    if not found:
        return []
    known = [e for e in found if e.label != NO_IMAGES]
    rates = iter(false_discovery_control([e.p for e in known], method="bh").tolist() if known else [])
    result = []
    for effect in found:
        if effect.label == NO_IMAGES:
            result.append(effect)
            continue
        q = next(rates)
        noise = floors.get((effect.target, effect.metric))
        real = q <= LEVEL and effect.difference != 0 and (noise is None or abs(effect.difference) > noise)
        label = NOISE if not real else BETTER if effect.difference > 0 else WORSE
        label = UNKNOWN if (effect.images or 0) < FEW else label
        result.append(replace(effect, q=float(q), noise=noise, label=label))
    return result


def as_row(effect: Effect) -> dict[str, Any]:
    """An effect as plain values, for JSON."""
    return dict(vars(effect))
