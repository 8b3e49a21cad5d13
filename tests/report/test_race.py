"""What a race sees of a sweep is what its comparison tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raysweep.report import comparison, race
from raysweep.report.findings.variance import two_sided
from raysweep.store.records_sweep import RaceRecord, SweepRecord
from tests.report.making import sweep_of

CLASSES, BASE = ("a", "b", "c"), (0.4, 0.7, 0.8)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    branches = {"a5": ({"a": 5.0}, (0.6, 0.7, 0.8)), "b2": ({"b": 2.0}, BASE)}
    return sweep_of(tmp_path_factory.mktemp("race") / "e", CLASSES, BASE, branches, (0, 1, 2))


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy", "balanced_accuracy"])
def test_a_look_has_the_differences_and_p_values_of_the_comparison(sweep, metric):
    seen = race.look(sweep, metric)
    found = comparison.of_sweep(sweep)
    effects = [found.of(name, "(all)", metric) for name in seen.names]
    assert seen.looked.difference == pytest.approx([e.difference for e in effects])
    p = two_sided(np.abs(seen.looked.ratio), seen.looked.degrees)
    assert p == pytest.approx([e.p for e in effects])
    assert [len(v) for v in seen.values.values()] == [3, 3, 3]
    assert np.diag(seen.noise) == pytest.approx(seen.looked.error**2)
    assert 0 < seen.noise[0, 1] < seen.noise[0, 0]  # the control that they share


def test_nothing_is_seen_without_a_control(sweep, monkeypatch):
    from raysweep.report import evaluated

    of = evaluated.of_sweep(sweep)
    monkeypatch.setattr(evaluated, "of_sweep", lambda _: replace(of, notes=[evaluated.NO_CONTROL]))
    assert race.look(sweep, "macro_f1") is None


def test_the_record_of_a_race_is_kept(sweep):
    before = sweep.record()
    assert "race" not in before.to_json()
    told = RaceRecord(2, ("a5",), {"a5": "better"}, True)
    again = SweepRecord.from_json(replace(before, race=told).to_json())
    assert (again.race.looks, again.race.shown, again.race.over) == (2, ("a5",), True)
    with pytest.raises(ValueError, match="race"):
        SweepRecord.from_json({**before.to_json(), "race": [1]})
