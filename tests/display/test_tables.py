"""Tables and matrices of many classes at 60, 80 and 120 columns: rows keep their names, and what is left out is counted."""

from __future__ import annotations

import io
import re
import sys

import numpy as np
import pytest

from raysweep.display import confusion, tables, terminal
from raysweep.display.shares import MOST_CLASSES, show_shares
from raysweep.report.predictions import Predictions


class Terminal(io.TextIOWrapper):
    """A terminal of any encoding that remembers what is written."""

    def __init__(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors=errors, write_through=True)

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", self.buffer.getvalue().decode(self.encoding))


def terminal_of(monkeypatch, width: int) -> Terminal:
    """stdout and stderr are one terminal. (Called in the test, for pytest exchanges them after the fixtures.)"""
    made = Terminal()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", made)
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("TERM", "xterm")
    return made


def compared(classes: int) -> tuple[list[tuple[str, str]], list[list[str]]]:
    columns = [("branch", "l"), ("accuracy", "r"), *((f"character{i:02}", "r") for i in range(classes))]
    return columns, [["Magi_character035", "+1.0", *(f"+{i % 90}.0▲" for i in range(classes))]]


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("classes", [3, 15, 964])
def test_rows_keep_their_names_and_the_largest_changes(monkeypatch, width, classes):
    screen = terminal_of(monkeypatch, width)
    columns, rows = compared(classes)
    tables.table("t", columns, rows, least=[2 + i for i in range(classes)])
    lines = screen.text.splitlines()
    assert max(map(len, lines)) <= width
    assert any("Magi_character035" in line for line in lines)
    assert any(f"character{classes - 1:02}" in line for line in lines)
    shown = len(re.findall(r"\bcharacter\d+", screen.text))
    if shown < classes:
        assert f"… {classes - shown:,} more class" in screen.text
    else:
        assert "more class" not in screen.text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_cuts_no_column_off(monkeypatch, width):
    columns = [("id", "l"), *((f"{name} name", "l") for name in "abcdefg"), ("age", "r")]
    made = terminal_of(monkeypatch, width)
    tables.table(None, columns, [["base-sweep-control-seed0", *["finished"] * 7, "8"]])
    assert made.text.count("finished") == 7  # complete, in a row of the table or in a paragraph
    assert len(re.findall(r"\b8\b", made.text)) == 1
    assert all(f"{name} name" in " ".join(made.text.split()) for name in "abcdefg")
    assert max(map(len, made.text.splitlines())) <= width


@pytest.mark.parametrize("total", [78, 79, 80, 81])
def test_columns_that_just_do_not_fit_are_left_out_and_counted(monkeypatch, total):
    made = terminal_of(monkeypatch, 80)
    inner = total - 2  # a blank at both edges
    cells = ["n" * 20, "v" * (inner - 20 - 3 - 3 - 10), "9" * 10]
    tables.table(None, [("a", "l"), ("b", "r"), ("c", "r")], [cells], least=[2])
    assert ("9" * 10 in made.text) == (total <= 80)
    assert ("… 1 more class with smaller changes" in made.text) == (total > 80)


def test_a_program_gets_all_columns(capsys):
    columns, rows = compared(964)
    tables.table("t", columns, rows, least=list(range(2, 966)))
    assert all(len(line.split("\t")) == 966 for line in capsys.readouterr().out.splitlines())
    tables.table("t", columns, rows, least=list(range(2, 966)), most=40)
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split("\t") == ["branch", "accuracy", *(f"character{i}" for i in range(924, 964))]
    assert err.startswith("… 924 more classes with smaller changes; --json has all.")


def predictions(classes: int) -> Predictions:
    labels = np.arange(4 * classes) % classes
    predicted = np.where(np.arange(len(labels)) % 4 == 0, (labels + 1) % classes, labels)
    names = tuple(f"expression{i:02}" for i in range(classes))
    return Predictions(1, names, labels, predicted, np.zeros((len(labels), 0), dtype=np.float32))


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("classes", [2, 7, 15, 964])
def test_a_confusion_matrix_says_which_class_a_row_is(monkeypatch, width, classes):
    screen = terminal_of(monkeypatch, width)
    confusion.print_confusion(predictions(classes))
    text = screen.text
    assert "poch 1" in text  # Epoch 1: …; What is confused most in epoch 1, …
    if "confused most" in text:
        assert f"of {classes:,} classes" in text
        assert classes > 20 or width < 24 + 7 * classes
        assert text.count("taken for") == min(10, classes)
    else:
        assert all(f"expression{i:02}" in text for i in range(classes))


