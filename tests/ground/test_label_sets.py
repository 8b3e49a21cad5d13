"""Counts of sets of labels are read as they were written, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.label_sets import LabelCounts

SETS = st.dictionaries(st.sets(st.sampled_from("abcd")).map(lambda s: tuple(sorted(s))), st.integers(0, 10**6))


@given(SETS)
def test_counts_are_read_as_they_were_written(sets):
    counts = LabelCounts.of("abcd", sets)
    text = counts.to_json()
    lists = [[["abcd".index(c) for c in labels], n] for labels, n in sets.items()]
    for told in (text, lists):
        found = LabelCounts.from_json("abcd", told)
        assert (found, found.sets) == (counts, counts.sets)


@pytest.mark.parametrize(
    "value",
    [
        *([[[-1], 3]], [[[0], -3]], [[[0, 0], 3]], [[[0], 3], [[0], 4]], [[[9], 3]], [[[True], 3]], [[[0], 1.5]], [[0, 3]], [[[0]]]),
        *("-1:3", "0:-3", "0 0:3", "0:3;0:4", "0 1:3;1 0:4", "9:3", "0", "0:", "a:3", "0:1:2", "0.0:3"),
        *(3, [3], {"a": 3}),
    ],
)  # fmt: skip
def test_counts_that_cannot_be_are_refused(value):
    with pytest.raises((TypeError, ValueError, IndexError)):
        LabelCounts.from_json("abcd", value)


def test_many_sets_are_checked_within_moments(tmp_path):
    """As one value: lists of them took a minute, because the check of a checkpoint follows every number."""
    import io
    import itertools
    import pickle
    import pickletools

    names = [f"l{i}" for i in range(16)]
    sets = {some: 1 for some in itertools.islice(itertools.combinations(names, 8), 5_000)}
    pickled = pickle.dumps(LabelCounts.of(names, sets).to_json(), protocol=2)
    assert len(list(pickletools.genops(io.BytesIO(pickled)))) < 10
