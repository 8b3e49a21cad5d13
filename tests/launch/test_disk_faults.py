"""The disk fails at any call of a run, once or for good. docs/reliability.md has the counts of a longer campaign."""

from __future__ import annotations

import os
import random

import pytest

from raysweep.errors import StoreError
from tests.launch.faulty_disk import MODES

ROUNDS = int(os.environ.get("RAYSWEEP_DISK_ROUNDS", "1"))  # 5 try each call in every way
SAMPLE = 6


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory):
    from tests.launch import disk_faults

    disk_faults.load()
    return disk_faults.Trials(tmp_path_factory.mktemp("faults"))


def test_a_sample_of_calls_that_fail(trials):
    """One call of each part of a run, each part in another way."""
    modes = list(MODES)
    random.shuffle(modes)
    part = (len(trials.calls) - 4) / SAMPLE  # the last ones may be a few less
    for i in range(SAMPLE):
        at, mode = random.randint(round(i * part) + 1, round((i + 1) * part)), modes[i % len(modes)]
        trial = trials.one(at, mode)
        assert trial is not None
        assert trial.wrong == [], trial


def test_pictures_that_cannot_be_drawn_are_told(tmp_path, monkeypatch):
    from raysweep.events import Note
    from raysweep.launch import runner
    from raysweep.report import figures
    from raysweep.store import lineage
    from tests.store.making import make_experiment

    def full(experiment: object) -> None:
        raise StoreError("the picture could not be written. Free space.")

    experiment = make_experiment(tmp_path / "base_20250108_143022", [(1, None)])
    monkeypatch.setattr(figures, "write_all", full)
    told: list[object] = []
    runner.derive(experiment, told.append)
    text = "The pictures could not be drawn: the picture could not be written. Free space"
    assert told == [Note(f"{text}. To draw them again: raysweep continue {experiment.id} --root {tmp_path}")]
    assert lineage.read(experiment.folder)[-1].fields["text"] == f"{text}."


@pytest.mark.slow
@pytest.mark.timeout(1800 * ROUNDS)
def test_every_call_that_fails(trials):
    done = list(trials.every(ROUNDS))
    assert [t for t in done if t.wrong] == []
    assert len(done) > ROUNDS * len(trials.calls) * 0.9
    assert {t.code for t in done} == {0, 1, 2}