def test_a_dry_run_of_a_thousand_classes_shows_those_that_differ(capsys):
    counts = {f"c{i}": 20 for i in range(964)}
    weights = {c: 1.0 for c in counts} | {"c500": 5.0}
    total = sum(n * weights[c] for c, n in counts.items())
    show_shares(counts, weights, {c: n * weights[c] / total for c, n in counts.items()})
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == MOST_CLASSES + 1
    assert "\nc500\t20\t0.1%\t5\t0.5%\n" in out
    assert f"… {964 - MOST_CLASSES} more classes of 964" in err


@pytest.mark.parametrize("width", [40, 80])
def test_a_message_is_broken_between_words(monkeypatch, width):
    screen = terminal_of(monkeypatch, width)
    long = "/a/path/that/is/longer/than/forty/columns/of/a/terminal"
    text = f"fear: recall +26.0 and predicted 1.56 × as often; `raysweep continue x --root y` goes on. 猫猫猫猫猫猫 {long} ends."
    terminal.say(text)
    lines = screen.text.splitlines()
    assert " ".join(lines) == text
    assert all(terminal.cell_len(line) <= width or " " not in line for line in lines)
    assert any("`raysweep continue x --root y`" in line for line in lines)


def test_a_message_keeps_its_indentation_and_its_own_lines(monkeypatch):
    screen = terminal_of(monkeypatch, 30)
    terminal.say("  one two three four five six seven\n\n  é")
    assert screen.text.splitlines() == ["  one two three four five six", "  seven", "", "  é"]


def test_a_command_to_type_and_a_message_for_a_program_stay_one_line(monkeypatch, capsys, tmp_path):
    from raysweep.store.root import Root

    terminal.say("word " * 60)
    assert capsys.readouterr().err == "word " * 60 + "\n"
    screen = terminal_of(monkeypatch, 40)
    terminal.say_next(Root.open(tmp_path), "branch", "--from", "a-rather-long-name_20260102_030405@12")
    assert len(screen.text.splitlines()) == 1


@pytest.mark.parametrize(("width", "gone"), [(80, ["worst class"]), (60, ["worst class", "parent"]), (200, [])])
def test_a_narrow_terminal_leaves_out_the_columns_that_are_needed_least(monkeypatch, width, gone):
    screen = terminal_of(monkeypatch, width)
    columns = [("id", "l"), ("accuracy", "r"), ("worst class", "l"), ("parent", "l"), ("age", "r")]
    row = [
        "base-sweep-disgust5_20260102_030405",
        "71.2%",
        "a class with a long name 12.3%",
        "base_20260102_030405@3",
        "3 d",
    ]
    tables.table(None, columns, [row], optional=[2, 3, 4])
    head = next(line for line in screen.text.splitlines() if "accuracy" in line)
    assert [name for name, _ in columns if name not in head] == gone
    line = next(line for line in screen.text.splitlines() if "base-sweep-disgust5_20260102_030405" in line)
    assert line.rstrip().endswith("3 d")
    told = f"Not shown in a terminal this narrow: {', '.join(gone)}; --json has all."
    assert (told in " ".join(screen.text.split())) == bool(gone)


def test_an_id_stays_whole_where_another_column_can_be_folded(monkeypatch):
    screen = terminal_of(monkeypatch, 60)
    columns = [("id", "l"), ("ratio change", "l"), ("age", "r")]
    row = ["s-control-seed0_20260102_0304", "disgust: 1 to 5, fear: 1 to 2 (control)", "3 d"]
    tables.table(None, columns, [row], optional=[2])
    assert any("s-control-seed0_20260102_0304" in line for line in screen.text.splitlines())


