"""Metrics of one network, each with the influence of every image on it.

The influence ψ of an image is the derivative of the metric by the image's weight (the infinitesimal jackknife, Jaeckel 1972;
Efron 1982, ISBN 978-0-89871-179-0): the variance of the metric over images is the sum of ψ². All sums of ψ are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Measured:
    """A metric of K targets. ``value`` float64 (K,); ``influence`` (K, n), one row per target, an array or a sparse matrix: of most
    classes an image is neither shown nor predicted.

    A target for which the metric is not defined (a class without images) has the value NaN and the influence 0.
    """

    value: Array
    influence: Any


def ratio(over: Array, under: Array) -> Array:
    """over / under; 0 / 0 is 0."""
    result: Array = np.divide(over, under, out=np.zeros(np.shape(over)), where=under > 0)
    return result


def one_hot(classes: Array, k: int) -> Array:
    """bool (k, n): whether image i is of class c. ``classes`` int (n,)."""
    table: Array = np.arange(k)[:, None] == classes[None]
    return table


@dataclass(frozen=True)
class PerClass:
    """Recall, precision and F1 of every class, and the counts that they were computed from (float64 (K,))."""

    recall: Measured
    precision: Measured
    f1: Measured
    images: Array
    predicted: Array


def per_class(labels: Array, predicted: Array, k: int) -> PerClass:
    """Recall, precision and F1 from the true and the predicted classes, int (n,) each.

    Precision of a class that is never predicted, and F1 of one without hits, are 0, as in scikit-learn. Of a class without
    images all three are NaN.
    """
    hit = labels == predicted
    real, guessed, hits = (
        np.bincount(rows, minlength=k).astype(np.float64) for rows in (labels, predicted, labels[hit])
    )
    images = np.arange(len(labels))
    recall, precision, f1 = ratio(hits, real), ratio(hits, guessed), ratio(2 * hits, real + guessed)
    of_recall = _sparse((hit - recall[labels]) / real[labels], labels, images, k)
    of_precision = _sparse((hit - precision[predicted]) / guessed[predicted], predicted, images, k)
    both = real + guessed
    of_f1 = _sparse((hit - f1[labels]) / both[labels], labels, images, k)
    of_f1 = of_f1 + _sparse((hit - f1[predicted]) / both[predicted], predicted, images, k)
    absent = real == 0

    def measured(value: Array, influence: Any) -> Measured:
        if absent.any():
            influence = influence.multiply((~absent)[:, None]).tocsr()
        return Measured(np.where(absent, np.nan, value), influence)

    return PerClass(measured(recall, of_recall), measured(precision, of_precision), measured(f1, of_f1), real, guessed)


def _sparse(values: Array, rows: Array, images: Array, k: int) -> Any:
    from scipy.sparse import csr_array

    return csr_array((values, (rows, images)), shape=(k, len(images)))


def mean(measured: Measured) -> Measured:
    """The mean over the targets for which the metric is defined (macro-F1, balanced accuracy), as one target."""
    there = ~np.isnan(measured.value)
    if not there.any():
        return Measured(np.array([np.nan]), np.zeros((1, measured.influence.shape[1])))
    influence = np.asarray(measured.influence.sum(0)).reshape(1, -1) / there.sum()  # undefined targets have none
    return Measured(measured.value[there].mean(keepdims=True), influence)


def mean_of(scores: Array, labels: Array | None = None, prior: Array | None = None) -> Measured:
    """The mean of one number per image, as one target: accuracy (hit or not), log-loss, Brier score. ``scores`` (n,).

    Args:
        labels, prior: int (n,) and float64 (K,), where the images were drawn class by class and have other shares than the data,
            ``prior``: the mean is then Σ_c prior_c · mean of class c, over the classes that have images.
    """
    scores = scores.astype(np.float64)
    if labels is None or prior is None:
        value = scores.mean(keepdims=True)
        return Measured(value, (scores - value)[None] / len(scores))
    weights = image_weights(labels, prior)
    counts = np.bincount(labels, minlength=len(prior))
    of_class = ratio(np.bincount(labels, scores, len(prior)), counts)
    return Measured(np.array([(weights * scores).sum()]), (weights * (scores - of_class[labels]))[None])


def image_weights(labels: Array, prior: Array) -> Array:
    """The weight of each image, float64 (n,), that gives the classes these shares; the sum is 1."""
    counts = np.bincount(labels, minlength=len(prior))
    shares = np.where(counts > 0, prior, 0.0)
    found: Array = (shares / max(shares.sum(), 1e-300) / np.maximum(counts, 1))[labels]
    return found


@dataclass(frozen=True)
class Ranked:
    """Average precision and the area under the ROC curve of each class against all others."""

    average_precision: Measured
    auroc: Measured


def ranked(scores: Array, actual: Array, with_influence: bool = True) -> Ranked:
    """Both metrics of every class, which depend only on the order of the scores. NaN without positives or negatives.

    AUROC counts ties half; its influence is that of DeLong, DeLong & Clarke-Pearson 1988 (doi 10.2307/2531595).
    Average precision is scikit-learn's: the mean over positives i of P_i = TP_i / N_i among the N_i images that score at least
    as high. The influence of an image k on it is (y_k (P_k − AP) + Σ (y_k − P_i) / N_i) / positives, summed over the positives i
    that score at most as high as k.

    Args:
        scores: (n, K), larger means more likely.
        actual: bool (K, n).
        with_influence: otherwise the influences are empty.
    """
    k = len(actual)
    shape = actual.shape if with_influence else (k, 0)
    precisions, areas = (Measured(np.full(k, np.nan), np.zeros(shape, dtype=np.float32)) for _ in range(2))
    for c, positive in enumerate(actual):
        m = int(positive.sum())
        n = len(positive) - m
        if not m:
            continue
        order = np.argsort(-scores[:, c])  # of equal scores in any order: only where their group begins and ends counts
        score, hit = -scores[order, c], positive[order].astype(np.float64)
        new = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])  # where a group of equal scores begins
        size = np.diff(np.r_[new, len(score)])
        first, last = np.repeat(new, size), np.repeat(new + size - 1, size)
        above = last + 1.0  # images with at least this score
        hits = np.cumsum(hit)
        precision = hits[last] / above
        value = precisions.value[c] = (hit * precision).sum() / m
        if with_influence:
            # Sums over the positives with at most this score: from the first image of the same score to the end.
            inverse = np.cumsum((hit / above)[::-1])[::-1][first]
            weighted = np.cumsum((hit * precision / above)[::-1])[::-1][first]
            precisions.influence[c, order] = (hit * (precision - value) + hit * inverse - weighted) / m
        if not n:
            continue
        positives = (hits[last] + hits[first] - hit[first]) / 2  # with a higher score, and half of those with the same
        images = (last + first + 1.0) / 2
        share = np.where(hit > 0, 1 - (images - positives) / n, positives / m)  # of the other kind, on the right side
        area = areas.value[c] = share[hit > 0].mean()
        if with_influence:
            areas.influence[c, order] = np.where(hit > 0, (share - area) / m, (share - area) / n)
    return Ranked(precisions, areas)
