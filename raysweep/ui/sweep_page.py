"""The page of a sweep: its branches as they train, the verdict, effects, images that a branch fixed or broke, confusion matrices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raysweep._text import counted, short_repr, truncate
from raysweep.data import decoded
from raysweep.errors import InputError, RaysweepError
from raysweep.report import comparison, content, flips, images, tree
from raysweep.report.content import Content
from raysweep.report.flips import Flip, Flips
from raysweep.report.sections import lineage, pictures
from raysweep.store import resolve, verdict_file
from raysweep.store.records_sweep import BranchRecord, SweepRecord
from raysweep.store.results import MISSING
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep
from raysweep.ui import curves as drawn
from raysweep.ui.computed import Computed
from raysweep.ui.experiment_page import PICTURES, Html, Query, with_pictures
from raysweep.ui.listing import Line, Listing
from raysweep.weights import changes, describe_changed

MOST_BRANCHES = 300  # rows
MOST_FLIPS = 48  # pictures of a page
MOST_TREE = 120  # lines
MOST_VERDICTS = 10  # sentences that are shown at once


@dataclass(frozen=True, slots=True)
class BranchRow:
    """A branch as planned, and its experiment if it has begun."""

    name: str
    control: bool
    seed: int | None
    change: str
    line: Line | None
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A flip with its picture; empty where that cannot be shown."""

    flip: Flip
    uri: str


