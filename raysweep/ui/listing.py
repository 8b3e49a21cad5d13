"""All experiments of a root in memory, a few fields of each: filtered, sorted, cut into pages, and kept up to date."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raysweep._text import truncate
from raysweep.store import catalog, index, layout, ratio, verdict_file
from raysweep.store.experiment import RUNNING, Experiment
from raysweep.store.fields import Row
from raysweep.store.root import Root
from raysweep.store.sweep import all_sweeps

PER_PAGE = 100
SHARE = 0.05  # of the time, for looking through the whole root
LEAST = 5.0  # seconds from one look through the whole root to the next
_LONGEST = 160  # letters of a text
_FILES = (layout.MANIFEST, layout.LINEAGE, layout.HISTORY_CSV, layout.CONFIG, layout.LOCK)
SORT_KEYS = ("created", "id", "status", "epochs_done", "best_acc", "best_macro_f1")


@dataclass(frozen=True, slots=True)
class Line:
    """What the lists show of an experiment. ``words``: where a filter looks, without the difference of large and small letters."""

    id: str
    status: str
    epochs_done: int
    epochs_target: int | None
    best_acc: float | None
    best_epoch: int | None
    best_macro_f1: float | None
    worst_class: str
    worst_recall: float | None
    parent: str  # with its epoch; empty if there is none
    parent_id: str
    change: str
    created: str
    sweep: str  # the id under which it was made
    branch: str
    control: bool
    note: str
    words: str
    mean_precision: float | None = None  # mAP, where an image has several labels

    @classmethod
    def of(cls, row: Row) -> Line:
        change = truncate(ratio.of_row(row), _LONGEST)
        parent = row.parent.reference if row.parent else ""
        words = "\n".join(filter(None, (row.id, row.status, parent, change, row.sweep, row.branch, row.worst_class)))
        return cls(
            row.id, row.status, row.epochs_done, row.epochs_target, row.best_acc, row.best_epoch, row.best_macro_f1,
            truncate(row.worst_class or "", _LONGEST), row.worst_recall, parent, row.parent.experiment if row.parent else "",
            change, row.created or "", row.sweep or "", row.branch or "", row.control, truncate(row.note or ""),
            words.casefold(), row.mean_precision,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a list shall show, as the address says it; what it says wrong does not count."""

    text: str = ""
    status: str = ""
    sweep: str = ""
    sort: str = "created"
    down: bool = True
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Wanted:
        sort, page = query.get("sort", ""), query.get("page", "")
        sort = sort if sort in SORT_KEYS else "created"
        down = {"up": False, "down": True}.get(query.get("order", ""), sort not in ("id", "status"))
        number = max(1, int(page)) if page.isascii() and page.isdecimal() and len(page) < 8 else 1
        return cls(query.get("q", "").strip(), query.get("status", ""), query.get("sweep", ""), sort, down, number)


@dataclass(frozen=True, slots=True)
class Page:
    """Some lines of a list. ``total``: how many fit; ``first``: the number of the first one here."""

    lines: Sequence[Line]
    total: int
    first: int
    number: int
    pages: int


@dataclass(frozen=True, slots=True)
class SweepLine:
    """A sweep, with what its branches reached. ``id`` is its folder's; empty where only its branches name it."""

    id: str
    name: str
    parent: str
    states: str
    running: bool
    branches: int
    best_acc: float | None
    best_macro_f1: float | None
    verdict: str
    more: int  # sentences of the verdict
    created: str


