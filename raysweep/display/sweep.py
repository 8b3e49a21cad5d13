"""Shows a running sweep: a live table of its branches on a terminal, a line per branch and epoch elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from raysweep._text import counted, plain
from raysweep.cluster import signals
from raysweep.display.base import Display
from raysweep.display.terminal import debugging, duration, percent, say
from raysweep.events import (
    BatchDone,
    BranchEnded,
    BranchEvent,
    BranchStarted,
    Building,
    Connecting,
    Decoding,
    EpochDone,
    Event,
    Loading,
    Note,
    SweepEnded,
    SweepStarted,
    TrainingStarted,
)

ROWS = 30  # the table shows at most this many branches: the running ones, then the latest to change


@dataclass
class Row:
    """One branch as the table shows it."""

    name: str
    control: bool = False
    seed: int | None = None
    status: str = "waiting"
    reference: str | None = None  # the arm that it is compared with; None: the control
    epoch: int = 0
    batch: float = 0.0  # fraction of the running epoch that is done
    accuracy: float | None = None
    worst: str = ""
    touched: float = 0.0
    by_epoch: dict[int, float] = field(default_factory=dict)
    last_epoch: int | None = None  # its own, where the training has begun


class SweepDisplay(Display):
    """Shows a sweep: a table of its branches; a star marks the control."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, Row] = {}
        self.controls: dict[tuple[str | None, int | None], Row] = {}  # by arm (None: the control) and seed
        self.first_epoch: int | None = None
        self.last_epoch: int | None = None
        self.inexact: set[str] = set()  # reasons why branches are not bit-exact that were printed
        self.drawn = 0.0
        self.hint = "starting Ray"
        self.rates: tuple[float, float] | None = None  # the learning rate at the fork and at the end
        self.comparing = False  # whether all branches have ended

    def _make_live(self, console: Any) -> Any:
        from rich.live import Live

        return Live(self._table(), console=console, auto_refresh=False, transient=True)

    def __call__(self, event: Event) -> None:
        signals.check()
        match event:
            case BranchEvent(branch, inner):
                self._branch(branch, inner)
                self._draw(not isinstance(inner, BatchDone))
            case _:
                self._outside(event)
                self._draw(True)

    # --- before the branches -------------------------------------------------------------------------------------

    def _outside(self, event: Event) -> None:
        match event:
            case Loading():
                self.hint = "reading the checkpoint"
            case Decoding(done, total):
                self.hint = f"decoding images, once: {done:,} of {total:,}"
            case Building():
                self.hint = "building the model"
            case SweepEnded():
                self.comparing = True
            case Connecting(address):
                self.hint = f"connecting to {address}" if address else "starting Ray"
                self._line(f"Connecting to {address} …" if address else "Starting a local Ray cluster …")
            case SweepStarted():
                self._sweep(event)
            case _:
                super().__call__(event)

    def _sweep(self, event: SweepStarted) -> None:
        self.rows.clear()  # of a k-fold sweep: those of the fold before
        self.controls.clear()
        self.first_epoch, self.last_epoch = event.first_epoch, event.last_epoch
        self.rates = event.rates
        for b in event.branches:
            status = "done" if b.finished else "waiting"
            row = self.rows.setdefault(b.name, Row(b.name, b.control, b.seed, status, b.reference))
            if b.control or b.arm is not None:
                self.controls.setdefault((None if b.control else b.arm, row.seed), row)
        queue = f" {event.queue}" if event.queue else ""
        self._line(
            f"Sweep {plain(event.id)}: {counted(len(event.branches), 'branch', 'branches')}, {event.at_once:,} at a time{queue}"
        )
        for note in event.notes:
            self._line(f"  {plain(note)}")
        self.inexact.update(event.notes)

    # --- the branches --------------------------------------------------------------------------------------------

    def _branch(self, branch: str, event: Event) -> None:
        match event:
            case BranchStarted():
                self._row(branch).status = "starting"
            case TrainingStarted(last_epoch):
                self._row(branch).last_epoch = last_epoch
            case BatchDone():
                row = self._row(branch)
                row.status = "running" if event.batch < event.batches else "validating"
                row.epoch, row.batch = event.epoch, event.batch / event.batches
            case EpochDone():
                self._epoch(self._row(branch), event)
            case BranchEnded():
                self._ended(self._row(branch), event)
            case Note(text, inexact=True):
                if text not in self.inexact:  # ten thousand branches may have the same reason
                    self.inexact.add(text)
                    self._line(
                        f"{plain(branch)}: {plain(text)} (printed for the first such branch only; the log of each branch has it)"
                    )
            case Note(text):
                self._line(f"{plain(branch)}: {plain(text)}")
            case _:
                self._outside(event)

    def _row(self, branch: str) -> Row:
        row = self.rows.setdefault(branch, Row(branch))
        row.touched = time.monotonic()
        return row

    def _epoch(self, row: Row, event: EpochDone) -> None:
        values = event.row
        if event.epoch >= row.epoch:  # the event comes when the epoch is saved; the next one may have begun
            row.epoch, row.batch = event.epoch, 1.0
            row.status = "running"
        row.accuracy = values["val_acc"]
        row.by_epoch[event.epoch] = values["val_acc"]
        row.worst = f"{values['worst_class']} {percent(values['worst_recall'])}"
        if self.live is None:
            against = self._against(row)
            say(
                f"{plain(row.name)}  epoch {event.epoch}/{row.last_epoch or self.last_epoch or '?'}  acc {percent(row.accuracy)}"
                f"{f' ({against} against the control)' if against else ''}  worst {plain(row.worst)}"
            )

    def _ended(self, row: Row, event: BranchEnded) -> None:
        row.status = "done" if event.status == "finished" else event.status
        if event.status == "failed":
            where = f" (traceback: {event.traceback_file})" if event.traceback_file else ""
            self._line(f"{plain(row.name)} failed: {plain(event.reason)}{plain(where)}")
            if event.traceback and (debugging() or not where):  # if there is no file, this is the only copy
                self._line("\n".join(map(plain, event.traceback.rstrip().split("\n"))))

    def _against(self, row: Row) -> str:
        """The difference in accuracy from the control of the same seed and settings, at the newest epoch that both have finished."""
        control = self.controls.get((row.reference, row.seed))
        if control is None or control is row:
            return ""
        both = set(control.by_epoch) & set(row.by_epoch)
        return f"{100 * (row.by_epoch[max(both)] - control.by_epoch[max(both)]):+.1f}" if both else ""

    # --- the table -----------------------------------------------------------------------------------------------

    def _draw(self, now: bool) -> None:
        # To draw ten thousand rows takes a while: the more rows there are, the less often they are drawn.
        pause = max(0.25, len(self.rows) / 4000)
        if self.live is not None and ((now and len(self.rows) <= 10 * ROWS) or time.monotonic() - self.drawn > pause):
            self.drawn = time.monotonic()
            self.live.update(self._table(), refresh=True)

    def _table(self) -> Any:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        if not self.rows:
            return Text(f"{self.hint} …  {duration(time.monotonic() - self.started)}")
        done = sum(r.status in ("done", "failed", "interrupted") for r in self.rows.values())
        title = f"{done} of {counted(len(self.rows), 'branch', 'branches')}  {duration(time.monotonic() - self.started)}  {'comparing them' if self.comparing else self._left()}"
        if self.rates is not None:
            title += f"  learning rate {self.rates[0]:.2g} → {self.rates[1]:.2g}"
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for name in ("branch", "status"):
            table.add_column(name, overflow="fold")
        for name in ("epoch", "accuracy", "− control"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("worst class", overflow="fold")
        for row in self._shown():
            table.add_row(*(Text(c) for c in self._cells(row)))
        return table

    def _shown(self) -> list[Row]:
        rows = list(self.rows.values())
        if len(rows) <= ROWS:
            return rows
        keep = sorted(
            rows, key=lambda r: (r.status not in ("running", "validating", "starting"), not r.control, -r.touched)
        )[:ROWS]
        shown = {r.name for r in keep}
        return [r for r in rows if r.name in shown]

    def _cells(self, row: Row) -> list[str]:
        epoch = "" if not row.epoch else f"{row.epoch}/{row.last_epoch or self.last_epoch or '?'}"
        if row.status == "running" and row.batch < 1:
            epoch += f" {row.batch:>4.0%}"
        name = plain(row.name) if not row.control else f"{plain(row.name)} *"
        return [name, row.status, epoch, percent(row.accuracy), self._against(row), plain(row.worst)]

    def _left(self) -> str:
        """Time left, estimated from the fraction of all epochs that is done."""
        first, last = self.first_epoch, self.last_epoch
        if first is None or last is None:
            return ""
        each = last - first + 1
        parts = [
            1.0 if r.status in ("done", "failed") else max(0.0, (r.epoch - first + r.batch) / each) if r.epoch else 0.0
            for r in self.rows.values()
        ]
        share = sum(parts) / len(parts)
        spent = time.monotonic() - self.started
        return f"{duration(spent / share - spent)} left" if 0.05 < share < 1 else ""
