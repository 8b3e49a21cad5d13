"""What happened to an experiment: the same events in ``experiment_changes.log`` for people and ``lineage.jsonl`` for programs.

Both files are only appended to, by one writer. The sequence number, not the clock, gives the order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from raysweep._paths import read_regular
from raysweep._text import truncate
from raysweep.errors import StoreError
from raysweep.store import layout
from raysweep.store.files import LIMIT, append_line, open_regular, reading
from raysweep.store.gate import changing
from raysweep.store.records import LineageEvent
from raysweep.store.remote import copies

START = "EXPERIMENT_START"
RESUME = "RESUME_FROM_CHECKPOINT"
RATIO = "TRAINING_DATA_RATIO_CHANGE"
CONFIGURATION = "CONFIGURATION_CHANGE"
INTERRUPTED = "INTERRUPTED"
CONTINUED = "CONTINUED"
FINISHED = "FINISHED"
FAILED = "FAILED"
NOTE = "NOTE"

_OF_THE_START = 8  # events: start, resume, ratio, configuration, notes
_RULE = "=" * 60


def open_log(folder: Path, name: str, description: str, when: datetime) -> None:
    """Write the head of the log for people, in the old system's form."""
    text = _clean(description) or "-"
    append_line(
        folder / layout.CHANGES,
        f"EXPERIMENT LOG - {_clean(name)}\nStarted: {when.isoformat(timespec='seconds')}\nDescription: {text}\n{_RULE}\n",
    )


def record(folder: Path, kind: str, **details: Any) -> LineageEvent:
    """Append one event to both logs; returns it as it stands in ``lineage.jsonl``."""
    log = folder / layout.LINEAGE

    def append() -> LineageEvent:
        copies.latest(log)
        events = read(folder)
        seq = events[-1].seq + 1 if events else 1
        event = LineageEvent(seq, datetime.now().isoformat(timespec="milliseconds"), kind, details)
        append_line(log, json.dumps(event.to_json(), ensure_ascii=False, allow_nan=False) + "\n")
        return event

    with changing(log):  # another process of this writer must not take the same number
        event = copies.repeated(log, append)
        copies.repeated(log, lambda: append_line(folder / layout.CHANGES, _for_people(event)))
    return event


def read(folder: Path) -> list[LineageEvent]:
    """All events in order. An incomplete last line is dropped; any other bad line is an error.

    Raises:
        StoreError: a line is not an event, or the sequence has a gap.
    """
    path = folder / layout.LINEAGE
    try:
        with reading(path):
            text = read_regular(path, LIMIT)
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise
    lines = text.split(b"\n")[:-1]  # what follows the last newline is an incomplete line
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            if value["seq"] != number:
                raise ValueError(f"event {value['seq']} instead of {number}")
            events.append(LineageEvent.from_json(value))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _damaged(path, f"line {number}: {truncate(error)}") from None
    return events


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(f"{path} is damaged ({what}). Restore it from a copy; the checkpoints are not affected.")


def early(folder: Path) -> list[LineageEvent]:
    """The events of an experiment's start, and perhaps a few more. The rest of the file is not read.

    Raises:
        StoreError: as :func:`last`.
    """
    path = folder / layout.LINEAGE
    events: list[LineageEvent] = []
    try:
        with reading(path), open_regular(path) as file:
            while len(events) < _OF_THE_START:
                line = file.readline(LIMIT)
                if not line.endswith(b"\n"):  # the end, or an incomplete line
                    break
                events.append(LineageEvent.from_json(json.loads(line)))
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, f"a line near its start: {truncate(error)}") from None
    return events


def last(folder: Path) -> LineageEvent | None:
    """The newest event that is not a note. Only the end of the file is read, so it is cheap enough for ten thousand folders.

    Raises:
        StoreError: the log cannot be read, or a line at its end is not an event: a damaged experiment must not look like
            one without a log.
    """
    path = folder / layout.LINEAGE
    try:
        with reading(path), open_regular(path) as file:
            size = file.seek(0, 2)
            step = 2048
            while step < LIMIT:
                start = file.seek(max(0, size - step))
                lines = file.read(step).split(b"\n")[:-1]  # what follows the last newline is an incomplete line
                for line in reversed(lines[1:] if start else lines):  # the first may be cut by the window
                    event = LineageEvent.from_json(json.loads(line))
                    if event.type != NOTE:
                        return event
                if start == 0:
                    return None
                step *= 4
        raise _damaged(path, f"no event in its last {LIMIT // 1_000_000} MB")
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, f"a line near its end: {truncate(error)}") from None


def _clean(value: Any) -> str:
    """A value as one line of text: a line break in a name must not look like a new event."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def _table(old: Mapping[str, float], new: Mapping[str, float], form: str) -> list[str]:
    width = max((len(_clean(c)) for c in new), default=0)
    rows = []
    for c in new:
        a, b = old.get(c), new[c]
        before = f"{format(a, form):>8} -> " if a is not None else ""
        mark = "" if a is None or a == b else "  *"
        rows.append(f"    {_clean(c):<{width}}  {before}{format(b, form):>8}{mark}")
    return rows


def _field(key: str, value: Any) -> list[str]:
    """The lines for one field of an event."""
    if key == "changes" and isinstance(value, Mapping):
        return [f"  {_clean(k)}: {_clean(a)} -> {_clean(b)}" for k, (a, b) in value.items()]
    if isinstance(value, Mapping):
        return [f"  {key}: " + ", ".join(f"{_clean(k)}={_clean(v)}" for k, v in value.items())]
    if isinstance(value, list):
        return [f"  {key}: {_clean(v)}" for v in value]
    return [] if value is None or value == "" else [f"  {key}: {_clean(value)}"]


def _for_people(event: LineageEvent) -> str:
    rows = [f"\n[{event.time.replace('T', ' ')}] #{event.seq}", f"Change Type: {event.type}"]
    told = event.fields
    for key, value in told.items():
        if key not in ("old_weights", "new_weights", "old_shares", "new_shares"):  # these are tables, below
            rows += _field(key, value)
    if "new_weights" in told:
        rows.append("  weights:")
        rows += _table(told.get("old_weights", {}), told["new_weights"], "g")
    if "new_shares" in told:
        rows.append("  share of the images shown:")
        rows += _table(told.get("old_shares", {}), told["new_shares"], ".1%")
    return "\n".join(rows) + "\n"
