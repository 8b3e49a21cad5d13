"""Shows a running sweep: a live table of its branches on a terminal, a line per branch and epoch elsewhere."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from typing import Any

from raysweep._text import counted, plain
from raysweep.cluster import signals
from raysweep.display import tables
from raysweep.display.base import Display
from raysweep.display.terminal import debugging, decimals, duration, percent, say, wrapped
from raysweep.events import (
    BatchDone,
    BranchEnded,
    BranchEvent,
    BranchStarted,
    Building,
    ComputingFeatures,
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
from raysweep.label_sets import MAP

MOST_RATES = 3  # in the title
MOST_CHANGED = 4  # classes that a branch changes, in its row
_ACCURACY = "val_acc"
COLUMNS = [
    ("branch", "l"), ("status", "l"), ("epoch", "r"), ("accuracy", "r"), ("− control", "r"), ("macro-F1", "r"),
    ("changed classes: recall", "l"), ("worst class", "l"),
]  # fmt: skip
_OPTIONAL = (7, 5, 4, 6, 3)  # of a narrow terminal, those first that leave first
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
    f1: float | None = None
    worst: str = ""
    changed: tuple[str, ...] = ()  # classes whose weights are not the parent's
    touched: float = 0.0
    by_epoch: dict[int, dict[str, float]] = field(default_factory=dict)  # epoch → what is compared with the control
    last_epoch: int | None = None  # its own, where the training has begun


class SweepDisplay(Display):
    """Shows a sweep: a table of its branches; a star marks the control."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, Row] = {}
        self.controls: dict[tuple[str | None, int | None], Row] = {}  # by arm (None: the control) and seed
        self.first_epoch: int | None = None
        self.last_epoch: int | None = None
        self.several = False  # labels for an image
        self.watched: dict[str, None] = {}  # classes that some branch changes
        self.inexact: set[str] = set()  # reasons why branches are not bit-exact that were printed
        self.drawn = 0.0
        self.hint = "starting Ray"
        self.rates: tuple[tuple[float, ...], ...] = ()  # the learning rates from the fork to the end
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
            case ComputingFeatures(done, total):
                self.hint = f"computing features, once: {done:,} of {total:,}"
            case Building():
                self.hint = "building the model"
            case SweepEnded():
                self.comparing = True
            case Connecting(address):
                self.hint = f"connecting to {address}" if address else "starting Ray"
                self._line(f"Connecting to {address} …" if address else "Starting a local Ray cluster …")
                if address is None:
                    self._busy()
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
            row.changed = b.changed
            self.watched.update(dict.fromkeys(b.changed))
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
                if self._is_new(event):
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
        row.f1 = values["val_macro_f1"]
        self.several = MAP in values
        known = (_ACCURACY, *(f"recall_{c}" for c in self.watched))
        row.by_epoch[event.epoch] = {k: v for k in known if (v := values.get(k)) is not None}
        row.worst = f"{values['worst_class']} {percent(values['worst_recall'])}"
        if self.live is None:
            against = self._against(row)
            changed = self._changed(row)
            of_labels = f"{MAP} {values[MAP]:.3f}  " if values.get(MAP) is not None else ""
            recall = "recall " if of_labels else ""
            say(
                f"{plain(row.name)}  epoch {event.epoch}/{row.last_epoch or self.last_epoch or '?'}  {of_labels}acc {percent(row.accuracy)}"
                f"{f' ({against} against the control)' if against else ''}  macro-F1 {decimals(row.f1)}  "
                f"worst {recall}{plain(row.worst)}{f'  changed {changed}' if changed else ''}"
            )

    def _ended(self, row: Row, event: BranchEnded) -> None:
        row.status = "done" if event.status == "finished" else event.status
        if event.status == "failed":
            where = f" (traceback: {event.traceback_file})" if event.traceback_file else ""
            self._line(f"{plain(row.name)} failed: {plain(event.reason)}{plain(where)}")
            if event.traceback and (debugging() or not where):  # if there is no file, this is the only copy
                self._line("\n".join(map(plain, event.traceback.rstrip().split("\n"))))

    def _against(self, row: Row, key: str = _ACCURACY) -> str:
        """The difference from the control of the same seed and settings in points, at the newest epoch that both have finished."""
        control = self.controls.get((row.reference, row.seed))
        if control is None or control is row or not (both := set(control.by_epoch) & set(row.by_epoch)):
            return ""
        mine, its = row.by_epoch[max(both)].get(key), control.by_epoch[max(both)].get(key)
        return "" if mine is None or its is None else f"{100 * (mine - its):+.1f}"

    def _changed(self, row: Row) -> str:
        """The recall of the classes whose weights the branch changes, with the difference from the control."""
        latest = row.by_epoch[max(row.by_epoch)] if row.by_epoch else {}
        told = []
        for name in row.changed[:MOST_CHANGED]:
            if (value := latest.get(f"recall_{name}")) is not None:
                against = self._against(row, f"recall_{name}")
                told.append(f"{plain(name)} {percent(value)}{f' ({against})' if against else ''}")
        more = len(row.changed) - MOST_CHANGED
        return ", ".join(told) + (f" … {more:,} more" if told and more > 0 else "")

    # --- the table -----------------------------------------------------------------------------------------------

    def _draw(self, now: bool) -> None:
        # To draw ten thousand rows takes a while: the more rows there are, the less often they are drawn.
        pause = max(0.25, len(self.rows) / 4000)
        if self.live is not None and ((now and len(self.rows) <= 10 * ROWS) or time.monotonic() - self.drawn > pause):
            self.drawn = time.monotonic()
            self.live.update(self._table(), refresh=True)

    def _table(self) -> Any:
        from rich.text import Text

        if not self.rows:
            return Text(f"{self.hint} …  {duration(time.monotonic() - self.started)}")
        width = shutil.get_terminal_size().columns
        drawn = tables.lines(self._columns(), [self._cells(r) for r in self._shown()], width, _OPTIONAL)
        return Text.from_ansi("\n".join([wrapped(self.title(), width), "", *drawn]))

    def _columns(self) -> list[tuple[str, str]]:
        return [*COLUMNS[:-1], ("worst label", "l")] if self.several else COLUMNS

    def title(self) -> str:
        """How many branches have ended, the time, and the learning rates."""
        ended = sum(r.status in ("done", "failed", "interrupted") for r in self.rows.values())
        title = f"{ended} of {counted(len(self.rows), 'branch', 'branches')}  {duration(time.monotonic() - self.started)}  {'comparing them' if self.comparing else self._left()}"
        if self.rates:
            each = [" → ".join(f"{rate:.2g}" for rate in course) for course in self.rates]
            title += f"  learning rate {', '.join(each[:MOST_RATES])}{', …' if len(each) > MOST_RATES else ''}"
        return title

    def __exit__(self, *exc: object) -> None:
        """Remove the live table; what ended before all branches had leaves the last one, and how many are done."""
        super().__exit__(*exc)
        if exc[1] is not None and self.rows and not self.comparing:
            tables.table(
                None,
                self._columns(),
                [self._cells(r) for r in self._shown()],
                err=True,
                whole="`raysweep show`",
                optional=_OPTIONAL,
            )
            done = sum(r.status == "done" for r in self.rows.values())
            say(f"{done:,} of {counted(len(self.rows), 'branch', 'branches')} done.")

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
        against, changed = self._against(row), self._changed(row)
        return [name, row.status, epoch, percent(row.accuracy), against, decimals(row.f1), changed, plain(row.worst)]

    def share(self) -> float | None:
        """The fraction of all epochs that is done; None before the branches have begun."""
        first, last = self.first_epoch, self.last_epoch
        if first is None or last is None:
            return None
        each = last - first + 1
        parts = [
            1.0 if r.status in ("done", "failed") else max(0.0, (r.epoch - first + r.batch) / each) if r.epoch else 0.0
            for r in self.rows.values()
        ]
        return sum(parts) / len(parts)

    def _left(self) -> str:
        """Time left, estimated from the fraction of all epochs that is done."""
        share = self.share()
        spent = time.monotonic() - self.started
        return f"{duration(spent / share - spent)} left" if share is not None and 0.05 < share < 1 else ""
