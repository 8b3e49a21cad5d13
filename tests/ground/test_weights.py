"""Weights: parsing, checking, shares and exact counts."""

from __future__ import annotations

import os
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep import weights as weights_module
from raysweep.errors import InputError, WeightsError

CLASSES = ("angry", "disgust", "happy")
counts_and_weights = st.integers(2, 8).flatmap(
    lambda k: st.tuples(
        st.lists(st.integers(1, 10_000), min_size=k, max_size=k),
        st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=k, max_size=k).filter(any),
    )
)


@given(counts_and_weights, st.integers(0, 100_000))
def test_quotas_sum_to_draws_and_differ_from_the_exact_share_by_less_than_one(case, draws):
    numbers, ws = case
    counts = {f"c{i}": n for i, n in enumerate(numbers)}
    by_name = {f"c{i}": w for i, w in enumerate(ws)}
    found = weights_module.quotas(counts, by_name, draws)
    total = sum(Fraction(n) * Fraction(w) for n, w in zip(numbers, ws, strict=True))
    assert sum(found.values()) == draws
    for c in counts:
        assert abs(found[c] - draws * Fraction(counts[c]) * Fraction(by_name[c]) / total) < 1
        assert found[c] == 0 or by_name[c] > 0


@given(counts_and_weights, st.floats(1e-3, 1e3))
def test_shares_sum_to_one_and_do_not_depend_on_the_scale_of_the_weights(case, factor):
    counts = {f"c{i}": n for i, n in enumerate(case[0])}
    by_name = {f"c{i}": w for i, w in enumerate(case[1])}
    one = weights_module.shares(counts, by_name)
    scaled = weights_module.shares(counts, {c: w * factor for c, w in by_name.items()})
    assert sum(one.values()) == pytest.approx(1)
    assert scaled == pytest.approx(one, rel=1e-9, abs=1e-12)


def test_quotas_of_the_specification_by_hand():
    # 100·1, 10·5, 200·0.5 → 100 : 50 : 100 of 310 draws
    assert weights_module.quotas({"angry": 100, "disgust": 10, "happy": 200}, {"disgust": 5.0, "happy": 0.5}, 310) == {
        "angry": 124,
        "disgust": 62,
        "happy": 124,
    }


def test_ties_of_the_remainder_go_to_the_first_class():
    assert weights_module.quotas({"a": 1, "b": 1, "c": 1}, {}, 2) == {"a": 1, "b": 1, "c": 0}


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
        weights_module.complete(given, CLASSES)
    assert len(str(error.value)) < 300


def test_of_a_hundred_thousand_classes_some_are_told():
    with pytest.raises(WeightsError, match="c18, c19 and 99,980 more"):
        weights_module.complete({"x": 1}, [f"c{i}" for i in range(100_000)])


def test_classes_not_named_get_one_and_children_keep_the_parents():
    assert weights_module.complete({"disgust": 3}, CLASSES) == {"angry": 1.0, "disgust": 3.0, "happy": 1.0}
    parent = {"angry": 2.0, "disgust": 3.0, "happy": 1.0}
    assert weights_module.inherit(parent, {"happy": 0.5}, CLASSES) == {"angry": 2.0, "disgust": 3.0, "happy": 0.5}


def test_weights_as_json_and_as_files(tmp_path):
    assert weights_module.parse('{"disgust": 5.0}') == {"disgust": 5.0}
    (tmp_path / "w.yaml").write_text("disgust: 5.0\n")
    assert weights_module.parse(str(tmp_path / "w.yaml")) == {"disgust": 5.0}
    (tmp_path / "w.json").write_text('{"happy": 0.5}')
    assert weights_module.parse(str(tmp_path / "w.json")) == {"happy": 0.5}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1, "a": 2}', "twice"),
        ("{'a': 1}", "double quotes"),
        ("no-such-file", "neither a JSON object nor a file"),
        ("{", "not valid JSON"),
        ("x" * 10**6, "neither a JSON object nor a file"),
        ("a\0b", "neither a JSON object nor a file"),
        ("no-folder/w.json", "neither a JSON object nor a file"),
        ("no-folder/w.yaml", "neither a JSON object nor a file"),
        ('{"a": ' + "[" * 10**5, "nested too deep"),
        ('{"a": ' + "1" * 5000 + "}", "thousands of digits"),
        ('{"' + "a" * 10**5 + '": 1, "' + "a" * 10**5 + '": 2}', "twice"),
    ],
)
def test_unreadable_weights_say_how_to_write_them(text, told):
    with pytest.raises(WeightsError, match=told) as error:
        weights_module.parse(text)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize("name", ["w.json", "w.yaml", "w"])
def test_files_of_weights_that_are_none_are_refused(tmp_path, name):
    path = tmp_path / name

    def told() -> str:
        with pytest.raises(InputError) as error:
            weights_module.parse(str(path))
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
    assert weights_module.describe({"a": 1.0, "b": 5.0}) == "b 5"
    assert weights_module.describe({"a": 1.0}) == "all 1"
    assert weights_module.describe({"a": 3.0}, {"a": 1.0}) == "a 1→3"
