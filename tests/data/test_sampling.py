"""The order of samples: exact counts, full coverage, the same for every world size, and never another one by accident."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.data import sampling
from raysweep.errors import WeightsError
from raysweep.weights import SamplingWeights

NAMES = "abcde"


@st.composite
def cases(draw, most_draws: int = 120):
    """(labels, members, classes, weights, draws): any small pool that has something to draw."""
    k = draw(st.integers(2, 5))
    labels = np.array(draw(st.lists(st.integers(0, k - 1), min_size=1, max_size=40)), dtype=np.int64)
    members = np.array(sorted(draw(st.sets(st.integers(0, len(labels) - 1), min_size=1))), dtype=np.int64)
    weight = st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-3, 1e3))
    weights = dict(zip(NAMES, draw(st.lists(weight, min_size=k, max_size=k)), strict=False))
    if not any(weights[NAMES[c]] for c in labels[members]):
        weights[NAMES[labels[members[0]]]] = 1.0
    classes = tuple(NAMES[:k])
    return labels, members, classes, SamplingWeights.complete(weights, classes), draw(st.integers(1, most_draws))


def counts_of(labels, classes) -> dict[str, int]:
    return {name: int((labels == c).sum()) for c, name in enumerate(classes)}


def order_of(case, seed=0, epoch=1, strategy="quota"):
    return sampling.epoch_order(*case, seed=seed, epoch=epoch, strategy=strategy)


def big_case(draws=2000):
    """A pool as imbalanced as FER-2013's ends: 300, 90 and 10 images, mixed up."""
    labels = np.repeat(np.arange(3), (300, 90, 10))[sampling.permutation(400, (7,))]
    return labels, np.arange(400), ("a", "b", "c"), SamplingWeights(("a", "b", "c"), (1.0, 2.0, 5.0)), draws


# Quotas


@given(cases(), st.integers(0, 2**40), st.integers(0, 1000))
@settings(deadline=None)
def test_each_class_gets_exactly_its_quota_from_the_pool(case, seed, epoch):
    labels, members, classes, weights, draws = case
    order = order_of(case, seed, epoch)
    assert order.dtype == np.int64
    assert len(order) == draws
    assert set(order.tolist()) <= set(members.tolist())
    assert counts_of(labels[order], classes) == weights.quotas(counts_of(labels[members], classes), draws)


@given(cases(), st.integers(0, 100))
@settings(deadline=None)
def test_an_image_repeats_only_after_every_image_of_its_class_was_shown(case, epoch):
    labels, members, classes, _, _ = case
    order = order_of(case, 3, epoch)
    for c in range(len(classes)):
        images = members[labels[members] == c].tolist()
        shown = order[labels[order] == c].tolist()  # in the order in which they are shown
        for start in range(0, len(shown), max(1, len(images))):
            one_round = shown[start : start + len(images)]
            assert len(set(one_round)) == len(one_round), "shown twice within a round"


def test_the_rounds_of_a_class_have_different_orders():
    labels, _, _, _, _ = case = big_case(8000)
    shown = order_of(case)
    of_c = shown[labels[shown] == 2]
    assert len({tuple(of_c[i : i + 10]) for i in range(0, 400, 10)}) == 40


def test_classes_are_mixed_over_the_whole_epoch():
    labels, _, classes, _, draws = case = big_case()
    order = order_of(case)
    whole = counts_of(labels[order], classes)
    for quarter in np.split(labels[order], 4):
        for name, n in counts_of(quarter, classes).items():
            expected = whole[name] / 4
            assert abs(n - expected) < 5 * math.sqrt(expected)
    assert draws == sum(whole.values())


def test_a_pool_with_nothing_to_draw_is_refused():
    labels = np.array([0, 0, 1])
    weights = SamplingWeights(("a", "b"), (0.0, 1.0))
    with pytest.raises(WeightsError, match="no image could be drawn"):
        sampling.epoch_order(labels, np.array([0, 1]), ("a", "b"), weights, 5, seed=0, epoch=1)


# Independent draws


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_independent_draws_come_close_to_the_shares(seed):
    labels, members, classes, weights, draws = case = big_case(20_000)
    order = order_of(case, seed, strategy="multinomial")
    expected = weights.shares(counts_of(labels[members], classes))
    for name, n in counts_of(labels[order], classes).items():
        spread = math.sqrt(draws * expected[name] * (1 - expected[name]))
        assert abs(n - draws * expected[name]) < 4 * spread
    # And each image of a class alike: 10 images of c, each a tenth of its draws.
    times = np.bincount(order, minlength=400)[labels == 2]
    assert abs(times - times.mean()).max() < 4.5 * math.sqrt(times.mean())


def test_independent_draws_are_no_quotas():
    case = big_case(400)
    found = {tuple(counts_of(case[0][order_of(case, 0, e, "multinomial")], "abc").values()) for e in range(5)}
    assert len(found) > 1  # the counts vary
    order = order_of(case, strategy="multinomial")
    assert len(set(order.tolist())) < 300  # and images repeat long before all were shown


@given(cases(), st.integers(0, 2**40), st.integers(0, 1000))
@settings(deadline=None)
def test_independent_draws_stay_in_the_pool_and_never_show_a_class_of_weight_zero(case, seed, epoch):
    labels, members, _, weights, draws = case
    order = order_of(case, seed, epoch, "multinomial")
    assert len(order) == draws
    assert set(order.tolist()) <= set(members.tolist())
    assert all(weights.values[c] > 0 for c in labels[order])


