"""The display of a sweep of ten thousand branches: an event takes no longer than with ten branches."""

from __future__ import annotations

import time

import pytest

from raysweep.display import sweep
from raysweep.display.sweep import ROWS, SweepDisplay
from raysweep.events import (
    BatchDone,
    BranchEnded,
    BranchEvent,
    BranchStarted,
    EpochDone,
    Note,
    PlannedBranch,
    SweepStarted,
)

WORST = {"worst_class": "a", "worst_recall": 0.25, "val_macro_f1": 0.4}


class Live:
    """Counts how often the table is drawn."""

    drawn = 0

    def update(self, table, refresh):
        self.drawn += 1


def started(rows: list[PlannedBranch], epoch: int, *notes: str) -> SweepStarted:
    return SweepStarted("s", tuple(rows), epoch, epoch, at_once=2, queue="", notes=notes)


def sweep_of(branches: int) -> SweepDisplay:
    display = SweepDisplay()
    rows = [PlannedBranch(f"b{i}", i % 100 == 0, i % 100 // 50, False) for i in range(branches)]
    display(started(rows, epoch=2))
    return display


def test_branches_are_compared_with_the_control_of_their_seed(capsys):
    display = SweepDisplay()
    rows = [PlannedBranch(n, n[0] == "c", int(n[1]), False) for n in ("c0", "c1", "x0", "x1", "x2")]
    display(started(rows, epoch=1))
    for name, accuracy in (("c0", 0.5), ("c1", 0.25), ("x0", 0.75), ("x1", 0.75), ("x2", 0.75)):
        display(BranchEvent(name, EpochDone(1, {**WORST, "val_acc": accuracy}, True, 0.0, 0.0)))
    err = capsys.readouterr().err
    assert "x0  epoch 1/1  acc 75.0% (+25.0 against the control)" in err
    assert "x1  epoch 1/1  acc 75.0% (+50.0 against the control)" in err
    assert "x2  epoch 1/1  acc 75.0%  macro-F1 0.400  worst a 25.0%\n" in err


def changing() -> SweepDisplay:
    """A control and a branch that changes five classes, both after an epoch."""
    display = SweepDisplay()
    classes = tuple("fghij")
    display(started([PlannedBranch("c", True, 0, False), PlannedBranch("x", False, 0, False, classes)], epoch=1))
    for name, recall in (("c", 0.25), ("x", 0.5)):
        row = {**WORST, "val_acc": 0.5, **{f"recall_{c}": recall for c in classes}}
        display(BranchEvent(name, EpochDone(1, row, True, 0.0, 0.0)))
    return display


def test_the_table_has_macro_f1_and_the_changed_classes(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    display = changing()
    shown = "f 50.0% (+25.0), g 50.0% (+25.0), h 50.0% (+25.0), i 50.0% (+25.0) … 1 more"
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"macro-F1 0.400  worst a 25.0%  changed {shown}")
    control, branch = display._table().plain.splitlines()[-2:]
    assert (control.count("0.400"), control.count("(+")) == (1, 0)
    assert shown in branch
    for width in (60, 80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = display._table().plain.splitlines()
        assert max(map(len, lines)) <= width
        assert any(line.split()[:2] == ["x", "running"] for line in lines)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_sweep_that_is_stopped_leaves_its_last_table_and_says_how_many_are_done(capsys, monkeypatch, terminal):
    from raysweep.errors import Interrupted

    display = changing()
    display(BranchEvent("c", BranchEnded("finished")))
    capsys.readouterr()
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    with pytest.raises(Interrupted), display:
        raise Interrupted("Stopped by SIGINT", "SIGINT")
    err = capsys.readouterr().err
    lines = [line.split() for line in err.splitlines() if line]
    assert [words[:3] for words in lines if words[:1] in (["c"], ["x"])][-2:] == [
        ["c", "*", "done"],
        ["x", "running", "1/1"],
    ]
    assert err.endswith("1 of 2 branches done.\n")
    with display:
        pass
    assert "branches done." not in capsys.readouterr().err


def test_ten_thousand_branches_are_not_drawn_at_every_event(monkeypatch):
    few, many = sweep_of(10), sweep_of(10_000)
    now = [0.0]
    monkeypatch.setattr(sweep.time, "monotonic", lambda: now[0])
    for display in (few, many):
        display.live = live = Live()
        for i in range(1000):
            now[0] += 0.01
            display(BranchEvent(f"b{i % 10}", BranchStarted()))
        assert live.drawn <= (1000 if display is few else 4)


def test_the_table_of_ten_thousand_branches_shows_the_running_ones():
    display = sweep_of(10_000)
    for i in (17, 4321):
        display(BranchEvent(f"b{i}", BatchDone(2, 1, 2, 1.0, 1.0)))
    began = time.process_time()
    shown = display._shown()
    assert len(shown) == ROWS
    assert {"b17", "b4321"} <= {r.name for r in shown}
    display._table()
    assert time.process_time() - began < 2  # 0.1 s on a machine that is not busy


def test_what_is_said_of_the_images_is_shown_once(capsys):
    """A hunt plans a sweep each round, always on the same images."""
    display = SweepDisplay()
    for _ in range(3):
        display(Note("7 images are grey", once=True))
        display(BranchEvent("b1", Note("7 images are grey", once=True)))
        display(Note("a node left"))
    err = capsys.readouterr().err
    assert err.count("7 images are grey") == 1
    assert err.count("a node left") == 3


INEXACT = Note("not bit-exact: 2 threads instead of 1", inexact=True)


def test_a_reason_for_inexact_branches_is_printed_once_and_other_notes_every_time(capsys):
    display = sweep_of(3)
    for name in ("b0", "b1", "b2"):
        display(BranchEvent(name, INEXACT))
        display(BranchEvent(name, Note("a worker died")))
    display(BranchEvent("b2", Note("not bit-exact: CPU instead of GPU", inexact=True)))
    lines = capsys.readouterr().err.splitlines()[1:]
    assert [line for line in lines if "worker" in line] == [f"b{i}: a worker died" for i in range(3)]
    first, second = (line for line in lines if "worker" not in line)
    assert first.startswith("b0: not bit-exact: 2 threads instead of 1")
    assert second.startswith("b2: not bit-exact: CPU instead of GPU")


def test_a_reason_that_the_sweep_printed_is_not_repeated_for_its_branches(capsys):
    display = SweepDisplay()
    display(started([PlannedBranch("b", False, 0, False)], 2, INEXACT.text))
    display(BranchEvent("b", INEXACT))
    assert capsys.readouterr().err.count("not bit-exact") == 1


@pytest.mark.parametrize(
    ("file", "debug", "shown"), [("/s/b.txt", False, False), ("/s/b.txt", True, True), ("", False, True)]
)
def test_a_failure_names_the_file_with_its_traceback(capsys, monkeypatch, file, debug, shown):
    monkeypatch.setenv("RAYSWEEP_DEBUG", "1" if debug else "")
    display = sweep_of(1)
    trace = "Traceback (most recent call last):\n  in forward\nArithmeticError: unwell \x1b[31m\n"
    display(BranchEvent("b0", BranchEnded("failed", "ArithmeticError: unwell", trace, file)))
    err = capsys.readouterr().err
    assert "b0 failed: ArithmeticError: unwell" in err
    assert ("unwell (traceback: /s/b.txt)\n" in err) == bool(file)
    assert ("  in forward\nArithmeticError: unwell ·[31m\n" in err) == shown
    assert display.rows["b0"].status == "failed"
