"""The best of many equal branches gains nothing: neither corrected for having been chosen, nor on images that took no part in it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raysweep.report.findings import findings, selection
from raysweep.report.findings.arms import Arm, Cases
from tests.report.findings.simulated import Images, arm
from tests.report.findings.test_findings import PERCENT, times

BRANCHES, SEEDS = 24, 2


def halves(images: Images, rows: np.ndarray, networks: dict[str, list[np.ndarray]]) -> tuple[dict[str, Arm], Cases]:
    """Some of the images, and what every network says of them."""
    return {n: arm(n, [found[rows] for found in of]) for n, of in networks.items()}, Cases(images.labels[rows], 7)


@pytest.mark.timeout(3600)  # the full count takes minutes
def test_the_winner_of_equal_branches_gains_nothing_on_sealed_images():
    """200 sweeps of 24 equal branches: the corrected gain and the gain on the test images are 0 on average, within 0.2 points."""
    n, claimed, corrected, on_test, luck = times(200) if PERCENT >= 100 else 3, [], [], [], []
    for i in range(n):
        images = Images(14_000 if PERCENT >= 100 else 800, 500 + i)
        networks = {f"b{b}": [images.network() for _ in range(SEEDS)] for b in range(BRANCHES)}
        networks["control"] = [images.network() for _ in range(SEEDS)]
        validation = np.arange(len(images.labels)) % 2 == 0
        arms, cases = halves(images, validation, networks)
        control = arms.pop("control")
        of_sweep = findings.find(control, list(arms.values()), cases)
        winner = of_sweep.chosen("macro_f1")
        luck.append(of_sweep.luck("macro_f1"))
        arms, cases = halves(images, ~validation, networks)
        found = findings.find(arms["control"], [arms[winner.branch]], cases)
        claimed.append(winner.gain)
        corrected.append(winner.corrected)
        on_test.append(float(found.gains["macro_f1"].values[0]))
    assert winner.among == BRANCHES
    # The networks are the same on all images, and so is what lucky seeds have made of them.
    for gains in (corrected, on_test, np.array(on_test) - luck):
        spread = 0 if PERCENT >= 100 else 3 * float(np.std(gains)) / math.sqrt(n)
        assert abs(np.mean(gains)) <= 0.002 + spread, (np.mean(claimed), np.mean(corrected), np.mean(on_test))
    assert np.mean(claimed) > 0.003  # what would be said without
    print(
        f"claimed {np.mean(claimed):.5f}, corrected {np.mean(corrected):.5f}, test {np.mean(on_test):.5f}, luck {np.mean(luck):.5f}"
    )


def test_the_luck_of_seeds_is_what_the_best_of_equal_networks_gains_on_any_images():
    """Known truth: gains that are seeds' luck alone, images' alone, or half of each."""
    count, variance = 24, 0.01**2
    rng = np.random.default_rng(0)
    for share in (0.0, 0.5, 1.0):
        left, found = [], []
        for i in range(20):
            of_seeds = np.sqrt(share * variance) * rng.standard_normal(count)
            gains = of_seeds + np.sqrt((1 - share) * variance) * rng.standard_normal(count)
            left.append(of_seeds[gains.argmax()])
            found.append(selection.luck(gains, variance * np.eye(count), np.full(count, share * variance), i))
        assert np.mean(found) == pytest.approx(np.mean(left), abs=3 * 0.01 / np.sqrt(20))
        assert (np.mean(found) > 0.005) == (share > 0)


@pytest.mark.parametrize("metric", findings.CHOSEN_BY)
def test_a_winner_can_be_chosen_by_each_metric(metric):
    images = Images(700, 1)
    found = images.sweep([{}, {"learned": 1.0}, {}], 2, 2)
    assert found.chosen(metric).branch == "b1"
    assert found.chosen("macro_f1") == found.winner


def test_without_seeds_nothing_is_corrected_and_a_single_branch_was_not_chosen():
    images = Images(700, 1)
    one_seed = images.sweep([{}, {"learned": 1.0}], 1, 1)
    assert math.isnan(one_seed.chosen("accuracy").corrected)
    assert math.isnan(one_seed.luck("accuracy"))
    sweep = images.sweep([{}], 2, 2)
    single = sweep.chosen("accuracy")
    assert (single.gain, single.among, sweep.luck("accuracy")) == (single.corrected, 1, 0.0)
