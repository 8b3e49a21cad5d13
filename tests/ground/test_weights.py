"""Weights: parsing, checking, shares and exact counts."""

from __future__ import annotations

import json
import math
import os
import pickle
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep import weights as weights_module
from raysweep.config import weights_file
from raysweep.errors import InputError, WeightsError
from raysweep.weights import RatioChange, SamplingWeights

CLASSES = ("angry", "disgust", "happy")
counts_and_weights = st.integers(2, 8).flatmap(
    lambda k: st.tuples(
        st.lists(st.integers(1, 10_000), min_size=k, max_size=k),
        st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=k, max_size=k).filter(any),
    )
)


def case_of(case) -> tuple[dict[str, int], SamplingWeights]:
    names = [f"c{i}" for i in range(len(case[0]))]
    return dict(zip(names, case[0], strict=True)), SamplingWeights(tuple(names), tuple(case[1]))


@given(counts_and_weights, st.integers(0, 100_000))
def test_quotas_sum_to_draws_and_are_rounded_by_largest_remainder(case, draws):
    counts, weights = case_of(case)
    found = weights.quotas(counts, draws)
    mass = {c: Fraction(counts[c]) * Fraction(w) for c, w in weights.as_dict().items()}
    exact = {c: draws * m / sum(mass.values()) for c, m in mass.items()}
    assert sum(found.values()) == draws
    assert all(found[c] in (math.floor(exact[c]), math.floor(exact[c]) + 1) for c in counts)
    assert all(found[c] == 0 or mass[c] > 0 for c in counts)
    up = [c for c in counts if found[c] > exact[c]]
    down = [c for c in counts if found[c] < exact[c]]
    remainders = {c: exact[c] - math.floor(exact[c]) for c in counts}
    assert not up or min(remainders[c] for c in up) >= max((remainders[c] for c in down), default=0)


@given(counts_and_weights, st.floats(1e-3, 1e3))
def test_shares_sum_to_one_and_do_not_depend_on_the_scale_of_the_weights(case, factor):
    counts, weights = case_of(case)
    one = weights.shares(counts)
    scaled = SamplingWeights(weights.classes, tuple(w * factor for w in weights.values)).shares(counts)
    assert sum(one.values()) == pytest.approx(1)
    assert scaled == pytest.approx(one, rel=1e-9, abs=1e-12)


@given(counts_and_weights, st.data())
def test_a_child_has_the_changes_and_else_its_parents_weights(case, data):
    _, parent = case_of(case)
    changes = data.draw(st.dictionaries(st.sampled_from(parent.classes), st.floats(1e-6, 1e6)))
    child = parent.inherit(changes)
    assert child.classes == parent.classes
    assert child.as_dict() == parent.as_dict() | changes
    assert child.inherit({}) == child
    assert child.inherit(parent.as_dict()) == parent
    assert len({child, parent, pickle.loads(pickle.dumps(child))}) == (1 if child == parent else 2)


@given(counts_and_weights, st.data())
def test_a_change_survives_the_log_and_names_what_differs(case, data):
    counts, old = case_of(case)
    new = old.inherit(data.draw(st.dictionaries(st.sampled_from(old.classes), st.floats(1e-6, 1e6))))
    change = RatioChange.between(old, new, counts)
    assert RatioChange.from_event(json.loads(json.dumps({"type": "x", **change.to_event()}))) == change
    assert (not change.changed) == (old == new) == (change.describe() == "unchanged")
    assert old.inherit({c: w for c, (_, w) in change.changed.items()}) == new


def test_weights_cannot_be_changed_and_come_with_one_number_for_each_class():
    weights = SamplingWeights.complete({"disgust": 2}, CLASSES)
    with pytest.raises(AttributeError):
        weights.values = (1.0, 1.0, 1.0)
    with pytest.raises(WeightsError, match="each class once"):
        SamplingWeights(("a", "a"), (1.0, 2.0))
    with pytest.raises(WeightsError, match="each class once"):
        SamplingWeights(("a", "b"), (1.0,))


def test_quotas_of_the_specification_by_hand():
    # 100·1, 10·5, 200·0.5 → 100 : 50 : 100 of 310 draws
    weights = SamplingWeights.complete({"disgust": 5.0, "happy": 0.5}, CLASSES)
    counts = {"angry": 100, "disgust": 10, "happy": 200}
    assert weights.quotas(counts, 310) == {"angry": 124, "disgust": 62, "happy": 124}


def test_ties_of_the_remainder_go_to_the_first_class():
    counts = {"a": 1, "b": 1, "c": 1}
    assert SamplingWeights.complete({}, tuple(counts)).quotas(counts, 2) == {"a": 1, "b": 1, "c": 0}


def test_a_pool_without_an_image_that_can_be_drawn_is_refused():
    with pytest.raises(WeightsError, match="no image could be drawn"):
        SamplingWeights(("a", "b"), (0.0, 1.0)).shares({"a": 3, "b": 0})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"disgsut": 2}, "Did you mean 'disgust'"),
        ({"happy": -1}, "'happy' is -1"),
        ({"happy": float("nan")}, "'happy' is nan"),
        ({"happy": float("inf")}, "'happy' is inf"),
        ({"happy": "much"}, "'happy' is 'much'"),
        ({"happy": True}, "'happy' is True"),
        ({"happy": None}, "'happy' is None"),
        ({"happy": 10**400}, "'happy' is a number of 400 digits"),
        ({"happy": "x" * 10**6}, "'happy' is 'xxx.*which is not a number"),
        ({"x" * 10**6: 2}, "name class 'xxx"),
        (dict.fromkeys(CLASSES, 0), "All sampling weights are zero"),
    ],
)
def test_bad_weights_are_refused_and_the_class_is_named(given, told):
    with pytest.raises(WeightsError, match=told) as error:
        SamplingWeights.complete(given, CLASSES)
    assert len(str(error.value)) < 300


