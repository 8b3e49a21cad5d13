"""The disk fails at any call of a run, once or for good. docs/reliability.md has the counts of a longer campaign."""

from __future__ import annotations

import json
import os
import random

import pytest

from raysweep.errors import StoreError
from tests import forks
from tests.launch import disk_faults

ROUNDS = int(os.environ.get("RAYSWEEP_DISK_ROUNDS", "0"))  # 5 try each call in every way; 0: every third call
SAMPLE = 4


def test_a_sample_of_calls_that_fail(tmp_path):
    done = [json.loads(line) for line in forks.lines_of(disk_faults.sample, tmp_path, SAMPLE)]
    assert [t for t in done if t["wrong"]] == []
    assert len(done) == SAMPLE


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
@pytest.mark.long
@pytest.mark.timeout(1800 * max(1, ROUNDS))
def test_every_call_that_fails(tmp_path):
    some = [] if ROUNDS else ["--step", "9", "--from", str(random.randint(1, 9))]
    first, *rest = forks.lines_of(disk_faults.main, [str(tmp_path), "--rounds", str(max(1, ROUNDS)), *some])
    done = [json.loads(line) for line in rest]
    assert [t for t in done if t["wrong"]] == []
    assert len(done) > (ROUNDS or 1 / 9) * json.loads(first)["calls"] * 0.9
    assert {t["code"] for t in done} == {0, 1, 2}
