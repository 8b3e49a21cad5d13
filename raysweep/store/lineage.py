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
from raysweep._text import counted, truncate
from raysweep.errors import StoreError
from raysweep.store import layout
from raysweep.store.files import LIMIT, append_line, change, open_regular, read_all, reading, write_atomic
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
EVALUATION = "EVALUATION"

_BESIDE = (NOTE, EVALUATION)  # events that change nothing of how far a training is

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
    """Append one event to both logs; returns it as it stands in ``lineage.jsonl``. Damaged lines are set aside first.

    Raises:
        StoreError: a log cannot be read or written. LockedError: another process writes to the experiment.
    """
    log, changes = folder / layout.LINEAGE, folder / layout.CHANGES

    def append() -> LineageEvent:
        copies.latest(log)
        set_aside(folder)
        events = read(folder)
        event = LineageEvent(events[-1].seq + 1 if events else 1, _now(), kind, details)
        mend(folder)
        append_line(log, _line(event))
        return event

    def tell_if_untold() -> None:  # the other machine may have told this event, too
        copies.latest(changes)
        mend(folder)

    with change(log):  # another process of this writer must not take the same number
        event = copies.repeated(log, append)
        copies.repeated(changes, lambda: append_line(changes, _for_people(event)), tell_if_untold)
    return event


def mend(folder: Path) -> None:
    """Append to the log for people the newest events, or the rest of one, that a kill or a failed write kept out of it.

    Raises:
        StoreError: a log cannot be read or written. LockedError: another process writes to the experiment.
    """
    path = folder / layout.CHANGES
    with change(path):
        events = read(folder)
        if _untold(path, events):
            copies.latest(path)
            if late := _untold(path, events):
                append_line(path, late)


def _untold(path: Path, events: list[LineageEvent]) -> str:
    """What the log for people lacks at its end."""
    try:
        text = read_regular(path, LIMIT).decode(errors="replace")
    except OSError:  # appending will tell
        return ""
    text = text[: text.rfind("\n") + 1]  # an incomplete line is removed when something is appended
    late: list[str] = []
    for event in reversed(events):
        mark, whole = f"] #{event.seq}\n", _for_people(event)
        _, told, after = text.rpartition(mark)
        if told:
            rest = whole.partition(mark)[2]
            late += [rest.removeprefix(after)] if rest.startswith(after) else []
            break
        late.append(whole)
    return "".join(reversed(late))


def _now() -> str:
    return datetime.now().isoformat(timespec="milliseconds")


def _line(event: LineageEvent) -> str:
    return json.dumps(event.to_json(), ensure_ascii=False, allow_nan=False) + "\n"


def read(folder: Path) -> list[LineageEvent]:
    """All events in order. An incomplete last line is dropped, and so are damaged ones: see :func:`problems`.

    Raises:
        StoreError: the file cannot be read.
    """
    return [e for e in _judged(folder)[1] if isinstance(e, LineageEvent)]


def problems(folder: Path) -> list[str]:
    """What is wrong with the log: damaged lines, and numbers that are missing.

    Raises:
        StoreError: the file cannot be read.
    """
    found, before = [], 0
    for number, event in enumerate(_judged(folder)[1], start=1):
        if isinstance(event, str):
            found.append(f"line {number}: {event}")
            before += 1  # it may have been the event of that number
            continue
        if event.seq > before + 1:
            found.append(f"line {number}: event {event.seq} instead of {before + 1}")
        before = event.seq
    return [f"{layout.LINEAGE} is damaged ({what})" for what in found]


def told_of_damage(folder: Path) -> list[str]:
    """A text about the damaged lines that were set aside; none if there are none."""
    try:
        count = read_regular(folder / layout.DAMAGED_LINES, LIMIT).count(b"\n")
    except OSError:
        return []
    return [f"{counted(count, 'damaged line')} of {layout.LINEAGE} are kept in {layout.DAMAGED_LINES}"] if count else []