@dataclass(frozen=True)
class Sweeps:
    """Makes the page and its parts."""

    root: Root
    listing: Listing
    computed: Computed
    html: Html

    def _find(self, name: str) -> Sweep:
        return resolve.sweep_by_id(self.root, name)

    def page(self, name: str, _: Query) -> str:
        sweep = self._find(name)
        self.listing.fresh()
        shown = self._branches(sweep)
        record: SweepRecord = shown["record"]
        parent = record.parent.experiment if record.parent else ""
        branches = {row.line.id for row in shown["rows"] if row.line is not None}
        family = self.listing.rows(self.listing.ancestors(parent) | branches)
        lines = lineage.shown(tree.build(self.root, rows=family), MOST_TREE)
        return self.html(
            "sweep.html",
            here="sweeps",
            tree=lines,
            known={line.name for line in lines if line.name in self.listing.lines},
            told=verdict_file.read(sweep),
            **shown,
        )

    def branches(self, name: str, _: Query) -> str:
        """The table of branches, which changes while they train."""
        return self.html("branches.html", **self._branches(self._find(name)))

    def curves(self, name: str, query: Query) -> Mapping[str, Any]:
        sweep = self._find(name)
        groups = content.groups_of(sweep.record(), sweep.experiments())
        groups.sort(key=lambda g: not g.control)
        return drawn.of_groups(groups, [v for k, v in query.items() if k == "class"])

    def effects(self, name: str, _: Query) -> str:
        """The verdict and the effects on every class, computed as `raysweep compare` does."""
        sweep = self._find(name)
        page = self._content(sweep)
        first = replace(page, verdicts=page.verdicts[:MOST_VERDICTS])
        return self.html("effects.html", page=first, later=page.verdicts[MOST_VERDICTS:])

    def confusion(self, name: str, query: Query) -> str:
        """The confusion matrix of one branch, all seeds together."""
        sweep = self._find(name)
        page = self._content(sweep)
        names = [m.name for m in page.confusions]
        chosen = query.get("branch") or (
            names[1] if len(names) > 1 and names[0] == "control" else next(iter(names), "")
        )
        if names and chosen not in names:
            raise InputError(f"There is no branch {truncate(chosen)} with a confusion matrix.")
        m = next((m for m in page.confusions if m.name == chosen), None)
        return self.html("sweep_confusion.html", names=names, chosen=chosen, m=m, page=page, sweep=sweep.id)

    def pictures(self, name: str, _: Query) -> str:
        """Confident errors and possible label errors, and the first images that the best branches fixed and broke."""
        sweep = self._find(name)

        def make() -> str:
            page = self._content(sweep)
            shown = None if page.pictures is None else pictures.filled(page.pictures, PICTURES)
            return self.html("sweep_pictures.html", page=page, **with_pictures(shown, page))

        return self.computed.get(("pictures", sweep.id), self._state(sweep), make)

    def flips(self, name: str, query: Query) -> str:
        """The images that a branch predicts otherwise than what it is compared with."""
        sweep = self._find(name)
        state = self._state(sweep)
        networks = self.computed.get(("networks", sweep.id), state, lambda: comparison.networks_of(sweep).networks)
        names = [n for n in networks if n]
        classes = networks[""][0].predictions().classes if networks.get("") else ()
        branch = query.get("branch") or next(iter(names), "")
        of_class = query.get("class") or None
        if not names:
            raise InputError("No branch apart from the control has finished yet, so there is nothing to compare.")
        key = ("flips", sweep.id, branch, of_class)
        found = self.computed.get(key, state, lambda: flips.of_branch(sweep, branch, of_class))
        kind = query.get("kind") if query.get("kind") in found.counts else next(iter(found.counts), "")
        chosen = [flip for flip in found.flips if flip.kind == kind]
        page = query.get("page", "1")
        pages = max(1, -(-len(chosen) // MOST_FLIPS))
        number = min(pages, max(1, int(page) if page.isascii() and page.isdecimal() and len(page) < 8 else 1))
        part = chosen[(number - 1) * MOST_FLIPS : number * MOST_FLIPS]
        rows, note = self._with_pictures(sweep, found, part, len(networks[""][0].predictions().labels))
        return self.html(
            "flips.html", sweep=sweep.id, found=found, names=names, classes=classes, branch=found.branch,
            of_class=of_class or "", kind=kind, rows=rows, note=note, number=number, pages=pages, total=len(chosen),
        )  # fmt: skip

    def _with_pictures(self, sweep: Sweep, found: Flips, part: Sequence[Flip], count: int) -> tuple[list[Shown], str]:
        experiments = list(sweep.experiments().values())
        source = decoded.data_of(experiments[0]) if experiments and part else None
        if source is None:
            note = "The pictures cannot be shown: the decoded images are not on this machine." if part else ""
            return [Shown(flip, "") for flip in part], note
        known = images.of(experiments[:1], count)
        return [Shown(flip, pictures.uri(source, flip.index, known)) for flip in part], ""

    def _content(self, sweep: Sweep) -> Content:
        return self.computed.get(("sweep", sweep.id), self._state(sweep), lambda: content.of_sweep(sweep, charts=False))

    def _state(self, sweep: Sweep) -> Hashable:
        """What the comparison depends on: the branches that have ended."""
        record = sweep.record()
        lines = self.listing.of_sweep(record.id or sweep.id)
        return tuple(sorted((b.id, b.status, b.epochs_done) for b in lines if b.status != "running"))

    def _branches(self, sweep: Sweep) -> Mapping[str, Any]:
        record = sweep.record()
        lines = {line.branch: line for line in self.listing.of_sweep(record.id or sweep.id)}
        planned = {b.name: b for b in record.branches}
        rows = [_row(b, record, lines.get(b.name)) for b in record.branches]
        rows += [_searched(line) for name, line in lines.items() if name not in planned]
        states = Counter(row.status for row in rows)
        done = {row.name for row in rows if row.status == "finished"}
        return {
            "sweep": sweep.id,
            "original": record.id or sweep.id,
            "record": record,
            "rows": rows[:MOST_BRANCHES],
            "left": max(0, len(rows) - MOST_BRANCHES),
            "states": ", ".join(f"{n:,} {status}" for status, n in states.items()),
            "total": len(rows),
            "done": done,
            "complete": len(done) == len(rows),
            "counted": counted,
        }


def _row(branch: BranchRecord, record: SweepRecord, line: Line | None) -> BranchRow:
    """A branch's row; what it changes is known before it starts."""
    parts = [f"{key}={short_repr(value)}" for key, value in branch.settings.items()]
    try:
        changed = describe_changed(changes(record.parent_weights, branch.weights)) if branch.weights else ""
    except (RaysweepError, TypeError, ValueError):  # somebody edited the file
        changed = "?"
    change = "; ".join([*([changed] if changed and (changed != "unchanged" or not parts) else []), *parts])
    status = line.status if line is not None else (branch.status or MISSING)
    if line is None and status not in ("failed", MISSING):
        status = MISSING  # its folder has gone since
    return BranchRow(
        branch.name,
        branch.control,
        branch.seed,
        truncate(change, 160),
        line,
        status,
        truncate(branch.reason or "", 300),
    )


def _searched(line: Line) -> BranchRow:
    """A branch that a search has chosen, and that the plan does not name yet."""
    return BranchRow(line.branch, line.control, None, line.change, line, line.status, "")
