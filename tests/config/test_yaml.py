"""Strict YAML: whatever the file is, it is read or refused in words, with the line, soon and without filling the memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raysweep.config import yaml as yaml_file
from raysweep.errors import ConfigError


def refusal(path: Path, content: str | bytes | None = None) -> str:
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError) as error:
        yaml_file.read_yaml(path)
    text = str(error.value)
    assert str(path) in text
    assert text.isprintable()
    assert len(text) < 1000
    return text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: &a [*a, *a, *a]\n", "line 1: the value contains itself"),
        ("b: 1\na: &a {x: {y: *a}}\n", "line 2: the value contains itself"),
        ("a: &a {<<: *a}\n", "contains itself"),
        ("a: &a [" + "1," * 30_000 + "]\nb: &b [*a, *a]\nc: [*b, *b]\n", "has more than 100,000 values"),
        pytest.param("a: [" + "1," * 100_001 + "]\n", "has more than 100,000 keys and values", marks=pytest.mark.slow),
        ("#" * 1_000_001, "larger than 1,000,000 bytes"),
        ("a: " + "[" * 10_000, "nested too deep"),
        ("a: 1\nb: " + "1" * 5000 + "\n", "line 2: the number has 5,000 characters"),
        ("a: 0x" + "f" * 5000 + "\n", "line 1: the number has"),
        ("a: 1\nb: 2001-99-99\n", "line 2: not valid YAML: '2001-99-99' is not a valid timestamp"),
        ("a: !!int x\n", "line 1: not valid YAML: 'x' is not a valid int"),
        ("a: !!int ''\n", "line 1: not valid YAML: '' is not a valid int"),
        ("a: !!bool x\n", "line 1: not valid YAML: 'x' is not a valid bool"),
        ("a: !!timestamp x\n", "line 1: not valid YAML: 'x' is not a valid timestamp"),
        ("a: 1\nb: x\x07y\n", "line 2: not valid YAML: the character U+0007 is not allowed"),
        ("a: *" + "x" * 10_000 + "\n", "line 1: not valid YAML: found undefined alias"),
        ("? [a, b]\n: 1\n", "line 1: a key is a list or a mapping"),
        ("? [*a]\n: &a 1\n", "not valid YAML"),
        ("a: 1\nseed: 010\n", "line 2: 010 is one number in YAML 1.1 and something else in YAML 1.2. Write a plain"),
        ("010: 1\n", "line 1: 010 is one number in YAML 1.1 and something else in YAML 1.2. Write a plain"),
        ("a: -0_7\n", "quote it as text: '-0_7'"),
        ("a: 1:30\n", "quote it as text: '1:30'"),
        ("a: 1:30.5\n", "quote it as text: '1:30.5'"),
        ("a: " + "1:" * 400 + "1\n", "something else in YAML 1.2"),
        ("1: 2\n", "line 1: YAML reads the key 1 as int, not as text. Quote it: '1'."),
        ("a: {no: 2}\n", "line 1: YAML reads the key no as bool, not as text. Quote it: 'no'."),
        ("1e5: 2\n", "line 1: YAML reads the key 1e5 as float, not as text. Quote it: '1e5'."),
        ("a: 1\nb: 2\n'a': 3\n", "line 3: the key 'a' is a duplicate of the one in line 1. Remove one of them."),
        (b"\xff\xfe\x80", "cannot be read as text"),
        (b"a: \xed\xa0\x80", "cannot be read as text"),
    ],
)
def test_files_that_cannot_be_read_are_refused_with_the_line(tmp_path, text, told):
    assert told in refusal(tmp_path / "c.yaml", text)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert "cannot be read as text: it is not a regular file" in refusal(tmp_path / "fifo")
    assert "cannot be read as text: it is a folder" in refusal(tmp_path)
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert "it is not a regular file" in refusal(tmp_path / "zero")
    for path in ("x" * 300, "a\0b", "a\ud800"):
        with pytest.raises(ConfigError, match="cannot be read as text"):
            yaml_file.read_yaml(path)


def test_aliases_and_merged_keys_that_people_write_are_read(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "a: {b: &b {x: 1, y: 2}, c: &c {<<: *b, x: 3}}\n"
        "d: {<<: *c, z: *b}\n"
        "e: {<<: [*c, *b, {y: 5, fear: 6}], long: 7}\n"
    )
    b = {"x": 1, "y": 2}
    value, lines = yaml_file.read_yaml_lines(path)
    assert value["a"] == {"b": b, "c": {"x": 3, "y": 2}}
    assert value["d"] == {"x": 3, "y": 2, "z": b}
    assert value["e"] == {"x": 3, "y": 2, "fear": 6, "long": 7}
    assert lines["d.z"] == 2


def test_a_number_in_scientific_notation_is_a_number_as_in_an_override(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: [1e-4, 1E5, -.5e3, +1.e+2, 1.5e-3]\nb: ['1e-4', 1e, e5, 1e5x, 0x1e5, 0.5, .inf]\n")
    value = yaml_file.read_yaml(path)
    assert value["a"] == [1e-4, 1e5, -500.0, 100.0, 1.5e-3]
    assert all(type(number) is float for number in value["a"])
    assert value["b"] == ["1e-4", "1e", "e5", "1e5x", 0x1E5, 0.5, float("inf")]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["1e-4", "1E5", "no", "010", "1:30"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@example({"a\x85": "b\u2028c"})  # PyYAML writes these as they are and reads them as ends of lines
@given(st.dictionaries(texts, values, max_size=4))
def test_what_is_written_is_read_back(value):
    assert yaml_file.parse_lines(yaml_file.dump(value), "x")[0] == value
