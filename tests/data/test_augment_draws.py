"""What is drawn for an image depends on (seed, epoch, position) alone, and has the distribution that torchvision's transforms have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.data import augment_draws
from raysweep.data.augment_draws import Kind, Place
from raysweep.data.sampling import AUGMENT, raw_stream

FORM = (0.08, 1.0), (3 / 4, 4 / 3)


def place(n, seed=1, epoch=1):
    return Place(seed, epoch, np.arange(n))


@given(st.lists(st.integers(0, 60), max_size=20), st.integers(0, 2**40), st.integers(1, 99), st.integers(1, 5))
def test_the_numbers_of_a_position_are_those_of_the_whole_epoch(positions, seed, epoch, columns):
    whole = raw_stream((seed, AUGMENT, epoch, int(Kind.CROP)), 61 * columns).reshape(61, columns)
    index = np.array(positions, dtype=np.int64)
    assert np.array_equal(augment_draws.raw(Place(seed, epoch, index), Kind.CROP, columns), whole[index])


def test_no_two_kinds_seeds_or_epochs_share_their_numbers():
    kinds = [augment_draws.raw(place(20), kind, 2) for kind in Kind]
    others = [augment_draws.raw(place(20, **other), Kind.CROP, 2) for other in ({"seed": 2}, {"epoch": 2})]
    of_shifts = raw_stream((1, AUGMENT, 1), 40).reshape(20, 2)
    assert len({x.tobytes() for x in (*kinds, *others, of_shifts)}) == len(Kind) + 3
    assert all(kind > 0 for kind in Kind)  # 0 would be the stream of shifts


@given(st.integers(0, 30), st.integers(1, 30), st.sampled_from(["crop", "erase"]))
def test_boxes_do_not_depend_on_how_an_epoch_is_parted(a, n, what):
    def boxes(positions):
        if what == "crop":
            return augment_draws.crop_boxes(Place(5, 3, positions), 48, 40, *FORM, p=0.8)
        return augment_draws.erased_boxes(Place(5, 3, positions), 48, 40, (0.02, 0.33), (0.3, 3.3), 0.8)

    whole = boxes(np.arange(60))
    assert np.array_equal(boxes(np.arange(a, a + n)), whole[a : a + n])
    assert np.array_equal(boxes(np.array([a, 0])), whole[[a, 0]])


def test_boxes_of_images_of_several_sizes_lie_within_them():
    rng = np.random.default_rng(0)
    height, width = rng.integers(1, 400, 3000), rng.integers(1, 400, 3000)
    top, left, high, wide = augment_draws.crop_boxes(place(3000), height, width, *FORM).T
    assert ((top >= 0) & (left >= 0) & (high > 0) & (wide > 0)).all()
    assert ((top + high <= height) & (left + wide <= width)).all()


@pytest.mark.parametrize(("height", "width"), [(48, 48), (64, 20), (20, 64)])
def test_crops_have_the_distribution_of_torchvision(height, width):
    """Also where few boxes fit, and the middle is taken. scipy compares the two samples; the seed is fixed."""
    import torch
    from scipy import stats
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, list(FORM[0]), list(FORM[1])) for _ in range(1500)])
    mine = augment_draws.crop_boxes(place(6000), height, width, *FORM)
    for column in range(4):
        assert stats.ks_2samp(theirs[:, column], mine[:, column]).pvalue > 1e-3
    assert stats.ks_2samp(theirs[:, 2] * theirs[:, 3], mine[:, 2] * mine[:, 3]).pvalue > 1e-3


def test_erased_parts_have_the_distribution_of_torchvision():
    import torch
    from scipy import stats
    from torchvision.transforms import RandomErasing

    torch.manual_seed(0)
    image = torch.zeros(1, 40, 40)
    theirs = np.array([RandomErasing.get_params(image, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(1500)])
    mine = augment_draws.erased_boxes(place(6000), 40, 40, (0.02, 0.33), (0.3, 3.3), 1.0)
    for column in range(4):
        assert stats.ks_2samp(theirs[:, column], mine[:, column]).pvalue > 1e-3


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_so_large_a_part_of_the_images_is_changed(p):
    n = 4000
    crops = augment_draws.crop_boxes(place(n), 40, 40, (0.1, 0.5), FORM[1], p)
    erased = augment_draws.erased_boxes(place(n), 40, 40, (0.02, 0.33), (0.3, 3.3), p)
    for part in ((crops[:, 2] * crops[:, 3] < 1600).mean(), (erased[:, 2] > 0).mean()):
        assert abs(part - p) <= 3 * np.sqrt(p * (1 - p) / n) + 1e-9


def test_the_draws_stay_what_they_are_so_that_older_trainings_go_on_exactly():
    assert [(kind.name, int(kind)) for kind in Kind] == [
        *[
            ("CROP", 1),
            ("AFFINE", 2),
            ("RAND", 3),
            ("TRIVIAL", 4),
            ("JITTER", 5),
            ("ERASE", 6),
            ("NOISE", 7),
            ("MIX", 8),
        ]
    ]
    some = Place(7, 3, np.array([0, 1, 1000]))
    crops = augment_draws.crop_boxes(some, 224, 200, *FORM)
    assert crops.tolist() == [[11, 4, 198, 195], [44, 0, 177, 145], [14, 8, 123, 102]]
    erased = augment_draws.erased_boxes(some, 48, 48, (0.02, 0.33), (0.3, 3.3), 1.0)
    assert erased.tolist() == [[17, 12, 12, 12], [11, 13, 15, 16], [8, 31, 30, 10]]
