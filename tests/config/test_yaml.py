"""Strict YAML: whatever the file is, it is read or refused in words, with the line, soon and without filling the memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
        ("a: [" + "1," * 100_001 + "]\n", "larger than 100,000 keys and values"),
        ("#" * 1_000_001, "larger than 1,000,000 bytes"),
        ("a: " + "[" * 10_000, "nested too deep"),
        ("a: 1\nb: " + "1" * 5000 + "\n", "line 2: not valid YAML: the number has 5,000 characters"),
        ("a: 0x" + "f" * 5000 + "\n", "line 1: not valid YAML: the number has"),
        ("a: 1\nb: 2001-99-99\n", "line 2: not valid YAML: '2001-99-99' is no timestamp"),
        ("a: !!int x\n", "line 1: not valid YAML: 'x' is no int"),
        ("a: !!int ''\n", "line 1: not valid YAML: '' is no int"),
        ("a: !!bool x\n", "line 1: not valid YAML: 'x' is no bool"),
        ("a: !!timestamp x\n", "line 1: not valid YAML: 'x' is no timestamp"),
        ("a: 1\nb: x\x07y\n", "line 2: not valid YAML: the character U+0007 is not allowed"),
        ("a: *" + "x" * 10_000 + "\n", "line 1: not valid YAML: found undefined alias"),
        ("? [a, b]\n: 1\n", "line 1: a key is a list or a mapping"),
        ("? [*a]\n: &a 1\n", "not valid YAML"),
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
