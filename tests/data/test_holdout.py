"""Which training images are held out of training."""

from __future__ import annotations

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st


def digests_of(names):
    import numpy as np

    return np.array([hashlib.blake2b(str(n).encode(), digest_size=16).hexdigest().encode() for n in names], dtype="S32")


@given(st.lists(st.integers(1, 300), min_size=1, max_size=5), st.floats(0.01, 0.5), st.integers(0, 99))
@settings(max_examples=40)
def test_about_the_fraction_of_each_class_and_never_more_than_half(sizes, fraction, seed):
    import numpy as np

    from raysweep.data import holdout

    labels = np.repeat(np.arange(len(sizes)), sizes)
    digests = digests_of(range(len(labels)))
    held = holdout.members(digests, labels, fraction, seed)
    for label, n in enumerate(sizes):
        found = int(held[labels == label].sum())
        assert min(holdout.LEAST, n // 2) <= found <= n // 2
        assert abs(found - n * fraction) <= 5 * (n * fraction * (1 - fraction)) ** 0.5 + holdout.LEAST + 1
    order = np.random.default_rng(seed).permutation(len(labels))
    assert (holdout.members(digests[order], labels[order], fraction, seed) == held[order]).all()


def test_equal_pixels_are_on_one_side():
    import numpy as np

    from raysweep.data import holdout

    names = [i // 3 for i in range(300)] + [i for i in range(50)]
    labels = np.array([0] * 300 + [1] * 50)
    digests = digests_of(names)
    held = holdout.members(digests, labels, 0.1, 0)
    assert held.any()
    assert not set(digests[held]) & set(digests[~held])


def test_more_images_of_a_class_move_none_of_the_others():
    import numpy as np

    from raysweep.data import holdout

    first = holdout.members(digests_of(range(200)), np.zeros(200, dtype=int), 0.1, 0)
    more = holdout.members(digests_of(range(300)), np.zeros(300, dtype=int), 0.1, 0)
    assert (more[:200] == first).all()


def test_without_a_fraction_none():
    import numpy as np

    from raysweep.data import holdout

    assert not holdout.members(digests_of(range(20)), np.zeros(20, dtype=int), 0.0, 0).any()
