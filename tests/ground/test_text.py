"""Names and texts of others: what may be a class, and that whatever a message shows is short and plain."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep import _text


def laughs() -> list[Any]:
    """2**40 values, if they were written out."""
    value: list[Any] = ["ha"]
    for _ in range(40):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (laughs(), "[[[...], [...]], [[...], [...]]]"),
        ({"a": laughs()}, "{'a': [[...], [...]]}"),
        (10**5000, "a number of 5,000 digits"),
        ([-(10**399)], "[a number of 399 digits]"),
        ("a\nerror: b\x1b[2J", r"'a\nerror: b\x1b[2J'"),
        (bytearray(10**8), "<bytearray>"),
        ("x", "'x'"),
        (-1, "-1"),
        (True, "True"),
        (None, "None"),
        (float("nan"), "nan"),
    ],
    ids=_text.short_repr,
)
def test_a_message_shows_any_value(value, told):
    assert _text.short_repr(value) == told


@given(st.recursive(st.one_of(st.text(), st.integers(), st.floats(), st.binary(), st.none()), lambda s: st.lists(s)))
def test_what_is_shown_is_short_and_plain(value):
    text = _text.short_repr(value)
    assert len(text) <= 120
    assert text.isprintable()


@given(st.text(), st.integers(4, 50))
def test_a_cut_text_keeps_its_ends(text, most):
    found = _text.truncate(text, most)
    assert len(found) == min(len(text), most)
    assert found.isprintable()
    assert len(text) > most or found == _text.plain(text)
    assert found[:2] == _text.plain(text)[:2]
    assert found[-1:] == _text.plain(text)[-1:]


def test_of_many_names_the_first_are_listed():
    assert _text.join_names(["a", "b"]) == "a, b"
    assert _text.join_names(map(str, range(100_000))).endswith(", 18, 19 and 99,980 more")


@pytest.mark.parametrize(
    "name", ["cat", "\u202eright to left", "עברית", "🙂 emoji", "👩\u200d🚀", "=cmd()", "<b>", "a/b", "x" * 255]
)
def test_classes_of_any_writing_are_allowed(name):
    assert _text.check_class(name) == name


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a\nb", r"'\\n'"),
        ("a\rb", r"'\\r'"),
        ("\tb", r"'\\t'"),
        ("\x1b[2J", r"'\\x1b'"),
        ("a\0", r"'\\x00'"),
        ("a\x9b", r"'\\x9b'"),
        ("a\u2028b", r"'\\u2028'"),
        ("caf\udce9", r"'\\udce9'"),
        (" ", "empty"),
        ("x" * 256, "256 characters"),
    ],
)
def test_classes_that_are_no_line_of_text_are_refused(name, told):
    with pytest.raises(ValueError, match=told):
        _text.check_class(name)
