"""In a notebook what runs has one output, in which a bar moves and the curves stay; elsewhere nothing changes."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from raysweep.events import (
    BatchDone,
    BranchEnded,
    BranchEvent,
    BranchStarted,
    EpochDone,
    ExperimentStarted,
    Loading,
    Note,
    PlannedBranch,
    SweepEnded,
    SweepStarted,
    TrainingStarted,
)
from tests.report.making import made, sweep_of

ROW = {
    "train_loss": 1.0, "val_loss": 1.1, "val_acc": 0.5, "val_macro_f1": 0.4, "worst_class": "<i>b</i>", "worst_recall": 0.1, "lr": 0.01,
    "images_per_second": 100.0, "recall_a": 0.7,
}  # fmt: skip


class Cell:
    """The outputs of a cell, as a notebook's front end has them."""

    def __init__(self) -> None:
        self.outputs: list[str] = []
        self.drawings = 0

    def display(self, html: SimpleNamespace, display_id: bool) -> SimpleNamespace:
        assert display_id
        self.outputs.append(html.data)
        self.drawings += 1
        place = len(self.outputs) - 1

        def update(html: SimpleNamespace) -> None:
            self.outputs[place] = html.data
            self.drawings += 1

        return SimpleNamespace(update=update)


@pytest.fixture
def cell(monkeypatch):
    """Pretends that this process is the kernel of a notebook, whose clock is always far enough."""
    from raysweep.display import notebook

    made, front = Cell(), ModuleType("IPython")
    front.get_ipython = lambda: SimpleNamespace(kernel=object())
    front.version_info = (9, 0)  # matplotlib asks for it
    front.display = ModuleType("IPython.display")
    front.display.HTML = lambda data: SimpleNamespace(data=data)
    front.display.display = made.display
    monkeypatch.setitem(sys.modules, "IPython", front)
    monkeypatch.setitem(sys.modules, "IPython.display", front.display)
    monkeypatch.setattr(notebook, "PAUSE_S", 0.0)
    return made


def test_a_run_is_one_bar_and_then_its_curves(cell, tmp_path, capsys):
    from raysweep.display import notebook

    experiment = made(tmp_path / "e", "x", ("a", "b"), (0.4, 0.8), images=(30, 30))
    with notebook.display(sweep=False) as shown:
        shown(Loading())
        assert "loading torch" in cell.outputs[0]
        shown(Note("the images <b>are</b> odd"))
        shown(ExperimentStarted(experiment.id, str(experiment.folder), 0))
        shown(TrainingStarted(2))
        shown(BatchDone(1, 3, 12, 0.7, 1000.0))
        (html,) = cell.outputs
        assert '<progress value="0.250"' in html
        assert "epoch 1/2" in html
        assert "the images &lt;b&gt;are&lt;/b&gt; odd" in html
        assert "<svg" not in html
        shown(EpochDone(1, ROW, True, 0.1, 0.0))
    (html,) = cell.outputs
    assert "<progress" not in html
    assert html.count("<svg") == 4  # macro-F1, accuracy and the F1 of two classes
    assert experiment.id in html
    assert "epoch  1/2" in html
    assert "worst &lt;i&gt;b&lt;/i&gt; 10.0%" in html
    assert capsys.readouterr() == ("", "")


def test_a_sweep_is_one_bar_a_table_and_then_the_curves_of_its_arms(cell, tmp_path, capsys):
    from raysweep.display import notebook

    sweep = sweep_of(tmp_path / "e", ("a", "b"), (0.4, 0.8), {"a5": ({"a": 5.0}, (0.9, 0.7))}, images=(30, 30))
    branches = sweep.experiments()
    planned = tuple(
        PlannedBranch(n, n.startswith("control"), int(n[-1]), False, ("a",), n.removesuffix(f"-seed{n[-1]}"))
        for n in branches
    )
    with notebook.display(sweep=True) as shown:
        shown(SweepStarted(sweep.id, planned, 3, 4, 2, "", ("not <i>exact</i>",)))
        for name, experiment in branches.items():
            shown(BranchEvent(name, BranchStarted()))
            shown(BranchEvent(name, ExperimentStarted(experiment.id, str(experiment.folder), 0)))
            shown(BranchEvent(name, EpochDone(3, ROW, True, 0.1, 0.0)))
        (html,) = cell.outputs
        assert '<progress value="0.500"' in html
        assert "0 of 4 branches" in html
        assert "a 70.0% (+0.0)" in html
        assert "not &lt;i&gt;exact&lt;/i&gt;" in html
        for name in branches:
            shown(BranchEvent(name, BranchEnded("finished")))
        shown(SweepEnded())
    (html,) = cell.outputs
    assert html.count("<svg") == 4
    assert html.count('class="legend"') == 1
    assert [name for name in ("control", "a5") if f"</i>{name}</span>" in html] == ["control", "a5"]
    assert capsys.readouterr() == ("", "")


def test_what_fails_leaves_what_there_is(cell):
    from raysweep.display import notebook
    from raysweep.errors import Interrupted

    def stopped() -> None:
        with notebook.display(sweep=True) as shown:
            shown(SweepStarted("s", (PlannedBranch("a", False, 0, False),), 1, 2, 1, "", ()))
            raise Interrupted("Stopped by SIGINT.")

    with pytest.raises(Interrupted):
        stopped()
    assert "Ended by Interrupted." in cell.outputs[0]
    assert "0 of 1 branch" not in cell.outputs[0]  # the bar is gone
    with pytest.raises(ZeroDivisionError), notebook.display(sweep=False) as shown:
        shown(1 / 0)
    assert "Ended by ZeroDivisionError." in cell.outputs[1]


def test_it_draws_a_few_times_a_second_at_most(cell, monkeypatch):
    from raysweep.display import notebook

    now = [100.0]
    monkeypatch.setattr(notebook, "PAUSE_S", 0.25)
    monkeypatch.setattr(notebook.time, "monotonic", lambda: now[0])
    with notebook.display(sweep=False) as shown:
        for i in range(90):
            now[0] += 0.01
            shown(BatchDone(1, i, 2000, 0.5, 100.0))
        assert cell.drawings == 1 + 3
    assert cell.drawings == 5


def test_of_many_lines_the_latest_are_shown(cell):
    from raysweep.display import notebook

    with notebook.display(sweep=False) as shown:
        for i in range(20):
            shown(Note(f"line {i}"))
    assert "… 12 earlier lines" in cell.outputs[0]
    assert "line 11<" not in cell.outputs[0]
    assert "line 12<" in cell.outputs[0]
    assert "line 19<" in cell.outputs[0]


@pytest.mark.parametrize("sweep", [False, True])
def test_outside_a_notebook_there_are_lines(sweep, capsys, monkeypatch):
    from raysweep.display import notebook

    class Terminal:  # IPython in a terminal has a shell, and no kernel
        @staticmethod
        def get_ipython():
            return SimpleNamespace()

    for module in (None, Terminal):
        monkeypatch.delitem(sys.modules, "IPython", raising=False)
        if module is not None:
            monkeypatch.setitem(sys.modules, "IPython", module)
        with notebook.display(sweep) as shown:
            shown(Note("a line"))
        assert capsys.readouterr().err == "a line\n"
