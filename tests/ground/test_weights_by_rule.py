"""Weights by a rule and by shares: the numbers, and the images that result."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.errors import WeightsError
from raysweep.weights import SamplingWeights
from raysweep.weights_by_rule import Wanted

COUNTS = {"angry": 100, "disgust": 4, "fear": 25}
NATURAL = SamplingWeights.complete({}, tuple(COUNTS))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("natural", [1, 1, 1]),
        ("balanced", [1, 25, 4]),
        ("sqrt", [1, 5, 2]),
        ({"power": 0.5}, [1, 5, 2]),
        ({"power": 0}, [1, 1, 1]),
        ({"power": 2}, [1, 625, 16]),
        ({"effective": 0}, [1, 1, 1]),
        ({"effective": 0.9}, [1, (1 - 0.9**100) / (1 - 0.9**4), (1 - 0.9**100) / (1 - 0.9**25)]),
        ({"effective": 1 - 1e-12}, [1, 25, 4]),
        ({"disgust": 5}, [1, 5, 1]),
    ],
)
def test_the_weights_of_each_rule(given, expected):
    found = Wanted(given).resolve(NATURAL, COUNTS)
    assert found.values == pytest.approx(expected, rel=1e-9)


def test_a_rule_sets_every_class_whatever_the_parent_had():
    parent = SamplingWeights.complete({"angry": 3, "disgust": 9}, tuple(COUNTS))
    assert Wanted("balanced").resolve(parent, COUNTS) == Wanted("balanced").resolve(NATURAL, COUNTS)
    assert Wanted("natural").resolve(parent, COUNTS) == NATURAL


def test_a_class_without_images_has_weight_1():
    counts = COUNTS | {"fear": 0}
    for rule in ("balanced", {"effective": 0.999}):
        assert Wanted(rule).resolve(NATURAL, counts).as_dict()["fear"] == 1.0


def test_a_class_that_is_called_like_a_rule_is_a_class():
    tools = SamplingWeights.complete({}, ("hand", "power"))
    assert Wanted({"power": 2}).resolve(tools, {"hand": 10, "power": 5}).values == (1.0, 2.0)
    assert Wanted({"power": 2}).is_plain(tools)
    assert not Wanted({"power": 2}).is_plain(NATURAL)


def test_shares_leave_the_others_their_proportions_to_each_other():
    parent = SamplingWeights.complete({"angry": 1, "disgust": 5}, tuple(COUNTS))  # 100 : 20 : 25
    found = Wanted({}, {"fear": 0.4}).resolve(parent, COUNTS)
    assert found.as_dict()["angry"] == 1.0
    assert found.as_dict()["disgust"] == 5.0
    shares = found.shares(COUNTS)
    assert shares["fear"] == pytest.approx(0.4, abs=1e-12)
    assert shares["angry"] == pytest.approx(0.6 * 100 / 120, abs=1e-12)


def test_a_share_may_stand_among_weights_and_beside_a_rule():
    found = Wanted({"disgust": 5, "fear": "40%"}).resolve(NATURAL, COUNTS)
    assert found.shares(COUNTS)["fear"] == pytest.approx(0.4)
    assert found.as_dict()["disgust"] == 5.0
    found = Wanted("balanced", {"fear": 0.5}).resolve(NATURAL, COUNTS).shares(COUNTS)
    assert found == pytest.approx({"angry": 0.25, "disgust": 0.25, "fear": 0.5})


def test_shares_of_all_classes():
    found = Wanted({}, {"angry": 0.2, "disgust": 0.3, "fear": 0.5}).resolve(NATURAL, COUNTS).shares(COUNTS)
    assert found == pytest.approx({"angry": 0.2, "disgust": 0.3, "fear": 0.5})
    assert Wanted({"angry": 0, "disgust": 0}, {"fear": 1}).resolve(NATURAL, COUNTS).shares(COUNTS)["fear"] == 1


@given(
    st.lists(st.integers(1, 30_000), min_size=2, max_size=9),
    st.one_of(
        st.sampled_from(["natural", "balanced", "sqrt"]),
        st.floats(0, 2).map(lambda p: {"power": p}),
        st.floats(0, 0.999999).map(lambda b: {"effective": b}),
    ),
    st.lists(st.floats(0.001, 0.1), max_size=8),
    st.integers(1, 100_000),
)
def test_every_epoch_shows_each_class_within_one_image_of_what_was_asked_for(numbers, rule, parts, draws):
    counts = {f"c{i}": n for i, n in enumerate(numbers)}
    shares = {f"c{i}": s for i, s in enumerate(parts[: len(counts) - 1])}
    found = Wanted(rule, shares).resolve(SamplingWeights.complete({}, tuple(counts)), counts)
    quotas = found.quotas(counts, draws)
    assert sum(quotas.values()) == draws
    for name, share in shares.items():
        assert abs(quotas[name] - share * draws) < 1 + 1e-6
    # The classes that are not named share the rest as the rule says: images × weight, from the paper or by the power.
    exponent = {"natural": 1.0, "balanced": 0.0, "sqrt": 0.5}.get(rule) if isinstance(rule, str) else None
    if isinstance(rule, dict) and "power" in rule:
        exponent = 1 - rule["power"]

    def mass(n: int) -> float:
        if exponent is not None:
            return float(n) ** exponent
        beta = rule["effective"]
        return n * (1 - beta) / (1 - beta**n)

    rest = {c: mass(n) for c, n in counts.items() if c not in shares}
    left = 1 - math.fsum(shares.values())
    for c, m in rest.items():
        assert abs(quotas[c] - left * draws * m / math.fsum(rest.values())) < 1 + 1e-6


@pytest.mark.parametrize(
    ("given", "shares", "told"),
    [
        ("balance", {}, "no rule.* Did you mean 'balanced'"),
        ({"power": 3}, {}, "power has 3"),
        ({"power": -1}, {}, "negative"),
        ({"effective": 1}, {}, "effective has 1"),
        ({"disgust": "x%"}, {}, "The share of class 'disgust' is 'x%'"),
        ({"disgust": "0%"}, {}, "above 0"),
        ({"disgust": "x"}, {}, "not a number"),
        ({}, {"disgust": 1.5}, "at most 1"),
        ({}, {"disgust": True}, "above 0"),
        ({}, {"disgusted": 0.5}, "Did you mean 'disgust'"),
        ({"disgust": "30%"}, {"disgust": 0.3}, "two shares"),
        ({}, {"disgust": 0.5, "fear": 0.5}, "leaves nothing for the other classes"),
        ({}, {"angry": 0.5, "disgust": 0.3, "fear": 0.3}, "add up to 1.1"),
        ({"angry": 0, "disgust": 0}, {"fear": 0.5}, "add up to 0.5"),
    ],
)
def test_what_cannot_be_had_is_refused_in_words(given, shares, told):
    with pytest.raises(WeightsError, match=re.compile(told)):
        Wanted(given, shares).resolve(NATURAL, COUNTS)


def test_a_share_of_a_class_without_images_is_refused():
    with pytest.raises(WeightsError, match="has no images"):
        Wanted({}, {"fear": 0.3}).resolve(NATURAL, COUNTS | {"fear": 0})


def test_what_was_asked_for_in_words():
    assert Wanted("balanced").describe(NATURAL) == "balanced"
    assert Wanted({"power": 0.5}, {"fear": 0.35}).describe(NATURAL) == "power 0.5, fear 35%"
    assert Wanted({"disgust": 5}).describe(NATURAL) == ""
