"""Shows a running sweep: a live table of its branches on a terminal, a line per branch and epoch elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from raysweep._text import plain
from raysweep.display.base import Display
from raysweep.display.terminal import duration, percent, say
from raysweep.weights import describe

ROWS = 30  # the table shows so many branches at most: those that run, then the newest


@dataclass
class Row:
    """What is known of one branch."""

    name: str
    control: bool = False
    seed: int | None = None
    change: str = ""
    status: str = "waiting"
    epoch: int = 0
    batch: float = 0.0  # part of the running epoch that is done
    accuracy: float | None = None
    worst: str = ""
    touched: float = 0.0
    by_epoch: dict[int, float] = field(default_factory=dict)


class SweepDisplay(Display):
    """Of a sweep: a table of its branches, that of the control marked."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, Row] = {}
        self.controls: dict[int | None, Row] = {}  # by seed
        self.begin: dict[str, Any] = {}
        self.drawn = 0.0
        self.hint = "starting Ray"

    def _make_live(self, console: Any) -> Any:
        from rich.live import Live

        return Live(self._table(), console=console, auto_refresh=False, transient=True)

    def __call__(self, event: dict[str, Any]) -> None:
        super().__call__(event)
        self._draw(event["kind"] != "batch")

    # --- before the branches -------------------------------------------------------------------------------------

    def _loading(self, event: dict[str, Any]) -> None:
        self.hint = "reading the checkpoint"

    def _decode(self, event: dict[str, Any]) -> None:
        self.hint = f"decoding images, once: {event['done']:,} of {event['total']:,}"

    def _connecting(self, event: dict[str, Any]) -> None:
        self.hint = "starting Ray" if not event["address"] else f"connecting to {event['address']}"
        self._line("Starting a local Ray cluster …" if not event["address"] else f"Connecting to {event['address']} …")

    def _warning(self, event: dict[str, Any]) -> None:
        where = f"{event['branch']}: " if event.get("branch") else ""
        super()._warning({"text": where + event["text"]})

    def _sweep(self, event: dict[str, Any]) -> None:
        self.begin = event
        for b in event["branches"]:
            self._add(b)
        many = len(event["branches"])
        queue = f" {event['queue']}" if event.get("queue") else ""
        self._line(f"Sweep {plain(event['id'])}: {many:,} branches, {event['at_once']:,} at a time{queue}")
        for note in event["notes"]:
            self._line(f"  {plain(note)}")

    def _add(self, branch: dict[str, Any]) -> Row:
        row = Row(branch["name"], bool(branch.get("control")), branch.get("seed"))
        parent = branch.get("parent_weights")
        if parent is not None and branch.get("weights"):
            row.change = describe(branch["weights"], parent)
        row.status = "done" if branch.get("status") == "finished" else "waiting"
        row = self.rows.setdefault(row.name, row)
        if row.control:
            self.controls.setdefault(row.seed, row)
        return row

    # --- the branches --------------------------------------------------------------------------------------------

    def _row(self, event: dict[str, Any]) -> Row:
        row = self.rows.get(event["branch"]) or self._add({"name": event["branch"]})
        row.touched = time.monotonic()
        return row

    def _start(self, event: dict[str, Any]) -> None:
        self._row(event).status = "starting"

    def _batch(self, event: dict[str, Any]) -> None:
        row = self._row(event)
        row.status = "running"
        row.epoch, row.batch = event["epoch"], event["batch"] / event["batches"]

    def _epoch(self, event: dict[str, Any]) -> None:
        row, values = self._row(event), event["row"]
        if event["epoch"] >= row.epoch:  # it is told when it is saved: the next epoch has begun meanwhile
            row.epoch, row.batch = event["epoch"], 1.0
        row.accuracy = values["val_acc"]
        row.by_epoch[event["epoch"]] = values["val_acc"]
        row.worst = f"{values['worst_class']} {percent(values['worst_recall'])}"
        if self.live is None:
            against = self._against(row)
            say(
                f"{plain(row.name)}  epoch {event['epoch']}/{self.begin.get('last_epoch', '?')}  acc {percent(row.accuracy)}"
                f"{f' ({against} against the control)' if against else ''}  worst {plain(row.worst)}"
            )

    def _branch_end(self, event: dict[str, Any]) -> None:
        row = self._row(event)
        row.status = {"finished": "done"}.get(event["status"], event["status"])
        if event["status"] == "failed":
            self._line(f"{plain(row.name)} failed: {plain(event['reason'])}")

    def _against(self, row: Row) -> str:
        """The difference in accuracy to the control of the same seed, at the newest epoch that both have ended."""
        control = self.controls.get(row.seed)
        if control is None or control is row:
            return ""
        both = set(control.by_epoch) & set(row.by_epoch)
        return f"{100 * (row.by_epoch[max(both)] - control.by_epoch[max(both)]):+.1f}" if both else ""

    # --- the table -----------------------------------------------------------------------------------------------

    def _draw(self, now: bool) -> None:
        # Looking through ten thousand rows takes a while: the more there are, the rarer.
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
        title = f"{done} of {len(self.rows)} branches  {duration(time.monotonic() - self.started)}  {self._left()}"
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
        keep = sorted(rows, key=lambda r: (r.status not in ("running", "starting"), not r.control, -r.touched))[:ROWS]
        shown = {r.name for r in keep}
        return [r for r in rows if r.name in shown]

    def _cells(self, row: Row) -> list[str]:
        epoch = "" if not row.epoch else f"{row.epoch}/{self.begin.get('last_epoch', '?')}"
        if row.status == "running" and row.batch < 1:
            epoch += f" {row.batch:>4.0%}"
        name = plain(row.name) if not row.control else f"{plain(row.name)} *"
        return [name, row.status, epoch, percent(row.accuracy), self._against(row), plain(row.worst)]

    def _left(self) -> str:
        """Time left, from the share of all epochs that is done."""
        first, last = self.begin.get("first_epoch"), self.begin.get("last_epoch")
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
