"""What runs in a notebook shows itself in the output of its cell: one bar that moves, and the learning curves at the end."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from raysweep._text import counted, hide_credentials, plain
from raysweep.display.base import Display
from raysweep.display.run import RunDisplay
from raysweep.display.sweep import COLUMNS, SweepDisplay
from raysweep.events import BranchEvent, Event, ExperimentStarted, Progress, SweepStarted, opened
from raysweep.report.card import Bar, Card, Table
from raysweep.store.experiment import Experiment

PAUSE_S = 0.25  # between two drawings
MOST_LINES = 8  # the latest are shown
MOST_CHARTS = 8  # of classes


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


@contextlib.contextmanager
def display(sweep: bool) -> Iterator[Progress]:
    """Whom to tell what happens: in a notebook the cell's output, elsewhere stderr."""
    if not in_notebook():
        yield SweepDisplay() if sweep else RunDisplay()
        return
    _no_talk_of_widgets()
    with NotebookSweep() if sweep else NotebookRun() as shown:
        yield shown


def _no_talk_of_widgets() -> None:
    """Ray, and a library that it loads, look for the widgets of notebooks, and would tell in every cell that they are missing."""
    logging.getLogger("ray.widgets").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="IProgress not found")


class _Output:
    """One output of a cell, which is replaced by the next drawing."""

    def __init__(self) -> None:
        self.handle: Any = None
        self.drawn = 0.0

    def draw(self, card: Card) -> None:
        from IPython.display import HTML
        from IPython.display import display as show

        self.drawn = time.monotonic()
        if self.handle is None:
            self.handle = show(HTML(card.html()), display_id=True)
        else:
            self.handle.update(HTML(card.html()))

    def is_due(self) -> bool:
        return time.monotonic() - self.drawn >= PAUSE_S

    def stop(self) -> None:
        """Nothing is left of it to be removed."""


class _Notebook(Display):
    """What both displays have in common: they draw cards instead of lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.members: dict[str, list[Experiment]] = {}  # arm → its experiments
        self.control: str | None = None  # the arm

    def __enter__(self) -> Self:
        self.live = _Output()
        self.redraw(True)
        return self

    def __exit__(self, *exc: object) -> None:
        if self.live is not None:
            self.live.draw(self.last_card(exc[1]))
            self.live = None

    def _line(self, text: str) -> None:
        self.lines.append(hide_credentials(plain(text)))
        self.redraw()

    def redraw(self, now: bool = False) -> None:
        """Draw what is known by now, unless the last drawing was a moment ago."""
        if self.live is not None and (now or self.live.is_due()):
            self.live.draw(self.card())

    @abstractmethod
    def card(self) -> Card:
        """What is shown while it runs."""

    def shown_lines(self) -> list[tuple[str, str]]:
        """The latest lines."""
        more = len(self.lines) - MOST_LINES
        return [("", f"… {counted(more, 'earlier line')}")] * (more > 0) + [("", t) for t in self.lines[-MOST_LINES:]]

    def last_card(self, error: object) -> Card:
        """What stays: the curves, and the latest lines."""
        from dataclasses import replace

        from raysweep.report.sections.learning_curves import curves
        from raysweep.report.sections.records import Group

        groups = [Group(name, every, name == self.control) for name, every in self.members.items()]
        found = curves(groups, f"cell-{time.monotonic_ns()}", MOST_CHARTS)
        legend = [(e.name, e.colour, e.dash) for e in found.legend] if len(groups) > 1 else []
        lines = [*self.shown_lines(), *(("", n) for n in found.notes)]
        if error is not None:
            lines.append(("worse", f"Ended by {type(error).__name__}."))
        return replace(
            self.card(), bar=None, lines=lines, charts=[(p.title, p.svg) for p in found.panels], legend=legend
        )


class NotebookRun(_Notebook, RunDisplay):
    """One training."""

    def __init__(self) -> None:
        super().__init__()
        self.bar = Bar(None, "preparing")
        self.id = ""

    def _bar(self, title: str, done: float | None, total: float | None, text: str = "") -> None:
        self.bar = Bar(done / total if done is not None and total else None, f"{title}  {text}".strip())
        self.redraw()

    def __call__(self, event: Event) -> None:
        if isinstance(event, ExperimentStarted):
            self.id = event.id
            self.members = {event.id: [Experiment(Path(event.folder))]}
            self.control = event.id  # drawn in the colour of the text
        super().__call__(event)

    def card(self) -> Card:
        return Card("Experiment" if self.id else "", self.id or "raysweep", bar=self.bar, lines=self.shown_lines())


class NotebookSweep(_Notebook, SweepDisplay):
    """A sweep: the bar tells of all branches, the table of each."""

    def __init__(self) -> None:
        super().__init__()
        self.id = ""
        self.arms: dict[str, str] = {}  # branch → its arm

    def __call__(self, event: Event) -> None:
        branch, inner = opened(event)
        if isinstance(event, SweepStarted):
            self.id = event.id
            self.arms = {b.name: b.arm or b.name for b in event.branches}
            self.control = next((self.arms[b.name] for b in event.branches if b.control), None)
        elif isinstance(event, BranchEvent) and isinstance(inner, ExperimentStarted):
            arm = self.members.setdefault(self.arms.get(str(branch), str(branch)), [])
            arm.append(Experiment(Path(inner.folder)))
        super().__call__(event)

    def _draw(self, now: bool) -> None:
        self.redraw()

    def card(self) -> Card:
        if not self.rows:
            return Card("", "raysweep", bar=Bar(None, f"{self.hint} …"), lines=self.shown_lines())
        table = Table(list(COLUMNS), [self._cells(r) for r in self._shown()])
        return Card("Sweep", self.id, self._facts(), [table], self.shown_lines(), bar=Bar(self.share(), self.title()))

    def _facts(self) -> Sequence[str]:
        hidden = len(self.rows) - len(self._shown())
        return [f"{counted(hidden, 'more branch', 'more branches')} are not in the table"] if hidden > 0 else []
