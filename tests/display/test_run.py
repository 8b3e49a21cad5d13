"""The live line of a run says what happens now, and what stays on the screen is true later, too."""

from __future__ import annotations

import pytest

from raysweep.display.run import RunDisplay
from raysweep.display.sweep import SweepDisplay
from raysweep.events import (
    BatchDone,
    BranchEvent,
    Building,
    Decoding,
    EpochDone,
    ExperimentStarted,
    PlannedBranch,
    SweepEnded,
    SweepStarted,
    TrainingStarted,
)

ROW = {
    "train_loss": 1.0, "val_loss": 1.0, "val_acc": 0.5, "val_macro_f1": 0.4, "worst_class": "a", "worst_recall": 0.25,
    "images_per_second": 100.0, "lr": 0.0005,
}  # fmt: skip


class Live:
    """Keeps what the live line shows, and nothing of what is printed."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def add_task(self, title, **fields):
        return 0

    def update(self, task, *, description, completed, total, text):
        self.shown.append(f"{description} {text}".strip())


def test_the_live_line_names_what_happens(monkeypatch):
    display = RunDisplay()
    display.live = live = Live()
    monkeypatch.setattr(display, "_line", lambda text: None)
    events = (Decoding(3, 3), Building(), ExperimentStarted("e", "e", 0), TrainingStarted(1))
    for event in (*events, BatchDone(1, 14, 15, 1.0, 1.0), BatchDone(1, 15, 15, 1.0, 1.0)):
        display(event)
    decoding, building, preparing, training, validating = live.shown
    assert (decoding, building, preparing) == (
        "decoding images, once 3 of 3", "building the model", "preparing the training",
    )  # fmt: skip
    assert training.startswith("epoch 1/1 batch 14/15")
    assert validating == "epoch 1/1 validating and saving"


@pytest.mark.parametrize(
    ("width", "lacks"), [(80, []), (60, ["img/s"]), (40, ["loss", "img/s"]), (30, ["batch", "loss", "img/s"])]
)
def test_the_live_line_fits_the_terminal(monkeypatch, width, lacks):
    monkeypatch.setenv("COLUMNS", str(width))
    display = RunDisplay()
    display.live, display.last_epoch, display.epoch_seconds = Live(), 12, [120.0]
    display(BatchDone(11, 1414, 1500, 1.234, 12345.0))
    (line,) = display.live.shown
    assert len(line) <= width
    assert [word for word in ("batch", "loss", "img/s", "left") if word not in line] == lacks


def test_a_finished_line_says_nothing_that_ends_later(capsys):
    display = RunDisplay()
    display(TrainingStarted(9))
    display(EpochDone(1, ROW, True, 0.0, 0.0))
    err = capsys.readouterr().err
    assert "epoch  1/9  loss 1.000" in err
    assert "left" not in err


def test_a_branch_that_validates_and_a_sweep_that_compares_say_so():
    display = SweepDisplay()
    display(SweepStarted("s", (PlannedBranch("b", False, 0, False),), 1, 2, at_once=1, queue="", notes=()))
    display(BranchEvent("b", BatchDone(1, 1, 2, 1.0, 1.0)))
    assert display.rows["b"].status == "running"
    display(BranchEvent("b", BatchDone(1, 2, 2, 1.0, 1.0)))
    assert display.rows["b"].status == "validating"
    assert display._shown()[0].name == "b"
    display(BranchEvent("b", EpochDone(1, ROW, True, 0.0, 0.0)))
    assert display.rows["b"].status == "running"
    display(SweepEnded())
    assert "1 branch " in display._table().plain
    assert "comparing" in display._table().plain


def test_a_sweep_that_builds_its_model_does_not_say_that_it_decodes():
    display = SweepDisplay()
    display(Decoding(3, 3))
    display(Building())
    assert "building the model" in display._table().plain


@pytest.mark.parametrize(("number", "text"), [(0, "0 epochs"), (1, "1 epoch"), (1200, "1,200 epochs")])
def test_one_is_not_many(number, text):
    from raysweep._text import counted

    assert counted(number, "epoch") == text
