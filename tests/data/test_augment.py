"""Shift and mirror: draws that depend on nothing but (seed, epoch, position), and a fast gather equal to a slow plain one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.data import augment


def slow_gather(pixels, index, draws, fill):
    """Pixel by pixel, straight from the definition: mirror the image, then move it by (dy, dx)."""
    _, height, width, _ = pixels.shape
    out = np.empty((len(index), *pixels.shape[1:]), dtype=np.uint8)
    for b, i in enumerate(index):
        dy, dx, mirror = (0, 0, 0) if draws is None else draws[b]
        for y in range(height):
            for x in range(width):
                from_y, from_x = y - dy, x - dx
                if 0 <= from_y < height and 0 <= from_x < width:
                    out[b, y, x] = pixels[i, from_y, width - 1 - from_x if mirror else from_x]
                else:
                    out[b, y, x] = fill
    return out


@st.composite
def batches(draw):
    """(pixels, index, draws, fill): images up to 7 × 6, shifts smaller than the image, as the configuration allows."""
    height, width, channels = draw(st.integers(2, 7)), draw(st.integers(2, 6)), draw(st.sampled_from([1, 3]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    pixels = rng.integers(0, 256, (4, height, width, channels), dtype=np.uint8)
    index = np.array(draw(st.lists(st.integers(0, 3), max_size=5)), dtype=np.int64)
    padding = draw(st.integers(0, min(height, width) - 1))
    draws = augment.epoch_draws(len(index), padding, draw(st.booleans()), seed=draw(st.integers(0, 99)), epoch=1)
    return pixels, index, draws, rng.integers(0, 256, channels, dtype=np.uint8)


# Draws


@given(
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(0, 128),
    st.booleans(),
    st.integers(0, 2**40),
    st.integers(0, 99),
)
@settings(deadline=None)
def test_the_draw_of_a_position_does_not_depend_on_the_number_of_draws(n, m, padding, flip, seed, epoch):
    one = augment.epoch_draws(n, padding, flip, seed=seed, epoch=epoch)
    other = augment.epoch_draws(m, padding, flip, seed=seed, epoch=epoch)
    assert one.shape == (n, 3)
    assert one.dtype == np.int64
    assert np.array_equal(one[:m], other[:n])


@pytest.mark.parametrize("padding", [0, 1, 4, 128])
def test_every_shift_up_to_the_padding_comes_about_equally_often(padding):
    n = 400 * (2 * padding + 1)
    draws = augment.epoch_draws(n, padding, True, seed=5, epoch=2)
    for column in (0, 1):
        times = np.bincount(draws[:, column] + padding, minlength=2 * padding + 1)
        assert len(times) == 2 * padding + 1
        assert abs(times - 400).max() < 5 * 20
    assert abs(draws[:, 2].mean() - 0.5) < 2.5 / np.sqrt(n)
    assert set(draws[:, 2].tolist()) == {0, 1}


def test_the_three_draws_of_a_position_are_independent():
    draws = augment.epoch_draws(20_000, 4, True, seed=5, epoch=2)
    correlation = np.corrcoef(draws.T)
    assert np.abs(correlation - np.eye(3)).max() < 0.03


def test_without_flip_nothing_is_mirrored_and_the_shifts_stay():
    with_flip = augment.epoch_draws(500, 3, True, seed=1, epoch=1)
    without = augment.epoch_draws(500, 3, False, seed=1, epoch=1)
    assert not without[:, 2].any()
    assert np.array_equal(with_flip[:, :2], without[:, :2])


def test_draws_come_from_seed_and_epoch_alone():
    first = augment.epoch_draws(50, 4, True, seed=1, epoch=1)
    np.random.seed(3)  # no global generator has a say
    assert np.array_equal(first, augment.epoch_draws(50, 4, True, seed=1, epoch=1))
    assert not np.array_equal(first, augment.epoch_draws(50, 4, True, seed=2, epoch=1))
    assert not np.array_equal(first, augment.epoch_draws(50, 4, True, seed=1, epoch=2))


# Gathering


@given(batches())
@settings(deadline=None)
def test_gather_equals_the_slow_plain_one(batch):
    assert np.array_equal(augment.gather(*batch), slow_gather(*batch))


def test_a_shift_by_hand():
    pixels = np.arange(1, 10, dtype=np.uint8).reshape(1, 3, 3, 1)
    fill = np.array([99], dtype=np.uint8)

    def moved(dy, dx, mirror):
        return augment.gather(pixels, np.array([0]), np.array([[dy, dx, mirror]]), fill)[0, :, :, 0].tolist()

    assert moved(1, 0, 0) == [[99, 99, 99], [1, 2, 3], [4, 5, 6]]  # down
    assert moved(0, -1, 0) == [[2, 3, 99], [5, 6, 99], [8, 9, 99]]  # left
    assert moved(0, 0, 1) == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    assert moved(0, 1, 1) == [[99, 3, 2], [99, 6, 5], [99, 9, 8]]  # mirrored first, then moved
    assert moved(0, 0, 0) == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize("draws", [None, np.zeros((3, 3), dtype=np.int64), np.array([[1, 0, 1], [0, 0, 0], [0, 0, 0]])])
def test_the_result_is_a_copy_and_the_cache_stays(tmp_path, draws):
    whole = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), dtype=np.uint8)
    np.save(tmp_path / "x.npy", whole)
    pixels = np.load(tmp_path / "x.npy", mmap_mode="r")  # as training has it: read-only, from disk
    index = np.array([4, 0, 4])
    out = augment.gather(pixels, index, draws, np.array([7], dtype=np.uint8))
    assert np.array_equal(out, slow_gather(whole, index, draws, 7))
    assert out.flags.writeable
    out[:] = 0
    assert np.array_equal(np.load(tmp_path / "x.npy"), whole)


def test_what_a_shift_uncovers_has_the_fill_of_each_channel():
    pixels = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    out = augment.gather(pixels, np.array([0]), np.array([[1, 1, 0]]), np.array([10, 20, 30], dtype=np.uint8))
    assert out[0, 0, 0].tolist() == [10, 20, 30]
    assert out[0, 1, 1].tolist() == [0, 0, 0]


def test_there_must_be_as_many_draws_as_images():
    pixels = np.zeros((2, 3, 3, 1), dtype=np.uint8)
    with pytest.raises(ValueError, match="shorter"):
        augment.gather(pixels, np.array([0, 1]), np.array([[1, 0, 0]]), np.array([0], dtype=np.uint8))
