"""Main effects of settings: planted ones are found, within their intervals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import ndtr

from raysweep.report import main_effects
from raysweep.report.comparison import Compared, Comparison
from raysweep.report.findings import findings
from raysweep.report.findings.arms import Cases
from tests.report.findings.simulated import arm
from tests.report.findings.test_findings import at_least, at_most, times

PLANTED = {"training.learning_rate": 0.04, "loss.kind": -0.03, "training.weight_decay": 0.0}
POINTS = [s for n in (1, 2, 3) for s in itertools.combinations(PLANTED, n)]  # of two levels each
CLASSES = ("a", "b", "c")


class Networks:
    """Networks whose accuracy on all images is a number that is asked for: image and network decide together which are right."""

    def __init__(self, seed: int, n: int = 600) -> None:
        self.rng = np.random.default_rng(seed)
        self.labels = self.rng.integers(0, len(CLASSES), n)
        self.hard = self.rng.standard_normal(n)  # what all networks see in an image

    def arm(self, name: str, accuracy: float, seeds: int):
        return arm(name, [self.network(accuracy + 0.01 * self.rng.standard_normal()) for _ in range(seeds)])

    def network(self, accuracy: float) -> np.ndarray:
        seen = (self.hard + self.rng.standard_normal(len(self.hard))) / np.sqrt(2)
        wrong = ndtr(seen) > accuracy
        predicted = (self.labels + wrong * self.rng.integers(1, len(CLASSES), len(wrong))) % len(CLASSES)
        return np.log(0.1 + 0.7 * np.eye(len(CLASSES))[predicted])


def sweep(seed: int, seeds: int = 3) -> Comparison:
    networks = Networks(seed)
    arms = [networks.arm(f"b{i}", 0.6 + sum(PLANTED[f] for f in point), seeds) for i, point in enumerate(POINTS)]
    cases = Cases(networks.labels, len(CLASSES))
    # branches with two settings or more are compared with the control of a cell, which changes no estimate
    found = findings.find(networks.arm("control", 0.6, seeds), arms, cases, references={"b3": "b0", "b6": "b1"})
    branches = [
        Compared(f"b{i}", [], [], {}, 0.0, 0, 1, settings=dict.fromkeys(point, "other"))
        for i, point in enumerate(POINTS)
    ]
    counts = dict(zip(CLASSES, cases.counts.tolist(), strict=True))
    return Comparison("s", "the control", CLASSES, counts, branches, [], [], findings=found)


def covered_in(count: int, first: int, seeds: int) -> tuple[list[bool], int]:
    """(of every planted effect whether its interval covers it, in how many sweeps the one that is 0 is called real)."""
    covered, false = [], 0
    for i in range(count):
        main = main_effects.estimate(sweep(first + i, seeds), "accuracy")
        assert (main.classes, main.mixed) == ({}, [])
        found = {factor: level for factor in PLANTED for level in main.settings[factor]}
        assert len(found) == len(PLANTED)
        covered += [abs(found[factor].effect - truth) <= found[factor].half for factor, truth in PLANTED.items()]
        false += found["training.weight_decay"].real
    return covered, false


def test_planted_effects_of_three_settings_are_within_their_intervals():
    count = times(50)
    covered, false = covered_in(count, 0, 3)
    assert sum(covered) >= at_least(0.95, len(covered))
    assert false <= at_most(0.05, count)


def test_settings_that_stood_together_are_one_factor_and_confounded_ones_are_named():
    found = sweep(1)
    both = {"loss.kind": "focal", "loss.gamma": 1.0}
    for branch in found.branches:
        branch.settings.clear()
    found.branches[0].settings.update(both)
    main = main_effects.estimate(found, "accuracy")
    (level,) = main.settings["loss.kind and loss.gamma"]
    assert (level.name, dict(level.settings)) == ("loss=focal and gamma=1", both)
    gain = found.findings.gains["accuracy"].values[0]
    assert np.sign(level.effect) == np.sign(gain)
    found.branches[0].change["a"] = (1.0, 2.0)
    assert main_effects.estimate(found, "accuracy").mixed == ["a", "loss.kind and loss.gamma"]


def test_the_next_grid_keeps_what_a_setting_gained(tmp_path, capsys):
    from dataclasses import replace

    import yaml

    from raysweep.config import grid as grids
    from tests.cli.test_errors import run_cli
    from tests.report.making import sweep_of

    better = {"focal": ({}, (0.8, 0.9, 0.9)), "slow": ({}, (0.3, 0.7, 0.8))}
    made = sweep_of(tmp_path, ("rare", "some", "many"), (0.3, 0.7, 0.8), better, seeds=(0, 1, 2))
    own = {"focal": {"loss.kind": "focal"}, "slow": {"training.learning_rate": 0.001}}
    record = made.record()
    branches = [replace(b, arm=(a := b.name[:-6]), settings=own.get(a, {})) for b in record.branches]
    made.write_record(replace(record, branches=tuple(branches)))
    code, out, err = run_cli(capsys, "suggest", "s", "--root", tmp_path)
    assert code == 0, err
    values = yaml.safe_load(out)
    assert values["settings"] == {"loss.kind": ["focal"]}
    assert "# loss=focal changed the macro-F1 by +" in out
    assert "# learning_rate=0.001 changed the macro-F1 by " in out
    grids.check(values)


@pytest.mark.long
@pytest.mark.slow
def test_planted_effects_are_within_their_intervals_in_many_sweeps():
    """Its quick twin above takes a share of them."""
    count = max(60, times(200))
    covered, false = covered_in(count, 5000, 3)
    assert sum(covered) >= 0.93 * len(covered)
    assert false <= at_most(0.05, count)
