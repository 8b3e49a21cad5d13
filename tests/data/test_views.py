"""Fixed views: which one is shown when, and where their features lie."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raysweep.data import augment_draws
from raysweep.data.augment_draws import Kind
from raysweep.data.views import PLAIN, Rows, Views

ORDERS = hnp.arrays(np.int64, st.integers(0, 60), elements=st.integers(0, 9))


@given(order=ORDERS, count=st.integers(1, 5), epoch=st.integers(1, 9))
def test_the_views_of_an_image_take_turns_within_an_epoch_and_over_epochs(order, count, epoch):
    views = Views(count, seed=1)
    found, after = views.shown(epoch, order), views.shown(epoch + 1, order)
    of = defaultdict(list)
    for image, view in zip(order.tolist(), found.tolist(), strict=True):
        of[image].append(view)
    for shown in of.values():
        assert shown == [(epoch - 1 + j) % count for j in range(len(shown))]
    assert np.array_equal(after, (found + 1) % count)


@given(order=ORDERS, cut=st.integers(0, 60))
def test_a_part_of_an_order_shows_the_same_views(order, cut):
    views = Views(3, seed=1)
    assert np.array_equal(views.shown(2, order[:cut]), views.shown(2, order)[:cut])


@given(
    images=hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 40)),
    seed=st.integers(0, 5),
    columns=st.integers(1, 4),
    data=st.data(),
)
def test_what_is_drawn_depends_on_seed_image_and_view_alone(images, seed, columns, data):
    views = data.draw(hnp.arrays(np.int64, len(images), elements=st.integers(0, 3)))
    made = Views(4, seed)
    found = augment_draws.raw(made.place(images, views), Kind.CROP, columns)
    moves = made.raw(images, views, 41)
    for i in range(len(images)):
        one = slice(i, i + 1)
        assert np.array_equal(augment_draws.raw(made.place(images[one], views[one]), Kind.CROP, columns)[0], found[i])
        assert made.raw(images[one], views[one], 41)[0] == moves[i]


def test_no_two_views_images_or_seeds_draw_the_same():
    image, view = (a.ravel() for a in np.meshgrid(np.arange(50), np.arange(4)))
    drawn = [(Views(4, s).raw(image, view, 50), Views(4, s).place(image, view)) for s in (0, 1)]
    assert len({*np.concatenate([moves for moves, _ in drawn]).tolist()}) == 2 * 4 * 50
    kinds = np.concatenate([augment_draws.raw(place, kind, 1)[:, 0] for _, place in drawn for kind in Kind])
    assert len({*kinds.tolist()}) == 2 * 4 * 50 * len(Kind)


@given(held=st.sets(st.integers(0, 30)), members=st.sets(st.integers(0, 30), min_size=1), count=st.integers(0, 3))
def test_the_row_of_each_view_is_found(held, members, count):
    ascending = [np.array(sorted(some), dtype=np.int64) for some in (members, held - members)]
    rows = Rows(ascending[0], ascending[1], count or None)
    images, views = rows.images()
    assert len(images) == len(views) == len(rows)
    for row, (image, view) in enumerate(zip(images, views, strict=True)):
        which = None if view == PLAIN else np.array([view])
        assert rows.at(np.array([image]), which).tolist() == [row]
    shown = {(i, v) for i, v in zip(images.tolist(), views.tolist(), strict=True)}
    wanted = {(i, v) for i in members for v in range(count)} | {(i, PLAIN) for i in held - members}
    assert shown == (wanted if count else {(i, PLAIN) for i in held | members})
