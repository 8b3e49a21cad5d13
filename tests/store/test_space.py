"""A disk that will be full is told of before it is."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from raysweep.store import checkpoint, space

Usage = namedtuple("Usage", "total used free")
MB = 10**6


@pytest.fixture
def disk(monkeypatch):
    def has(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**13, 0, free))

    return has


@pytest.mark.parametrize(
    ("epochs", "last", "every", "kept"),
    [(10, None, None, 10), (10, 3, None, 4), (10, 3, 5, 6), (2, 3, None, 2), (1, 1, 1, 1)],
)
def test_how_many_epochs_stay(epochs, last, every, kept):
    assert space.epochs_kept(epochs, last, every) == kept


def test_what_an_epoch_takes_is_what_it_takes(quick_run):
    """Within a tenth, or some kilobytes for what every checkpoint has beside its tensors."""
    run = quick_run()
    bare = checkpoint.read_checkpoint(run.folder / "checkpoint_epoch_1.pt")["model_state_dict"]
    parameters = sum(tensor.numel() for tensor in bare.values())
    files = [p for p in run.folder.iterdir() if p.name in ("checkpoint_epoch_1.pt", "epoch_1_model.pt")]
    written = sum(p.stat().st_size for p in files)
    assert abs(written - space.of_epoch(parameters, "adamw")) < 0.1 * written + 100_000


def test_what_will_not_fit_is_said_with_what_would(disk):
    here = Path("/somewhere/that/is/not/there")
    disk(2000 * MB)
    assert space.too_little(here, 10, 100 * MB, (None, None)) is None
    assert space.too_little(here, 30, 100 * MB, (3, None)) is None
    text = space.too_little(here, 30, 100 * MB, (None, None))
    assert text is not None
    assert "the checkpoints of 30 epochs take about 3.0 GB, and 2.0 GB are free in /somewhere" in text
    assert "checkpoint.keep={last: 1} needs about 200 MB" in text
    text = space.too_little(here, 10, 100 * MB, (1, None), times=12)
    assert text is not None
    assert "checkpoints of 12 branches of 10 epochs take about 2.4 GB" in text
    assert "keep=" not in text


def test_a_disk_that_fills_while_something_trains_is_said_once(disk):
    watch = space.Watch(Path("/"), 10, (None, None))
    said = []
    for epoch, free in enumerate((2000, 1900, 1800, 1400, 1000, 600), start=1):
        disk(free * MB)
        said.append(watch.after(epoch))
    assert [text is None for text in said] == [True, True, True, False, True, True]
    assert "full in about 2 epochs" in said[3]
    assert "the last epoch took 400 MB, and 6 epochs are to come" in said[3]


def test_with_a_rule_that_keeps_few_or_enough_space_nothing_is_said(disk):
    for keep in ((2, None), (None, None)):
        watch = space.Watch(Path("/"), 5, keep)
        for epoch, free in enumerate((900, 900, 1000, 990), start=1):
            disk(free * MB)
            assert watch.after(epoch) is None
