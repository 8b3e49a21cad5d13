"""A sweep, and a k-fold sweep, as users of the Python interface hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep._text import counted, decimals, percent
from raysweep.api import pages
from raysweep.api.experiment import Experiment
from raysweep.api.given import Held, Reference
from raysweep.errors import RaysweepError
from raysweep.label_sets import MAP
from raysweep.report.card import MOST_ROWS, SOFT, Card, Cell, Shown, Table, left_out
from raysweep.store import experiment as experiments
from raysweep.store import layout, results, verdict_file
from raysweep.store.folds import Folds as StoredFolds
from raysweep.store.records_sweep import SweepRecord
from raysweep.store.sweep import Sweep as StoredSweep

if TYPE_CHECKING:
    import pandas as pd

    from raysweep.api.results import Comparison
    from raysweep.report.findings.selection import Winner

MOST_VERDICTS = 8  # sentences


class Sweep(Held, Shown):
    """Children of one checkpoint, each with another treatment, and the control. ``raysweep.branch`` and ``raysweep.get_sweep`` return it."""

    stored: StoredSweep

    @property
    def sweep(self) -> StoredSweep:
        """Its folder as the store sees it; what ``branch`` returned before had this name for it."""
        return self.stored

    @property
    def record(self) -> SweepRecord:
        """``sweep.json``: what was planned. Raises StoreError if it is missing or damaged."""
        return self.stored.record()

    @property
    def experiments(self) -> dict[str, Experiment]:
        """Branch → its experiment, of those that have begun; a branch with several seeds has one for each."""
        return {name: Experiment(e) for name, e in self.stored.experiments().items()}

    @property
    def failed(self) -> dict[str, str]:
        """Branch → why it failed."""
        lost = (experiments.FAILED, experiments.CRASHED)
        return {b.name: b.reason or "it ended without a message" for b in self.record.branches if b.status in lost}

    @cached_property
    def comparison(self) -> Comparison:
        """Every branch against its control, computed once for this object.

        Raises:
            NotFoundError: nothing to compare with. InputError: no branch is finished, or images differ.
        """
        from raysweep.api.results import Comparison
        from raysweep.report import comparison

        return Comparison.of_record(comparison.of_sweep(self.stored))

    @property
    def verdict(self) -> list[str]:
        """What may be said of the differences, in sentences."""
        return self.comparison.verdict

    @property
    def winner(self) -> Winner:
        """The branch with the largest gain over the control in what the grid's ``select`` names (macro-F1), as a share; ``gain`` as measured and
        ``corrected`` for having been chosen, NaN where no arm has two seeds.

        Raises:
            InputError: there is no finished control.
        """
        from raysweep.report import chosen

        return chosen.of_sweep(self.stored, self.comparison)[0]

    @property
    def best(self) -> Experiment:
        """An experiment of the winner; of the control, if no branch gained anything. Of several seeds it is that of the first, since to choose
        the luckiest seed would be no better network. That it was chosen does not show that it is better: see ``verdict``.

        Raises:
            InputError: there is no finished control.
        """
        won = self.winner
        arm = next(b.experiments for b in self.comparison.branches if b.name == won.branch)
        if won.gain <= 0:
            arm = [n.experiment.id for n in self.comparison.networks[""]]
        return next(e for e in self.experiments.values() if e.id == arm[0])

    def to_pandas(self) -> pd.DataFrame:
        """A row for each branch and seed, with the columns of ``results.csv``: ``branch``, ``seed``, ``status``, ``epoch``, ``val_acc``,
        ``val_acc_minus_control`` …, ``weight_CLASS``, ``recall_CLASS``. Shares are in [0, 1]; what is not known is NaN.

        Raises:
            StoreError: a file of the sweep cannot be read.
        """
        import pandas as pd

        return pd.DataFrame(results.rows_of(self.stored))

    def effects(self, metric: str | None = None, of_class: str | None = None) -> pd.DataFrame:
        """A row for each branch, class and metric, with the columns of ``effects.csv``: ``branch``, ``target`` (a class, or ``(all)``), ``metric``,
        ``reference``, ``value``, ``difference`` (shares), ``low``, ``high``, ``p``, ``q``, ``smallest``, ``label``, ``images``, ``times``, ``free``.

        Args:
            metric: only this one, such as ``learned``, ``recall``, ``f1`` or ``macro_f1``.
            of_class: only this class, or ``(all)``.

        Raises:
            InputError: no such metric or class, or what ``comparison`` raises.
        """
        return self.comparison.to_pandas(metric, of_class)

    def report(self, path: Reference | None = None) -> Path:
        """Write the self-contained HTML report, by default ``report.html`` in its folder; returns its path.

        Raises:
            InputError: ``path`` is a folder, or in a folder that is not there. StoreError: it cannot be written.
        """
        return pages.write_report(self, path)

    def card(self) -> Card:
        try:
            record, rows = self.record, results.rows_of(self.stored)
        except (RaysweepError, OSError) as error:
            return Card("Sweep", self.id, [f"in {self.folder}", str(error)])
        finished = [str(r["branch"]) for r in rows if r["status"] == experiments.FINISHED]
        facts = [f"{counted(len(rows), 'branch', 'branches')}, {len(finished):,} finished"]
        facts += [f"from {record.parent.reference}"] if record.parent else []
        facts += [f"in {self.folder}"]
        told = verdict_file.read(self.stored)
        sentences = told.sentences if told is not None else ()
        lines = [("", sentence) for sentence in sentences[:MOST_VERDICTS]]
        if (more := len(sentences) - MOST_VERDICTS) > 0:
            lines.append(("", f"… {more:,} more; .verdict has all."))
        if told is not None and set(told.branches) != set(finished):
            lines.append(("", f"The verdict was written when {len(told.branches):,} branches had finished."))
        return Card("Sweep", self.id, facts, [_table(rows)] if rows else [], lines)


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The last epoch of every branch; of many branches the first, and those with the largest macro-F1."""
    most = sorted(rows, key=lambda r: (not r["control"], -(r["val_macro_f1"] or 0.0)))[:MOST_ROWS]
    shown = [r for r in rows if any(r is m for m in most)]
    columns = [
        ("branch", "l"),
        ("status", "l"),
        ("accuracy", "r"),
        ("− control", "r"),
        ("macro-F1", "r"),
        ("− control", "r"),
        ("worst label" if any(MAP in r for r in rows) else "worst class", "l"),
    ]
    more = left_out(
        len(rows) - len(shown), "branch of smaller macro-F1", "branches of smaller macro-F1", ".to_pandas()"
    )
    return Table(columns, [_cells(r) for r in shown], more)


