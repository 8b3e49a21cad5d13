"""The page of one experiment: how far it is, its curves, classes, checkpoints and family, and what its predictions say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysweep._text import counted, labels
from raysweep.display.shares import most_telling
from raysweep.errors import EDITED, RaysweepError, StoreError
from raysweep.label_sets import images_in
from raysweep.report import content, history, tree
from raysweep.report.sections import lineage, pictures
from raysweep.report.sections.records import Group
from raysweep.store import catalog, class_metrics, files, layout, resolve
from raysweep.store.experiment import Experiment
from raysweep.store.fields import Row
from raysweep.store.records import ExperimentConfig
from raysweep.store.root import Root
from raysweep.ui import curves as drawn
from raysweep.ui.computed import Computed
from raysweep.ui.listing import Listing
from raysweep.weights import SamplingWeights

MOST_CHECKPOINTS = 50
MOST_FAMILY = 120  # lines of its tree
MOST_LOG = 20_000  # letters of its log, the last ones
PICTURES = 1_000_000  # bytes

Query = Mapping[str, str]
Html = Callable[..., str]


@dataclass(frozen=True, slots=True)
class ClassLine:
    """A class: its training images, weight and shares, and what the best epoch reached of it."""

    name: str
    images: int
    of_data: float
    weight: float
    shown: float
    recall: float | None
    f1: float | None
    precision: float | None


@dataclass(frozen=True)
class Experiments:
    """Makes the page and its parts."""

    root: Root
    listing: Listing
    computed: Computed
    html: Html

    def _find(self, name: str) -> Experiment:
        found = resolve.by_id(self.root, name)
        if name.startswith(".") or not files.inside(self.root.path, found.folder):
            raise resolve.gone(self.root, name)
        return found

    def page(self, name: str, _: Query) -> str:
        found = self._find(name)
        family, known = self._family(found)
        return self.html(
            "experiment.html",
            here="experiments",
            tree=family,
            known=known,
            log=_log(found),
            **self._state(found),
            **self._classes(found, every=False),
        )

    def state(self, name: str, _: Query) -> str:
        """How far it is, and its checkpoints."""
        return self.html("experiment_state.html", **self._state(self._find(name)))

    def classes(self, name: str, query: Query) -> str:
        return self.html("classes.html", **self._classes(self._find(name), query.get("every") == "1"))

    def curves(self, name: str, query: Query) -> Mapping[str, Any]:
        return drawn.of_groups([Group(name, [self._find(name)])], _asked(query))

    def results(self, name: str, _: Query) -> str:
        """What its predictions say: the difference from its parent, the confusion matrix, images. Computed anew after an epoch."""
        found = self._find(name)
        row = catalog.summary(found)
        state = (row.status, row.epochs_done, row.best_epoch)

        def make() -> str:
            page = content.of_experiment(self.root, found, charts=False)
            shown = None if page.pictures is None else pictures.filled(page.pictures, PICTURES)
            return self.html("experiment_results.html", page=page, **with_pictures(shown, page))

        return self.computed.get(("experiment", name), state, make)

    def _state(self, found: Experiment) -> Mapping[str, Any]:
        row, manifest = catalog.summary(found), found.manifest()
        ends = manifest.ends
        return {
            "row": row,
            "config": _config(found),
            "checkpoints": list(reversed(ends))[:MOST_CHECKPOINTS],
            "older": max(0, len(ends) - MOST_CHECKPOINTS),
            "best_file": manifest.best_file,
            "next": self._next(row),
            "counted": counted,
        }

    def _next(self, row: Row) -> list[tuple[str, Sequence[str]]]:
        """(what it does, the words of the command): what one may want to do next."""
        if row.status in ("interrupted", "crashed"):
            return [("Go on from its newest checkpoint", ("continue", row.id))]
        if row.status == "legacy" or row.best_epoch is None:
            return []
        return [
            (
                "Try other class ratios from its best epoch",
                ("branch", "--from", f"{row.id}@best", "--weights-grid", "grid"),
            ),
            *([("Compare it with its parent", ("compare", row.id))] if row.parent else []),
        ]

    def _classes(self, found: Experiment, every: bool) -> Mapping[str, Any]:
        lines, total = _class_lines(found, every)
        return {"classes": lines, "classes_total": total, "name": found.id}

    def _family(self, found: Experiment) -> tuple[Sequence[Any], set[str]]:
        """(the lines of its tree, the ids in it that have a page)."""
        self.listing.fresh()
        nodes = tree.build(self.root, rows=self.listing.rows(self.listing.family(found.id)))
        lines = lineage.shown(nodes, MOST_FAMILY)
        return lines, {line.name for line in lines if line.name in self.listing.lines}


def column(root: Root, name: str, key: str) -> list[float | None]:
    """A column of an experiment's history; empty where there is none yet."""
    try:
        return history.read_history(resolve.by_id(root, name)).get(key, [])
    except RaysweepError:
        return []


def with_pictures(shown: Any, page: content.Content) -> Mapping[str, Any]:
    """What ``parts/pictures.html`` needs."""
    copied = shown is not None and any(p.copied for c in shown.classes for row in c.rows for p in row.pictures)
    return {"pictures": shown, "compared": page.heat is not None, "against": page.against, "copied": copied}


def _asked(query: Query) -> list[str]:
    """The classes that a page wants to see."""
    return [value for key, value in getattr(query, "items", dict)() if key == "class"]


def _config(found: Experiment) -> ExperimentConfig | None:
    try:
        return found.config()
    except StoreError:
        return None


def _class_lines(found: Experiment, every: bool) -> tuple[list[ClassLine], int]:
    """(the classes that say most, or every one; how many there are). Empty where the configuration does not name them."""
    config = _config(found)
    if config is None or not config.class_counts:
        return [], 0
    try:
        counts = config.pool
        sampled = SamplingWeights.complete(config.sampling_weights, list(counts))
        weights, shares, total = sampled.as_dict(), sampled.shares(counts), images_in(counts)
        best = found.manifest().best
        reached = {} if best is None else class_metrics.of_epoch(found, best.epoch)
        chosen = list(counts) if every else most_telling(counts, weights, shares, reached)
    except EDITED:
        return [], 0
    names = dict(zip(counts, labels(list(counts)), strict=True))
    made = [
        ClassLine(
            names[c], counts[c], counts[c] / total, weights[c], shares[c],
            *(reached.get(f"{kind}_{c}") for kind in class_metrics.KINDS),
        )
        for c in chosen
    ]  # fmt: skip
    return made, len(counts)


def _log(found: Experiment) -> str:
    """The end of the log for people."""
    try:
        text = files.read_all(found.folder / layout.CHANGES).decode(errors="replace")
    except (RaysweepError, OSError):
        return ""
    return text if len(text) <= MOST_LOG else f"…{text[-MOST_LOG:]}"
