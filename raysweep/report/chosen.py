"""Which branch of a sweep is chosen: by what the grid's ``select`` names."""

from __future__ import annotations

from raysweep.errors import InputError
from raysweep.report import evaluated
from raysweep.report.comparison import Comparison
from raysweep.report.findings.selection import Winner
from raysweep.store import layout
from raysweep.store.commands import command
from raysweep.store.sweep import Sweep


def of_sweep(sweep: Sweep, found: Comparison) -> tuple[Winner, str, float]:
    """(the winner; the metric by which it was chosen; how much of its gain on other images is luck of its seeds, in the mean).

    Raises:
        InputError: there is no finished control.
    """
    if evaluated.NO_CONTROL in found.notes or found.findings is None:
        raise InputError(
            f"{sweep.id} has no finished control, so nobody can say what its branches gained. Finish it: "
            f"`{command(sweep.root, 'continue', sweep.id)}`, or evaluate one of its experiments."
        )
    known = [*found.findings.gains]
    metric = sweep.record().grid.get("select") or known[0]
    if metric not in known:
        raise InputError(f"{sweep.folder / layout.SWEEP} selects by {metric!r}; known are {', '.join(known)}.")
    return found.findings.chosen(metric), metric, found.findings.luck(metric)