def test_of_a_hundred_thousand_classes_some_are_told():
    with pytest.raises(WeightsError, match="c18, c19 and 99,980 more"):
        SamplingWeights.complete({"x": 1}, [f"c{i}" for i in range(100_000)])


def test_classes_not_named_get_one_and_children_keep_the_parents():
    assert SamplingWeights.complete({"disgust": 3}, CLASSES).as_dict() == {"angry": 1.0, "disgust": 3.0, "happy": 1.0}
    parent = SamplingWeights(CLASSES, (2.0, 3.0, 1.0))
    assert parent.inherit({"happy": 0.5}).as_dict() == {"angry": 2.0, "disgust": 3.0, "happy": 0.5}


def test_weights_as_json_and_as_files(tmp_path):
    assert weights_file.parse('{"disgust": 5.0}') == {"disgust": 5.0}
    (tmp_path / "w.yaml").write_text("disgust: 5.0\n")
    assert weights_file.parse(str(tmp_path / "w.yaml")) == {"disgust": 5.0}
    (tmp_path / "w.json").write_text('{"happy": 0.5}')
    assert weights_file.parse(str(tmp_path / "w.json")) == {"happy": 0.5}


def test_weights_as_a_rule_or_a_list():
    assert weights_file.parse("balanced") == "balanced"
    assert weights_file.parse(" sqrt ") == "sqrt"
    assert weights_file.parse("disgust=5,fear=2") == {"disgust": 5.0, "fear": 2.0}
    assert weights_file.parse("a=b=5, fear = 35%") == {"a=b": 5.0, "fear": "35%"}
    assert weights_file.parse("power=0.5") == {"power": 0.5}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("disgust=5,disgust=3", "twice"),
        ("disgust=5,fear", "at 'fear'"),
        ("disgust=5,=3", "at '=3'"),
        ("disgust=much", "'disgust' is 'much', which is not a number"),
        ("disgust=-1", "cannot be negative"),
        ("disgust=nan", "finite"),
        ("balance", "Did you mean 'balanced'"),
    ],
)
def test_lists_that_cannot_be_read_say_where(text, told):
    with pytest.raises(WeightsError, match=told):
        weights_file.parse(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1, "a": 2}', "twice"),
        ("{'a': 1}", "double quotes"),
        ("no-such-file", "no JSON object and no file"),
        ("{", "not valid JSON"),
        ("x" * 10**6, "no JSON object and no file"),
        ("a\0b", "no JSON object and no file"),
        ("no-folder/w.json", "no JSON object and no file"),
        ("no-folder/w.yaml", "no JSON object and no file"),
        ('{"a": ' + "[" * 10**5, "nested too deep"),
        ('{"a": ' + "1" * 5000 + "}", "thousands of digits"),
        ('{"' + "a" * 10**5 + '": 1, "' + "a" * 10**5 + '": 2}', "twice"),
    ],
)
def test_unreadable_weights_say_how_to_write_them(text, told):
    with pytest.raises(WeightsError, match=told) as error:
        weights_file.parse(text)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize("name", ["w.json", "w.yaml", "w"])
def test_files_of_weights_that_are_none_are_refused(tmp_path, name):
    path = tmp_path / name

    def told() -> str:
        with pytest.raises(InputError) as error:
            weights_file.parse(str(path))
        assert str(path) in str(error.value)
        return str(error.value)

    path.write_bytes(b"\x00\xff\xfe\x80")
    assert "text" in told()
    path.write_text("[" * 1000 + "]" * 1000)
    assert "deep" in told() or "object" in told()
    with open(path, "wb") as file:
        file.truncate(10**9)
    assert "1,000,000" in told()
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in told()


def test_changes_and_their_description():
    assert weights_module.changes({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 5.0}) == {"b": (2.0, 5.0)}
    assert weights_module.describe_changed({"a": (1.0, 3.0), "b": (2.0, 0.5)}) == "a 1→3, b 2→0.5"
    assert weights_module.describe_changed({}) == "unchanged"
    assert SamplingWeights(("a", "b"), (1.0, 5.0)).describe() == "b 5"
    assert SamplingWeights(("a",), (1.0,)).describe() == "all 1"


def test_a_ratio_change_tells_of_the_shares_where_they_are_known():
    old, new = SamplingWeights(("a", "b"), (1.0, 1.0)), SamplingWeights(("a", "b"), (1.0, 3.0))
    change = RatioChange.between(old, new, {"a": 90, "b": 10})
    assert change.describe() == "b 1→3"
    assert change.describe(with_shares=True) == "b 1 → 3 (10.0% → 25.0%)"
    assert RatioChange(old, new).describe(with_shares=True) == "b 1→3"
    assert RatioChange.between(old, old, {"a": 1, "b": 1}).describe(with_shares=True) == "unchanged"


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"old_weights": {"a": 1.0}},
        {"old_weights": {"a": 1.0}, "new_weights": [1.0]},
        {"old_weights": {"a": 1.0}, "new_weights": {"a": "much"}},
        {"old_weights": {"a": 1.0}, "new_weights": {"a": 2.0}, "old_shares": 3},
    ],
)
def test_an_event_that_holds_something_else_is_no_change_of_the_ratio(event):
    with pytest.raises(WeightsError):
        RatioChange.from_event(event)
