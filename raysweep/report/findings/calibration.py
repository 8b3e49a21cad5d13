"""Calibration: whether a network is right as often as it says. Each number with the influence of every image on it.

The confidence of a prediction is the probability of the class that is predicted. Predictions are put into bins of equal width
by their confidence; the expected calibration error is the mean distance between confidence and accuracy over the images
(Naeini, Cooper & Hauskrecht 2015, doi 10.1609/aaai.v29i1.9602; Guo et al. 2017, arXiv 1706.04599).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from raysweep.report.findings import measures
from raysweep.report.findings.measures import Measured

Array = np.ndarray
BINS = 15  # as in Guo et al.
_Z = 1.959963984540054  # standard errors in half of a 95 % interval


@dataclass(frozen=True)
class Bin:
    """The predictions whose confidence is above ``low`` and at most ``high``; ``confidence`` and ``accuracy`` are means over them,
    ``accuracy_low`` and ``accuracy_high`` the ends of the accuracy's 95 % interval (Wilson 1927). Networks that predict the same
    images count as one for it."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float


@dataclass(frozen=True)
class Calibration:
    """Each :class:`Measured` has one target.

    ``error`` is the expected calibration error. ``by_luck`` is the error that a perfectly calibrated network would show on
    these images: the error is a mean of distances, which are never negative, so it is above 0 for every network.
    """

    error: Measured
    brier: Measured
    log_loss: Measured
    by_luck: float


def calibration(log_probabilities: Array, labels: Array, prior: Array | None = None) -> Calibration:
    """Calibration of one network from its log probabilities, float64 (n, K), and the true classes, int (n,).

    The Brier score is the mean over the images of Σ_c (p_c − y_c)², from 0 to 2, as Brier (1950) defines it.

    Args:
        prior: float64 (K,): the shares of the classes that all three are weighted to; default: those of the images.
    """
    n = len(labels)
    probabilities = np.exp(log_probabilities)
    guess = probabilities.argmax(1)
    confidence = probabilities[np.arange(n), guess]
    hit = (guess == labels).astype(np.float64)
    place = _places(confidence)
    weights = np.full(n, 1 / n) if prior is None else measures.image_weights(labels, prior)
    distances = np.bincount(place, weights * (hit - confidence), BINS)
    # The sign of a bin's distance does not change with the weight of one image, so an image adds its own distance to the mean.
    of_error = np.sign(distances)[place] * (hit - confidence)
    of_brier = (probabilities**2).sum(1) - 2 * probabilities[np.arange(n), labels] + 1
    spread = np.sqrt(np.bincount(place, weights**2 * confidence * (1 - confidence), BINS))
    by_luck = float(spread.sum()) * np.sqrt(2 / np.pi)  # the mean size of a normal variable is √(2/π) deviations
    return Calibration(
        measures.mean_of(of_error, labels, prior),
        measures.mean_of(of_brier, labels, prior),
        measures.mean_of(-log_probabilities[np.arange(n), labels], labels, prior),
        by_luck,
    )


def bins(log_probabilities: list[Array], labels: Array) -> tuple[Bin, ...]:
    """The bins that have images, of all predictions of several networks together. Each array is (n, K)."""
    parts = []
    for found in log_probabilities:
        guess = found.argmax(1)
        parts.append(np.stack([np.exp(found[np.arange(len(labels)), guess]), guess == labels]))
    confidence, hit = np.concatenate(parts, axis=1)
    place = _places(confidence)
    images = np.bincount(place, minlength=BINS)
    sums = [np.bincount(place, values, BINS) for values in (confidence, hit)]
    found_bins = []
    for b in np.flatnonzero(images).tolist():
        sure, right = float(sums[0][b] / images[b]), float(sums[1][b] / images[b])
        ends = _wilson(right, images[b] / len(log_probabilities))
        found_bins.append(Bin(b / BINS, (b + 1) / BINS, int(images[b]), sure, right, *ends))
    return tuple(found_bins)


def _wilson(share: float, n: float) -> tuple[float, float]:
    z2 = _Z**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return middle - half, middle + half


def _places(confidence: Array) -> Array:
    """The bin of each confidence, int (n,): above its lower end and at most its upper one."""
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    found: Array = np.searchsorted(inner, confidence)
    return found
