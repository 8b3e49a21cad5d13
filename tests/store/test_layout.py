"""Names on disk: made and read back by the same rules, and sorted by time."""

from __future__ import annotations

import itertools
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.store import layout
from raysweep.store.layout import Position

WHEN = datetime(2025, 1, 8, 14, 30, 22)
positions = st.builds(Position, st.integers(0, 10**6), st.none() | st.integers(0, 10**7))


def test_the_documented_names():
    assert layout.checkpoint_name(Position(5, None)) == "checkpoint_epoch_5.pt"
    assert layout.checkpoint_name(Position(3, 200)) == "checkpoint_epoch_3_batch_200.pt"
    assert layout.model_name(1) == "epoch_1_model.pt"
    assert layout.make_id("my_experiment", WHEN) == "my_experiment_20250108_143022"
    assert layout.make_id("my_experiment", WHEN, 3) == "my_experiment_20250108_143022_3"


@given(positions)
def test_a_checkpoints_name_tells_its_position(position):
    assert layout.parse_checkpoint_name(layout.checkpoint_name(position)) == position


@pytest.mark.parametrize(
    "name",
    [
        "best_checkpoint.pt",
        "epoch_1_model.pt",
        "checkpoint_epoch_.pt",
        "checkpoint_epoch_1.pt.tmp",
        ".tmp-1234-checkpoint_epoch_1.pt",
        "../checkpoint_epoch_1.pt",
        "x/checkpoint_epoch_1.pt",
        "checkpoint_epoch_1.pt\n",
        "checkpoint_epoch_-1.pt",
        "checkpoint_epoch_1_batch_.pt",
        "checkpoint_epoch_1xpt",
        "",
    ],
)
def test_other_names_are_no_checkpoints(name):
    assert layout.parse_checkpoint_name(name) is None


@given(st.lists(positions, min_size=2, max_size=8))
def test_positions_sort_by_time(some):
    ordered = sorted(some, key=lambda p: p.order)
    for a, b in itertools.pairwise(ordered):
        if a.epoch == b.epoch:  # an epoch's batches come before its end
            assert b.batch is None or (a.batch is not None and a.batch <= b.batch)
        else:
            assert a.epoch < b.epoch


@given(
    st.text(min_size=1, max_size=30).filter(lambda s: "\n" not in s),
    st.datetimes(datetime(1970, 1, 1), datetime(2999, 1, 1)),
    st.integers(1, 200),
)
def test_an_id_is_split_into_what_it_was_made_of(name, when, attempt):
    when = when.replace(microsecond=0)
    found, time = layout.split_id(layout.make_id(name, when, attempt))
    assert (found, datetime.strptime(time, layout.TIME_FORMAT)) == (name, when)


@pytest.mark.parametrize("text", ["", "plain", "x_2025_143022", "20250108_143022", "_20250108_143022"])
def test_an_id_without_a_time_is_all_name(text):
    assert layout.split_id(text) == (text, None)