class Listing:
    """The experiments of a root. One thread changes it; readers get what was complete last.

    Args:
        clock: gives the time in seconds.
    """

    def __init__(self, root: Root, clock: Any = time.monotonic) -> None:
        self.root, self.clock = root, clock
        self.lines: dict[str, Line] = {}  # by id, the oldest first
        self.watched: Mapping[str, int] = {}  # experiments that somebody looks at → how many do
        self._texts: dict[bytes, Line] = {}
        self._stamps: dict[str, tuple[Any, ...]] = {}
        self._folders: tuple[Any, ...] = ()
        self._next = self._next_folders = self._next_status = self._last = -1e9
        self._lock = threading.Lock()
        self.cost = 0.0  # seconds that the last look through the whole root took

    def fresh(self) -> None:
        """Look through the root before a page is shown, unless that was done a moment ago."""
        with self._lock:
            if self.clock() > self._last + max(0.5, 10 * self.cost):
                self._look_through()

    def look(self) -> set[str]:
        """Bring up to date what may have changed; returns the ids of what has. Cheap: the whole root is looked through only so often
        that it takes a small share of the time."""
        with self._lock:
            return self._look()

    def _look(self) -> set[str]:
        now = self.clock()
        if now >= self._next or (now >= self._next_folders and self._folders != self._of_folders()):
            return self._look_through()
        moved = {i for i in self._active() if self._moved(i)}
        if now < self._next_status:
            return moved | self._read(moved)
        self._next_status = now + 2.0
        return moved | self._read(self._active())  # a writer that is killed changes no file

    def _look_through(self) -> set[str]:
        """The same, of every experiment."""
        began = self.clock()
        folders = self._of_folders()
        known: dict[bytes, Line] = {}
        for text in index.texts(self.root):
            line = self._texts.get(text)
            known[text] = Line.of(Row.from_json(json.loads(text))) if line is None else line
        before, self._texts, self._folders = self.lines, known, folders
        self.lines = {line.id: line for line in known.values()}
        self._stamps = {i: stamp for i, stamp in self._stamps.items() if i in self.lines}
        self._last = now = self.clock()
        self.cost = now - began
        self._next = now + max(LEAST, self.cost / SHARE)
        self._next_folders = now + max(0.5, 5 * self.cost)
        gone = before.keys() - self.lines.keys()
        return gone | {i for i, line in self.lines.items() if before.get(i) != line}

    def _active(self) -> list[str]:
        """The experiments that may change soon."""
        return [i for i, line in self.lines.items() if line.status == RUNNING or i in self.watched]

    def _of_folders(self) -> tuple[Any, ...]:
        """Changes when an experiment or a sweep comes or goes."""
        return tuple(_stamp(os.path.join(self.root.path, name)) for name in ("", layout.SWEEPS))

    def _moved(self, name: str) -> bool:
        folder = os.path.join(self.root.path, name)
        stamp = tuple(_stamp(os.path.join(folder, file)) for file in _FILES)
        before, self._stamps[name] = self._stamps.get(name), stamp
        return stamp != before

    def _read(self, names: Iterable[str]) -> set[str]:
        fresh = {}
        for name in names:
            folder = self.root.path / name
            if os.path.isfile(folder / layout.CONFIG):
                fresh[name] = Line.of(catalog.summary(Experiment(folder, self.root)))
        changed = {name for name, line in fresh.items() if self.lines.get(name) != line}
        if changed:
            self.lines = {**self.lines, **fresh}
        return changed

    # --- what the pages ask ---------------------------------------------------------------------------------------------

    def page(self, wanted: Wanted) -> Page:
        """The lines that fit, in order. Those without a value come last, in either direction."""
        words = wanted.text.casefold().split()
        fitting = [
            line
            for line in reversed(self.lines.values())
            if (not wanted.status or line.status == wanted.status)
            and (not wanted.sweep or line.sweep == wanted.sweep)
            and all(word in line.words for word in words)
        ]
        if (wanted.sort, wanted.down) == ("created", False):
            fitting.reverse()
        elif wanted.sort != "created":
            with_value = [line for line in fitting if getattr(line, wanted.sort) is not None]
            with_value.sort(key=lambda line: getattr(line, wanted.sort), reverse=wanted.down)
            fitting = [*with_value, *(line for line in fitting if getattr(line, wanted.sort) is None)]
        pages = max(1, -(-len(fitting) // PER_PAGE))
        number = min(wanted.page, pages)
        first = (number - 1) * PER_PAGE
        return Page(fitting[first : first + PER_PAGE], len(fitting), first + 1, number, pages)

    def statuses(self) -> Mapping[str, int]:
        """Status → how many experiments have it."""
        return Counter(line.status for line in self.lines.values())

    def running(self) -> list[Line]:
        return [line for line in reversed(self.lines.values()) if line.status == RUNNING]

    def rows(self, names: Collection[str]) -> list[Row]:
        """All fields of some experiments, as they were when the whole root was last looked through."""
        return [Row.from_json(json.loads(text)) for text, line in self._texts.items() if line.id in names]

    def family(self, of: str) -> set[str]:
        """An experiment with its ancestors and descendants."""
        children: dict[str, list[str]] = {}
        for line in self.lines.values():
            children.setdefault(line.parent_id, []).append(line.id)
        found, below = self.ancestors(of), [of]
        while below:
            below = [i for above in below for i in children.get(above, ()) if i not in found]
            found.update(below)
        return found

    def ancestors(self, of: str) -> set[str]:
        """An experiment with its ancestors."""
        found: set[str] = set()
        while of and of not in found:
            found.add(of)
            of = self.lines[of].parent_id if of in self.lines else ""
        return found

    def of_sweep(self, original_id: str) -> list[Line]:
        """The branches of a sweep, by the id under which it was made."""
        return [line for line in self.lines.values() if line.sweep == original_id]

    def sweeps(self, text: str = "", most: int | None = None) -> list[SweepLine]:
        """The sweeps whose names or words have all of these words, the newest first."""
        branches: dict[str, list[Line]] = {}
        for line in self.lines.values():
            if line.sweep:
                branches.setdefault(line.sweep, []).append(line)
        words, found = text.casefold().split(), []
        for sweep in reversed(all_sweeps(self.root)):
            original = sweep.id if sweep.id in branches else sweep.original_id
            made = _sweep_line(sweep.id, branches.pop(original, []))
            if all(word in f"{made.id} {made.parent} {made.states}".casefold() for word in words):
                told = verdict_file.read(sweep)
                sentences = () if told is None else told.sentences
                first = truncate(sentences[0], 400) if sentences else ""
                found.append(replace(made, verdict=first, more=max(0, len(sentences) - 1)))
            if most is not None and len(found) == most:
                break
        return found


def _sweep_line(name: str, branches: Sequence[Line]) -> SweepLine:
    states = Counter(line.status for line in branches)
    return SweepLine(
        name,
        layout.split_id(name)[0],
        branches[0].parent if branches else "",
        ", ".join(f"{n:,} {status}" for status, n in states.items()) or "no branch has started",
        RUNNING in states,
        len(branches),
        max((b.best_acc for b in branches if b.best_acc is not None), default=None),
        max((b.best_macro_f1 for b in branches if b.best_macro_f1 is not None), default=None),
        "",
        0,
        min((b.created for b in branches if b.created), default=""),
    )


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns, found.st_size
