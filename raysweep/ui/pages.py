"""The pages and their parts as HTML, made from what the folders hold. Whatever takes seconds is a part of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from raysweep._text import counted
from raysweep.display.terminal import age
from raysweep.report import templates, tree
from raysweep.report.sections import lineage
from raysweep.store import index
from raysweep.store.commands import command
from raysweep.store.experiment import RUNNING
from raysweep.store.root import Root
from raysweep.ui import experiment_page, sweep_page
from raysweep.ui.computed import Computed
from raysweep.ui.curves import spark
from raysweep.ui.listing import Line, Listing, Wanted

HERE = Path(__file__).parent
MOST_LINES = 400  # of a tree
MOST_SWEEPS = 200
MOST_CARDS = 12  # of what trains now

Query = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Card:
    """An experiment that trains now. ``points``: its macro-F1, as a small line; ``done``: its share of the epochs, in percent."""

    line: Line
    points: str
    done: float


class Pages:
    """``quick`` and ``heavy``: address → what makes its answer, from the id in the address and the query."""

    def __init__(self, root: Root, listing: Listing) -> None:
        self.root, self.listing = root, listing
        self.computed = Computed()
        self.sweeps = sweep_page.Sweeps(root, listing, self.computed, self.html)
        self.experiments = experiment_page.Experiments(root, listing, self.computed, self.html)
        one, other = self.sweeps, self.experiments
        self.quick: Mapping[str, Callable[[str, Query], Any]] = {
            "/": self.all_experiments,
            "/parts/experiments": self.rows,
            "/parts/training": self.training,
            "/sweeps": self.all_sweeps,
            "/parts/sweeps": self.sweep_rows,
            "/lineage": self.lineage,
            "/sweeps/{id}": one.page,
            "/sweeps/{id}/branches": one.branches,
            "/sweeps/{id}/curves": one.curves,
            "/experiments/{id}": other.page,
            "/experiments/{id}/state": other.state,
            "/experiments/{id}/classes": other.classes,
            "/experiments/{id}/curves": other.curves,
        }
        self.heavy: Mapping[str, Callable[[str, Query], Any]] = {
            "/sweeps/{id}/effects": one.effects,
            "/sweeps/{id}/flips": one.flips,
            "/sweeps/{id}/confusion": one.confusion,
            "/sweeps/{id}/pictures": one.pictures,
            "/experiments/{id}/results": other.results,
        }

    def html(self, template: str, **values: Any) -> str:
        """A page or a part. Every text is escaped."""
        made = templates.environment(HERE)
        made.globals.setdefault("path", path)
        made.filters.setdefault("age", age)
        return made.get_template(template).render(root=self.root.address, command=self._command, **values)

    def _command(self, *words: str) -> str:
        return command(self.root, *words)

    def problem(self, text: str, part: bool) -> str:
        """What went wrong, as a page or as a part of one."""
        return self.html("problem.html" if part else "problem_page.html", text=text)

    def all_experiments(self, _: str, query: Query) -> str:
        self.listing.fresh()
        return self.html("experiments.html", here="experiments", **self._cards(), **self._rows(query))

    def rows(self, _: str, query: Query) -> str:
        self.listing.fresh()
        return self.html("experiment_rows.html", **self._rows(query))

    def _rows(self, query: Query) -> Mapping[str, Any]:
        wanted = Wanted.of(query)

        def link(**changes: Any) -> str:
            """The address of the same list with other choices."""
            choices = {"q": wanted.text, "status": wanted.status, "sweep": wanted.sweep, "sort": wanted.sort}
            choices |= {"order": "down" if wanted.down else "up", **changes}
            return f"/?{urlencode({k: v for k, v in choices.items() if v}, errors='replace')}"

        return {
            "wanted": wanted,
            "page": self.listing.page(wanted),
            "statuses": self.listing.statuses(),
            "all": len(self.listing.lines),
            "link": link,
        }

    def training(self, _: str, __: Query) -> str:
        return self.html("training.html", **self._cards())

    def _cards(self) -> Mapping[str, Any]:
        running = self.listing.running()
        cards = [
            Card(line, spark(experiment_page.column(self.root, line.id, "val_macro_f1")), _share(line))
            for line in running[:MOST_CARDS]
        ]
        return {"cards": cards, "more": len(running) - len(cards)}

    def all_sweeps(self, _: str, query: Query) -> str:
        self.listing.fresh()
        return self.html("sweeps.html", here="sweeps", **self._sweep_rows(query))

    def sweep_rows(self, _: str, query: Query) -> str:
        return self.html("sweep_rows.html", **self._sweep_rows(query))

    def _sweep_rows(self, query: Query) -> Mapping[str, Any]:
        text = query.get("q", "").strip()
        found = self.listing.sweeps(text, MOST_SWEEPS + 1)
        return {"text": text, "sweeps": found[:MOST_SWEEPS], "more": len(found) > MOST_SWEEPS, "most": MOST_SWEEPS}

    def lineage(self, _: str, query: Query) -> str:
        of = query.get("of") or None
        nodes = tree.build(self.root, of, index.rows(self.root))
        if of is None:
            nodes = dict(reversed(nodes.items()))  # the newest tree first
        lines = lineage.shown(nodes, MOST_LINES)
        known = {name for name, node in nodes.items() if node.row is not None}
        return self.html(
            "lineage.html", here="lineage", of=of, tree=lines, known=known, total=len(nodes), counted=counted
        )


def path(*parts: str) -> str:
    """An address on this page; its parts may have any letters."""
    return "/" + "/".join(quote(part, safe="", errors="replace") for part in parts)


def _share(line: Line) -> float:
    assert line.status == RUNNING
    return 100 * line.epochs_done / line.epochs_target if line.epochs_target else 0.0