def set_aside(folder: Path) -> int:
    """Move damaged lines of ``lineage.jsonl`` to a file of their own, so that nothing is lost and the log can go on; returns
    how many there were. A note takes the place of a line whose number is free.

    Raises:
        StoreError: a file cannot be read or written. LockedError: another process writes to the experiment.
    """
    path, aside = folder / layout.LINEAGE, folder / layout.DAMAGED_LINES
    with change(path):
        lines, judged = _judged(folder)
        bad = [line for line, event in zip(lines, judged, strict=True) if isinstance(event, str)]
        if not bad:
            return 0
        before = read_all(aside) if aside.exists() else b""
        known = set(before.split(b"\n")[:-1])  # from a try that was killed in between
        write_atomic(aside, before + b"".join(line + b"\n" for line in bad if line not in known))
        taken = {e.seq for e in judged if isinstance(e, LineageEvent)}
        kept, last_seq = [], 0
        for line, event in zip(lines, judged, strict=True):
            if isinstance(event, LineageEvent):
                kept.append(line + b"\n")
                last_seq = event.seq
            elif last_seq + 1 not in taken:
                last_seq += 1
                text = f"this line was damaged ({event}); it is kept in {layout.DAMAGED_LINES}"
                kept.append(_line(LineageEvent(last_seq, _now(), NOTE, {"text": text})).encode())
        write_atomic(path, b"".join(kept))
    return len(bad)


def _judged(folder: Path) -> tuple[list[bytes], list[LineageEvent | str]]:
    """The whole lines of the file, and of each its event or what is wrong with it: no event, or a number out of its order."""
    path = folder / layout.LINEAGE
    try:
        with reading(path):
            text = read_regular(path, LIMIT)
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return [], []
        raise
    lines = text.split(b"\n")[:-1]  # what follows the last newline is an incomplete line
    judged = [_parsed(line) for line in lines]
    before, after = 0, 0
    following = [0] * len(judged)  # the number of the next line that is an event
    for i in reversed(range(len(judged))):
        following[i] = after
        if isinstance(event := judged[i], LineageEvent):
            after = event.seq
    for i, event in enumerate(judged):
        if isinstance(event, str):
            continue
        jumps = event.seq != before + 1 and 0 < following[i] <= event.seq  # else the next ones would be out of order
        if event.seq <= before or jumps:
            judged[i] = f"event {event.seq} instead of {before + 1}"
        else:
            before = event.seq
    return lines, judged


def _parsed(line: bytes) -> LineageEvent | str:
    """The event of a line, or what is wrong with it."""
    try:
        event = LineageEvent.from_json(json.loads(line))
        if type(event.seq) is not int:
            raise TypeError("an event without a number")
        return event
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return str(truncate(error))


def _all_damaged(path: Path, what: str) -> StoreError:
    return StoreError(
        f"{path} is damaged: {what}. Restore it from a copy, or go on without it by `raysweep continue`, which keeps the damaged "
        "lines in a file; the checkpoints are not affected."
    )


def early(folder: Path) -> list[LineageEvent]:
    """The events of an experiment's start, and perhaps a few more. The rest of the file is not read.

    Raises:
        StoreError: as :func:`last`.
    """
    path = folder / layout.LINEAGE
    events: list[LineageEvent] = []
    wrong = None
    try:
        with reading(path), open_regular(path) as file:
            while len(events) < _OF_THE_START:
                line = file.readline(LIMIT)
                if not line.endswith(b"\n"):  # the end, or an incomplete line
                    break
                event = _parsed(line)
                if isinstance(event, str):
                    wrong = event
                else:
                    events.append(event)
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise
    if not events and wrong is not None:
        raise _all_damaged(path, wrong)
    return events


def last(folder: Path) -> LineageEvent | None:
    """The newest event of the training itself, so neither a note nor an evaluation. Only the end of the file is read, so it is cheap enough for ten thousand folders.

    Raises:
        StoreError: the log cannot be read, or no line of it is an event: a damaged experiment must not look like one without a
            log.
    """
    path = folder / layout.LINEAGE
    try:
        with reading(path), open_regular(path) as file:
            size = file.seek(0, 2)
            step, wrong, good = 2048, None, False
            while step < LIMIT:
                start = file.seek(max(0, size - step))
                lines = file.read(step).split(b"\n")[:-1]  # what follows the last newline is an incomplete line
                for line in reversed(lines[1:] if start else lines):  # the first may be cut by the window
                    event = _parsed(line)
                    if isinstance(event, str):
                        wrong = event
                    elif event.type not in _BESIDE:
                        return event
                    else:
                        good = True
                if start == 0:
                    if wrong is not None and not good:
                        raise _all_damaged(path, wrong)
                    return None
                step *= 4
        raise _all_damaged(path, f"no event in its last {LIMIT // 1_000_000} MB")
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


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
