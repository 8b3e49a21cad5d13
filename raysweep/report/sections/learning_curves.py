"""Learning curves: one chart for macro-F1, accuracy and the F1 of each class, with a line for every network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raysweep.errors import StoreError
from raysweep.label_sets import MAP
from raysweep.report.history import History, epochs_of, read_history
from raysweep.report.sections import chart
from raysweep.report.sections.records import Curves, Group, LegendEntry, Panel
from raysweep.store.experiment import Experiment

MOST_PANELS = 12  # classes with a chart
MOST_BYTES = 900_000  # of all charts together, about, so that the page can be sent
_LINE, _POINT = 500, 75  # bytes of a line, and of each of its points
DASHES = {"-": "solid", "--": "dashed", ":": "dotted"}  # matplotlib → CSS


@dataclass(frozen=True, slots=True)
class Network:
    """What the charts show of one experiment. ``style``: the number of its branch; None for the control. ``fork``: the last epoch of its
    parent."""

    history: History
    epochs: Sequence[int]
    style: int | None
    fork: int | None

    def line(self, column: str) -> chart.Line:
        return chart.Line(self.epochs, self.history.get(column, []), self.style, self.fork)


def curves(groups: Sequence[Group], page: str, most_panels: int | None = None) -> Curves:
    """The charts and their legend; empty if no experiment has a history.

    Args:
        page: the page's title, which makes the ids within its charts unique.
        most_panels: classes with a chart, at most; default: 12.
    """
    numbers = styles(groups)
    of_groups = {g.name: [n for e in g.members if (n := network(e, numbers[g.name])) is not None] for g in groups}
    shown = fitting(of_groups)
    known = [n for name in shown for n in of_groups[name]]
    if not known:
        return Curves()
    classes = [c.removeprefix("f1_") for c in known[0].history if c.startswith("f1_")]
    legend = [LegendEntry(name, chart.colour(s), DASHES[chart.dash(s)]) for name, s in numbers.items() if name in shown]
    most = min(most_panels or MOST_PANELS, MOST_BYTES // _size(known) - 2)  # macro-F1 and accuracy come first
    notes = []
    if len(shown) < len(groups):
        notes.append(f"Learning curves are shown of the first {len(shown)} of {len(groups)} branches.")
    if len(classes) > most:
        notes.append(
            f"Learning curves are shown for {f'the first {most}' if most > 0 else 'none'} of {len(classes)} classes."
        )
    return Curves(legend, _panels(known, classes[: max(0, most)], page), notes)


def _size(networks: Sequence[Network]) -> int:
    """About how many bytes a chart of these networks takes."""
    return sum(_LINE + _POINT * len(n.epochs) for n in networks)


def fitting(groups: Mapping[str, Sequence[Network]]) -> list[str]:
    """The first groups, as many as two charts have room for; one at least."""
    names = list(groups)
    for most in range(len(names), 1, -1):
        if 2 * _size([n for name in names[:most] for n in groups[name]]) <= MOST_BYTES:
            return names[:most]
    return names[:1]


def _panels(networks: Sequence[Network], classes: Sequence[str], page: str) -> list[Panel]:
    columns = [("macro-F1", "val_macro_f1"), ("accuracy", "val_acc"), *((f"F1 of {c}", f"f1_{c}") for c in classes)]
    if any(f"ap_{c}" in n.history for n in networks for c in classes):  # several labels for an image
        columns = [(MAP, MAP), *columns[:2], *((f"AP of {c}", f"ap_{c}") for c in classes)]
    panels = []
    for number, (title, column) in enumerate(columns):
        lines = [n.line(column) for n in networks]
        if any(v is not None for line in lines for v in line.values):
            panels.append(Panel(title, chart.svg(lines, f"{page}-{number}")))
    return panels


def styles(groups: Sequence[Group]) -> dict[str, int | None]:
    """The style of each branch's lines, counted from 0; None for the control."""
    numbers: dict[str, int | None] = {}
    for group in groups:
        numbers[group.name] = None if group.control else sum(s is not None for s in numbers.values())
    return numbers


def network(experiment: Experiment, style: int | None) -> Network | None:
    """None if the experiment has no history that can be read."""
    try:
        history = read_history(experiment)
    except StoreError:
        return None
    return Network(history, epochs_of(history), style, experiment.config().fork or None)
