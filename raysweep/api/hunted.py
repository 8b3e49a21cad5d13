"""A hunt, as users of the Python interface hold it."""

from __future__ import annotations

from raysweep._text import counted
from raysweep.api.experiment import Experiment
from raysweep.api.given import Held
from raysweep.api.sweep import Sweep
from raysweep.errors import RaysweepError
from raysweep.report.card import Card, Shown, Table
from raysweep.store.hunts import Hunt as StoredHunt
from raysweep.store.hunts import HuntRecord


class Hunt(Held, Shown):
    """Rounds of sweeps from one checkpoint, and new seeds of the winner at the end. ``raysweep.hunt`` and ``raysweep.continue_`` return it."""

    stored: StoredHunt

    @property
    def record(self) -> HuntRecord:
        """``hunt.json``. Raises StoreError if it is missing or damaged."""
        return self.stored.record()

    @property
    def sweeps(self) -> dict[int, Sweep]:
        """Round → its sweep, of those that have begun."""
        known = {r.number: self.stored.sweep(r.number) for r in self.record.rounds}
        return {number: Sweep(sweep) for number, sweep in known.items() if sweep is not None}

    @property
    def steps(self) -> dict[str, Experiment]:
        """What was trained beside the sweeps, such as ``winner/SEED/ROUND`` → its experiment."""
        known = {key: self.stored.step(key) for key in self.record.steps}
        return {key: Experiment(experiment) for key, experiment in known.items() if experiment is not None}

    @property
    def found(self) -> bool | None:
        """Whether the winner is shown to be better than the control on the sealed test images; None before the end."""
        from raysweep.config.grid import CONTROL

        record = self.record
        if "evaluation" in record.end:
            return bool(record.end["found"])
        nothing = len(record.rounds) >= record.planned and all(r.survivor == CONTROL for r in record.rounds)
        return False if nothing else None

    @property
    def page(self) -> str:
        """The page at its end, as Markdown (``hunt.md``; ``hunt.html`` lies beside it); an empty text before."""
        return self.stored.page()

    def card(self) -> Card:
        try:
            record = self.record
        except RaysweepError as error:
            return Card("Hunt", self.id, [f"in {self.folder}", str(error)])
        rows = [[str(r.number), r.start, r.sweep or "", r.survivor or ""] for r in record.rounds]
        columns = [("round", "r"), ("from", "l"), ("sweep", "l"), ("goes on", "l")]
        facts = [f"{counted(len(record.rounds), 'round')} of {record.planned}", f"from {record.parent.reference}"]
        lines = [("", line) for line in self.page.split("\n\n")[1:2]]
        return Card("Hunt", self.id, [*facts, f"in {self.folder}"], [Table(columns, list(rows))], lines)