@pytest.mark.parametrize("bits", [0, 2**64 - 1])
def test_at_the_very_ends_of_the_random_numbers_no_class_of_weight_zero_is_drawn(monkeypatch, bits):
    monkeypatch.setattr(sampling, "raw_stream", lambda entropy, n: np.full(n, bits, dtype=np.uint64))
    only_b = SamplingWeights(("a", "b", "c"), (0.0, 1.0, 0.0))
    case = np.array([0, 1, 1, 2]), np.arange(4), ("a", "b", "c"), only_b, 6
    assert set(order_of(case, strategy="multinomial").tolist()) == {1 if bits == 0 else 2}


# One order for every world size


@given(cases(), st.integers(1, 40), st.sampled_from([1, 2, 4]))
@settings(deadline=None)
def test_the_ranks_together_compute_the_global_order(case, batch_size, world_size):
    order, draws = order_of(case), case[-1]
    seen = []
    for batch in range(sampling.batches(draws, batch_size)):
        start, stop = sampling.batch_bounds(batch, draws, batch_size)
        whole = order[start:stop].tolist()
        parts = [order[slice(*sampling.rank_slice(start, stop, r, world_size))].tolist() for r in range(world_size)]
        if len(whole) < world_size:
            assert parts == [whole] * world_size  # too few for all: everybody computes all of them
        else:
            assert [i for part in parts for i in part] == whole
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert all(parts), "a rank without an image would hang the others"
        seen += whole
    assert seen == order.tolist()


@given(st.integers(1, 10_000), st.integers(1, 300))
def test_batches_have_the_global_size_and_no_image_is_left_alone(draws, batch_size):
    sizes = [
        b - a
        for a, b in (sampling.batch_bounds(i, draws, batch_size) for i in range(sampling.batches(draws, batch_size)))
    ]
    assert sum(sizes) == draws
    assert set(sizes[:-1]) <= {batch_size}
    if draws > 1 and batch_size > 1:
        assert 2 <= sizes[-1] <= batch_size + 1  # batch normalisation has no variance of one value


# A pure function of its arguments


def test_the_order_is_drawn_the_same_again_and_differs_by_seed_epoch_and_strategy():
    case = big_case()
    np.random.seed(0)
    first = order_of(case)
    np.random.seed(1)  # no global generator has a say
    np.random.random(10)
    assert np.array_equal(order_of(case), first)
    others = [
        order_of(case, seed=1),
        order_of(case, epoch=2),
        order_of(case, strategy="multinomial"),
        order_of(case, 1, 0),
    ]
    hashes = [sampling.order_hash(o) for o in (first, *others)]
    assert len(set(hashes)) == len(hashes)


def test_the_order_never_changes_between_versions():
    # A checkpoint continues in the order it began. If this fails, old experiments no longer continue exactly.
    assert sampling.raw_stream((1, 2, 3), 3).tolist() == GOLDEN_STREAM
    assert sampling.order_hash(order_of(big_case())) == GOLDEN_QUOTA
    assert sampling.order_hash(order_of(big_case(), strategy="multinomial")) == GOLDEN_MULTINOMIAL


GOLDEN_STREAM = [12368030237656201616, 2047858591075935483, 9435677134316251571]
GOLDEN_QUOTA = "c94c9defdfebd2f3a13a90450010f787efcb742b2e506278be6e5cf96b1cedc3"
GOLDEN_MULTINOMIAL = "a589967802aa4e464c5d63c5e0aa403d3b26fe0d4bbf2fb6bfdfbd094a9103c8"


@given(st.integers(0, 300), st.lists(st.integers(0, 2**64), min_size=1, max_size=4))
def test_permutations_hold_each_index_once(n, entropy):
    assert sorted(sampling.permutation(n, entropy).tolist()) == list(range(n))


def test_the_uses_of_randomness_do_not_share_a_stream():
    uses = [sampling._SHUFFLE, sampling._WALK, sampling._MULTINOMIAL, sampling._POOL, sampling.AUGMENT]
    streams = {tuple(sampling.raw_stream((0, use, 1), 4).tolist()) for use in uses}
    assert len(streams) == len(uses)


def test_order_hash_tells_sequences_apart_and_not_how_they_are_stored():
    order = np.arange(10, dtype=np.int64)
    assert sampling.order_hash(order) == sampling.order_hash(order.astype(np.int32))
    assert sampling.order_hash(order) == sampling.order_hash(np.repeat(order, 2)[::2])
    assert sampling.order_hash(order) != sampling.order_hash(order[::-1])


# The pool


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 20), st.integers(0, 10))
def test_the_pool_holds_so_many_of_each_class(labels, most, seed):
    labels = np.array(labels, dtype=np.int64)
    chosen = sampling.pool(labels, NAMES[:4], most, seed)
    assert chosen.dtype == np.int64
    assert np.all(np.diff(chosen) > 0)  # ascending, each once
    for c in range(4):
        assert (labels[chosen] == c).sum() == min(most, (labels == c).sum())
    assert np.array_equal(chosen, sampling.pool(labels, NAMES[:4], most, seed))


def test_the_choice_is_seeded_and_not_the_first_files_listed():
    labels = np.repeat([0, 1], 50)
    chosen = [sampling.pool(labels, "ab", 10, seed).tolist() for seed in range(6)]
    assert len({tuple(c) for c in chosen}) == 6
    assert [*range(10), *range(50, 60)] not in chosen
    used = {i for seed in range(60) for i in sampling.pool(labels, "ab", 10, seed).tolist()}
    assert len(used) == 100  # every image has its chance
    assert [i for i in chosen[0] if i < 50] != [i - 50 for i in chosen[0] if i >= 50]  # classes are drawn apart


def test_without_a_limit_the_pool_is_everything():
    assert sampling.pool(np.array([1, 0, 1]), "ab", None, 0).tolist() == [0, 1, 2]
