"""Offsets reach the counts that are wanted, whatever the network."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.report.findings import offsets
from tests.report.findings.simulated import Images


@given(seed=st.integers(0, 10**6), scale=st.floats(0.3, 3), shift=st.floats(0, 4))
@settings(max_examples=25, deadline=None)
def test_every_class_is_predicted_as_often_as_wanted(seed, scale, shift):
    images = Images(700, seed)
    scores = images.network(temperature=scale, moved=shift * np.arange(7) / 7)
    wanted = np.random.default_rng(seed).multinomial(len(scores), np.full(7, 1 / 7))
    moved = offsets.to_counts(scores, wanted)
    assert not moved.missed.any()
    assert np.all(np.abs(np.bincount(moved.predicted, minlength=7) - wanted) <= np.maximum(1.7, 0.02 * wanted))
    assert (np.argmax(scores + moved.offsets, axis=1) == moved.predicted).mean() > 0.99  # rounded to float32


def test_a_moved_network_comes_back():
    images = Images(700, 3)
    scores = images.network()
    counts = np.bincount(images.labels, minlength=7)
    shifted = scores + np.array([0, 3, -1, 0, 2, 0, 0], dtype=np.float32)
    one, other = offsets.to_counts(scores, counts), offsets.to_counts(shifted, counts)
    assert (one.predicted == other.predicted).mean() > 0.995


def test_a_class_that_is_never_scored_is_missed():
    scores = Images(700, 4).network()
    scores[:, 2] = -np.inf
    moved = offsets.to_counts(scores, np.full(7, len(scores) / 7))
    assert moved.missed[2]


def test_a_class_that_is_wanted_never_is_predicted_never():
    scores = Images(700, 5).network()
    wanted = np.array([0, *np.full(6, len(scores) / 6)])
    assert (offsets.to_counts(scores, wanted).predicted != 0).all()


def test_losses_after_offsets_are_normalised():
    scores = Images(70, 6).network()
    labels = np.zeros(len(scores), dtype=np.int64)
    moved = np.array([1.0, 0, 0, 0, 0, 0, 0])
    probability = np.exp(scores.astype(np.float64) + moved)
    wanted = -np.log(probability[:, 0] / probability.sum(1))
    assert offsets.losses(scores, moved, labels) == pytest.approx(wanted)