def _cells(row: Mapping[str, Any]) -> list[str | Cell]:
    def points(key: str) -> str:
        value = row.get(key)
        return "" if value is None or row["control"] else f"{100 * value:+.1f}"

    name = Cell(f"{row['branch']} (control)", SOFT) if row["control"] else str(row["branch"])
    accuracy, f1 = percent(row["val_acc"]), decimals(row["val_macro_f1"])
    return [
        name,
        str(row["status"]),
        accuracy,
        points("val_acc_minus_control"),
        f1,
        points("val_macro_f1_minus_control"),
        pages.worst(row),
    ]


class Folds(Held, Shown):
    """A k-fold sweep: for each fold a parent and a sweep of it. ``raysweep.continue_`` returns it."""

    stored: StoredFolds

    @property
    def sweeps(self) -> dict[int, Sweep]:
        """Fold → its sweep, of those that have begun."""
        folder = self.stored.root.path / layout.SWEEPS
        return {
            p.fold: Sweep(StoredSweep(folder / p.sweep, self.stored.root))
            for p in self.stored.record().parts
            if p.sweep
        }

    @cached_property
    def comparison(self) -> Comparison:
        """Every branch against its control over all folds, computed once for this object.

        Raises:
            NotFoundError: a fold's sweep is missing. InputError: no branch is finished in every fold.
        """
        from raysweep.api.results import Comparison
        from raysweep.report import folds

        return Comparison.of_record(folds.compare(self.stored))

    def effects(self, metric: str | None = None, of_class: str | None = None) -> pd.DataFrame:
        """As :meth:`Sweep.effects`, over all folds."""
        return self.comparison.to_pandas(metric, of_class)

    def card(self) -> Card:
        try:
            parts = self.stored.record().parts
        except RaysweepError as error:
            return Card("K-fold sweep", self.id, [f"in {self.folder}", str(error)])
        rows = [[str(p.fold), p.parent or "", p.sweep or ""] for p in parts]
        columns = [("fold", "r"), ("parent", "l"), ("sweep", "l")]
        return Card("K-fold sweep", self.id, [counted(len(parts), "fold"), f"in {self.folder}"], [Table(columns, rows)])
