"""What goes to the terminal: valid JSON, one paragraph for an error, nothing that controls the terminal."""

from __future__ import annotations

import json

import pytest

from raysweep.cli import main as cli
from raysweep.display import terminal
from raysweep.errors import InputError


def test_json_is_valid_and_cannot_control_the_terminal(capsys):
    value = {"a": [float("inf"), float("nan"), (1.5, None, True)], "b\x9b\u202e": "c\x1b\x7f\U000e0001\n🙂é\udcff"}
    terminal.put_json(value)
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.split("\n"))
    assert "🙂é" in out
    assert json.loads(out, parse_constant=pytest.fail) == {
        "a": [None, None, [1.5, None, True]],
        "b\x9b\u202e": value["b\x9b\u202e"],
    }


@pytest.mark.parametrize("value", [None, "0.5", [1], {}])
def test_a_value_that_is_not_a_number_becomes_a_dash(value):
    assert terminal.percent(value) == terminal.decimals(value) == "-"
    assert terminal.age(value) == "-"


def test_an_error_is_one_paragraph_whatever_it_quotes(capsys, monkeypatch):
    def refuse(root, **options):
        raise InputError("There is no 'a\nerror: b\r\x1b[2J\u202e'.\n  Look\n  elsewhere.")

    monkeypatch.setattr("raysweep.store.index.texts", refuse)
    with pytest.raises(SystemExit) as leave:
        cli.main(["list", "--json"])
    assert leave.value.code == 2
    assert capsys.readouterr().err == "error: There is no 'a error: b··[2J·'. Look elsewhere.\n"
