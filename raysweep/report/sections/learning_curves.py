"""Learning curves: one chart for macro-F1, accuracy and the F1 of each class, with a line for every network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raysweep.errors import StoreError
from raysweep.report.history import History, epochs_of, read_history
from raysweep.report.sections import chart
from raysweep.report.sections.records import Curves, Group, LegendEntry, Panel
from raysweep.store.experiment import Experiment

MOST_PANELS = 12  # classes with a chart
_DASHES = {"-": "solid", "--": "dashed", ":": "dotted"}  # matplotlib → CSS


@dataclass(frozen=True, slots=True)
class _Network:
    """What the charts show of one experiment."""

    history: History
    epochs: Sequence[int]
    style: int | None
    fork: int | None

    def line(self, column: str) -> chart.Line:
        return chart.Line(self.epochs, self.history.get(column, []), self.style, self.fork)


def curves(groups: Sequence[Group], page: str) -> Curves:
    """The charts and their legend; empty if no experiment has a history.

    Args:
        page: the page's title, which makes the ids within its charts unique.
    """
    styles = _styles(groups)
    networks = [_network(e, styles[group.name]) for group in groups for e in group.members]
    known = [n for n in networks if n is not None]
    if not known:
        return Curves()
    classes = [c.removeprefix("f1_") for c in known[0].history if c.startswith("f1_")]
    legend = [LegendEntry(name, chart.colour(s), _DASHES[chart.dash(s)]) for name, s in styles.items()]
    notes = [f"Learning curves are shown for the first {MOST_PANELS} of {len(classes)} classes."]
    return Curves(legend, _panels(known, classes[:MOST_PANELS], page), notes if len(classes) > MOST_PANELS else ())


def _panels(networks: Sequence[_Network], classes: Sequence[str], page: str) -> list[Panel]:
    columns = [("macro-F1", "val_macro_f1"), ("accuracy", "val_acc"), *((f"F1 of {c}", f"f1_{c}") for c in classes)]
    panels = []
    for number, (title, column) in enumerate(columns):
        lines = [n.line(column) for n in networks]
        if any(v is not None for line in lines for v in line.values):
            panels.append(Panel(title, chart.svg(lines, f"{page}-{number}")))
    return panels


def _styles(groups: Sequence[Group]) -> dict[str, int | None]:
    """The style of each branch's lines, counted from 0; None for the control."""
    styles: dict[str, int | None] = {}
    for group in groups:
        styles[group.name] = None if group.control else sum(s is not None for s in styles.values())
    return styles


def _network(experiment: Experiment, style: int | None) -> _Network | None:
    try:
        history = read_history(experiment)
    except StoreError:
        return None
    return _Network(history, epochs_of(history), style, experiment.config().fork or None)