LONG = [f"{'a_word_of_forty_letters_without_blank'}{i:03}" for i in range(40)]
NAMES = {
    "7": ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"],
    "40 long": LONG,
    "1000": [f"class{i}" for i in range(1000)],
    "chinese": [a + b for a in "愤怒厌恶恐惧高兴" for b in "中性悲伤惊"],
}


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("branch", ["disgust5", "b" * 40, "厌恶" * 10])
def test_no_name_is_broken_and_nothing_is_wider_than_the_terminal(monkeypatch, width, kind, branch):
    screen = terminal_of(monkeypatch, width)
    classes = NAMES[kind]
    columns = [("branch", "l"), ("accuracy", "r"), *((c, "r") for c in classes), ("worst class", "l"), ("seconds", "r")]
    rows = [[f"{branch}{i}", "+1.0", *(f"+{i}.{at % 10}▲" for at in range(len(classes))), f"{classes[-1]} 12.3%", "10"] for i in range(3)]  # fmt: skip
    k = len(classes)
    tables.table("Points against the control", columns, rows, least=range(2, 2 + k), optional=[2 + k, 3 + k])
    lines = screen.text.splitlines()
    assert max(map(terminal.cell_len, lines)) <= width
    pieces = set(re.findall(r"[^\s;.]+", screen.text))
    assert {f"{branch}{i}" for i in range(3)} <= pieces
    known = set(classes) | {f"#{i}" for i in range(1, k + 1)}
    said = "Points against the control branch accuracy worst class seconds is Not shown in a terminal this narrow --json has"
    words = set(re.findall(r"\S+", f"{said} all … more classes with smaller changes"))
    values = {p for p in pieces if re.fullmatch(r"[─]+|[+\d,▲%]+", p)}
    assert {p.rstrip(",:") for p in pieces - values} <= known | words | {f"{branch}{i}" for i in range(3)}
    for number in re.findall(r"#\d+", screen.text):
        assert f"{number} is {classes[int(number[1:]) - 1]}" in " ".join(screen.text.split())
    shown = sum(c in pieces for c in classes)
    if shown < k:
        assert f"… {k - shown:,} more class" in screen.text


def test_a_wide_column_that_leaves_gives_its_room_to_narrow_ones(monkeypatch):
    screen = terminal_of(monkeypatch, 60)
    columns = [("id", "l"), ("accuracy", "r"), ("age", "r"), ("change", "l")]
    tables.table(None, columns, [["i" * 30, "71.2%", "3 d", "x" * 40]], optional=[2, 3])
    assert "3 d" in screen.text
    assert "Not shown in a terminal this narrow: change; --json has all." in " ".join(screen.text.split())


def test_a_row_that_does_not_fit_is_a_paragraph(monkeypatch):
    screen = terminal_of(monkeypatch, 40)
    tables.table(None, [("id", "l"), ("status", "l"), ("", "l")], [["i" * 39, "finished", "best"], ["  j", "", "last"]])
    assert screen.text.splitlines() == ["", "i" * 39, "  status finished  best", "  j", "    last", ""]


def test_long_heads_become_letters_with_a_legend(monkeypatch):
    screen = terminal_of(monkeypatch, 60)
    columns = [("", "l"), ("", "l"), ("parent_20260102_030405", "l"), ("s-fear-5-seed0_20260102_030405", "l")]
    tables.table(None, columns, [["weights", "fear", "1", "5"]])
    head, _, row = screen.text.splitlines()[1:4]
    assert (head.split(), row.split()) == (["A", "B"], ["weights", "fear", "1", "5"])
    told = "A is parent_20260102_030405; B is s-fear-5-seed0_20260102_030405."
    assert told in " ".join(screen.text.split())
    assert "more class" not in screen.text


def test_a_comment_goes_on_as_a_comment(monkeypatch):
    screen = terminal_of(monkeypatch, 20)
    terminal.put_words("epochs: 2\n  # one two three four five")
    assert screen.text.splitlines() == ["epochs: 2", "  # one two three", "  # four five"]


def test_the_end_of_a_message_that_is_a_command_is_not_broken(monkeypatch):
    screen = terminal_of(monkeypatch, 40)
    terminal.say(
        "2 of 8 branches failed. Run the failed ones again with: raysweep continue s_20260102_030405 --root runs"
    )
    assert screen.text.splitlines()[-1] == "raysweep continue s_20260102_030405 --root runs"
