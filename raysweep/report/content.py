"""What the page of a sweep or an experiment tells: plain values, ready to be shown, in the order of the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from raysweep.errors import RaysweepError, StoreError
from raysweep.report import commands, curves, figures, predictions, tree
from raysweep.report import comparison as comparing
from raysweep.report.comparison import Comparison
from raysweep.report.effects import ALL, BETTER, WORSE
from raysweep.report.parts import (
    BranchLine,
    Command,
    Confused,
    Confusion,
    ConfusionLine,
    Heat,
    HeatCell,
    HeatLine,
    LegendEntry,
    Panel,
    Share,
    ShareLine,
    Shares,
    TreeLine,
)
from raysweep.store import catalog
from raysweep.store.experiment import Experiment
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep
from raysweep.weights import describe_changed

MOST_BRANCHES = 60  # that are shown; effects.csv has all
MOST_CELLS = 25  # classes of a confusion matrix that is shown whole
MOST_PANELS = 12  # classes with learning curves
_NAMES = {"f1": "F1", "recall": "recall", "precision": "precision", "accuracy": "accuracy", "macro_f1": "macro-F1"}


@dataclass
class Content:
    """Everything on the page. Texts are as users wrote them: whoever shows them escapes them."""

    title: str
    subtitle: list[str]
    made: str
    verdicts: list[tuple[str, str]] = field(default_factory=list)  # (better | worse | nothing, sentence)
    against: str = ""
    notes: list[str] = field(default_factory=list)
    tree: list[TreeLine] = field(default_factory=list)
    branches: list[BranchLine] = field(default_factory=list)
    heat: Heat | None = None
    shares: Shares | None = None
    legend: list[LegendEntry] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    confusions: list[Confusion] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    files: list[tuple[str, str]] = field(default_factory=list)  # (what to call it, its content)


def of_sweep(sweep: Sweep, comparison: Comparison | None = None) -> Content:
    """The page of a sweep; without effects where there is nothing to compare, which is then said.

    Args:
        comparison: of the sweep, where it is known already.

    Raises:
        StoreError: ``sweep.json`` is damaged.
    """
    record = sweep.record()
    found = sweep.experiments()
    seeds = len({b.seed for b in record.branches})
    told = [
        f"{len(record.branches)} branches of {record.parent.reference if record.parent else '?'}",
        f"{record.epochs or '?'} epochs each, {seeds} seed{'s' * (seeds > 1)}",
    ]
    page = Content(sweep.id, told, datetime.now().isoformat(sep=" ", timespec="minutes"))
    page.tree = _tree(sweep.root, record.parent.experiment if record.parent else None, {e.id for e in found.values()})
    named = comparing.grouped([b for b in record.branches if b.name in found])
    groups = {name: [found[b.name] for b in members] for name, members in named.items()}
    control = [found[b.name] for members in named.values() for b in members if b.control]
    try:
        comparison = comparison or comparing.of_sweep(sweep)
    except RaysweepError as error:
        page.notes.append(str(error))
    _fill(page, comparison, groups, control)
    _reproduce(page, groups)
    try:
        command, grid = commands.of_sweep(sweep)
        page.commands.insert(0, Command("the whole sweep", command))
        page.files.append(("grid.yaml", grid))
    except RaysweepError as error:
        page.notes.append(str(error))
    return page


def of_experiment(root: Root, experiment: Experiment) -> Content:
    """The page of one experiment, compared with its parent if it has one.

    Raises:
        StoreError: its configuration is damaged.
    """
    row = catalog.summary(experiment)
    config = experiment.config()
    told = [
        f"{row.status}, {row.epochs_done} of {row.epochs_target or '?'} epochs",
        f"model {config.model_name}",
    ]
    if row.parent:
        told.append(f"child of {row.parent.reference}")
    if config.experiment_description:
        told.append(str(config.experiment_description))
    page = Content(experiment.id, told, datetime.now().isoformat(sep=" ", timespec="minutes"))
    page.tree = _tree(root, experiment.id, None)
    comparison = None
    if row.parent:
        try:
            comparison = comparing.of_child(root, experiment)
        except RaysweepError as error:
            page.notes.append(str(error))
    _fill(page, comparison, {experiment.id: [experiment]}, [])
    _reproduce(page, {experiment.id: [experiment]})
    if not page.commands and (settings := commands.settings_of(experiment)):
        page.commands.append(Command(experiment.id, "raysweep run settings.yaml"))
        page.files.append(("settings.yaml", settings))
    return page


def _fill(
    page: Content,
    comparison: Comparison | None,
    groups: Mapping[str, Sequence[Experiment]],
    control: Sequence[Experiment],
) -> None:
    """Everything that is of the branches."""
    order = list(groups)
    if comparison is not None:
        page.against = comparison.against
        page.notes += comparison.notes
        page.subtitle.append(f"{sum(comparison.counts.values()):,} validation images")
        page.verdicts = _verdicts(comparison)
        gain = {b.name: comparison.of(b.name, ALL, "macro_f1").difference for b in comparison.branches}
        ids = {e.id for e in control}
        order = sorted(groups, key=lambda n: (not any(e.id in ids for e in groups[n]), -gain.get(n, -2.0)))
    if len(order) > MOST_BRANCHES:
        which = "best" if comparison is not None else "first"
        page.notes.append(f"The {MOST_BRANCHES} {which} of {len(order):,} branches are shown; effects.csv has all.")
        order = order[:MOST_BRANCHES]
    if comparison is not None:
        shown = [b.name for name in order for b in comparison.branches if b.name == name]
        page.heat = _heat(comparison, shown)
        page.confusions = list(_confusions(comparison, shown))
    elif len(groups) == 1:
        page.confusions = list(_own_confusion(next(iter(groups.values()))[0]))
    rows = {name: groups[name] for name in order}
    page.branches = [_branch(name, members, comparison, control) for name, members in rows.items()]
    page.shares = _shares(rows)
    _curves(page, rows, control)


def _verdicts(comparison: Comparison) -> list[tuple[str, str]]:
    """What is more than noise, the strongest first; that nothing is, where nothing is; nothing where nobody knows."""
    if not comparison.pairs:
        return []
    real = [e for e in comparison.effects if e.label in (BETTER, WORSE) and (e.metric == "f1" or e.target == ALL)]
    found = []
    for e in sorted(real, key=lambda e: -abs(e.difference)):
        what = _NAMES[e.metric] if e.target == ALL else f"F1 of {e.target}"
        found.append(
            (
                e.label,
                f"{e.branch}: {what} {100 * e.reference:.1f} → {100 * e.value:.1f} ({_points(e.difference)}, 95 % interval "
                f"{_points(e.low)} … {_points(e.high)})",
            )
        )
    overall = {e.branch for e in real if e.metric == "macro_f1" and e.label == BETTER}
    if not found:
        return [
            ("nothing", "Nothing is larger than noise: no branch is better or worse than what it is compared with.")
        ]
    if not overall:
        found.append(("nothing", "No branch is better over all classes (macro-F1) by more than noise."))
    return found


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


# --- the tree and the branches ----------------------------------------------------------------------------------------


def _tree(root: Root, of: str | None, branches: set[str] | None) -> list[TreeLine]:
    """The ancestors of an experiment, itself, and of its descendants those of a sweep (or all)."""
    try:
        nodes = tree.build(root, str(of))
    except RaysweepError:
        nodes = tree.build(root)
    if branches is not None:
        above: set[str] = set()
        at: str | None = str(of)
        while at is not None and at in nodes and at not in above:
            above.add(at)
            at = nodes[at].parent
        nodes = {i: n for i, n in nodes.items() if i in above or i in branches}
        for node in nodes.values():
            node.children = [c for c in node.children if c in nodes]
    inner = {i for i, n in nodes.items() if n.parent in nodes}  # an edge leads to them
    end = max([n.end for n in nodes.values()] + [1])
    return [
        TreeLine(
            guides=guides.split("@")[0],
            edge=f"@{nodes[i].epoch} {tree.edge(nodes[i])}" if i in inner else "",
            name=i,
            about=about,
            start=100 * nodes[i].epoch / end,
            length=100 * max(0, nodes[i].end - nodes[i].epoch) / end,
            control=nodes[i].control,
        )
        for guides, i, about in list(tree.lines(nodes))[: 4 * MOST_BRANCHES]
    ]


def _branch(
    name: str, members: Sequence[Experiment], comparison: Comparison | None, control: Sequence[Experiment]
) -> BranchLine:
    rows = [catalog.summary(e) for e in members]
    last = [ends[-1].metrics for m in members if (ends := m.manifest().ends)]

    def mean(key: str) -> float | None:
        values = [float(m[key]) for m in last if isinstance(m.get(key), (int, float))]
        return float(np.mean(values)) if values else None

    of = next((b for b in comparison.branches if b.name == name), None) if comparison else None
    costs = [comparing.cost(m) for m in members]
    return BranchLine(
        name=name,
        control=any(m.id in {c.id for c in control} for m in members),
        change=describe_changed(rows[0].change),
        status=", ".join(sorted({r.status for r in rows})),
        seeds=len(members),
        accuracy=mean("val_acc"),
        macro_f1=mean("val_macro_f1"),
        worst=str(last[0].get("worst_class") or "-") if last else "-",
        worst_recall=mean("worst_recall"),
        d_accuracy=comparison.of(name, ALL, "accuracy") if comparison and of else None,
        d_macro_f1=comparison.of(name, ALL, "macro_f1") if comparison and of else None,
        seconds=sum(c[0] for c in costs),
        images=sum(c[1] for c in costs),
    )


def _heat(comparison: Comparison, names: Sequence[str]) -> Heat:
    """Cells (branch × class) of every metric, with the strength of their colour from 0 to 1."""
    tables = {}
    for metric in ("f1", "recall", "precision"):
        targets = [*((c, metric) for c in comparison.classes), (ALL, "macro_f1"), (ALL, "accuracy")]
        found = {name: [comparison.of(name, t, m) for t, m in targets] for name in names}
        sizes = [abs(e.difference) for row in found.values() for e in row if not math.isnan(e.difference)]
        most = max(sizes, default=0.0) or 1.0
        tables[metric] = [
            HeatLine(name, [HeatCell(e, abs(e.difference) / most) for e in row]) for name, row in found.items()
        ]
    heads = [(c, f"{comparison.counts[c]:,} images") for c in comparison.classes] + [
        ("macro-F1", "all"),
        ("accuracy", "all"),
    ]
    return Heat(heads, tables, _NAMES)


def _shares(groups: Mapping[str, Sequence[Experiment]]) -> Shares | None:
    """Of every branch the share of each class that its weights asked for, and that of the images really shown."""
    rows: list[ShareLine] = []
    classes: list[str] = []
    for name, members in groups.items():
        asked: dict[str, float] = {}
        shown: dict[str, float] = {}
        for member in members:
            for kind, into in (("requested_", asked), ("realised_", shown)):
                for c, n in _own_sums(member, kind).items():
                    into[c] = into.get(c, 0) + n
        if not shown:
            continue
        classes = classes or list(shown)
        total, wanted = sum(shown.values()) or 1, sum(asked.values()) or 1
        weights = members[0].config().sampling_weights
        cells = [
            Share(
                weight=weights.get(c, 1.0),
                requested=asked.get(c, 0) / wanted,
                realised=shown.get(c, 0) / total,
                off=int(shown.get(c, 0) - asked.get(c, 0)),
            )
            for c in classes
        ]
        rows.append(ShareLine(name, cells))
    return Shares(classes, rows) if rows else None


def _own_sums(experiment: Experiment, kind: str) -> dict[str, float]:
    try:
        history = figures.read_history(experiment)
    except StoreError:
        return {}
    fork = experiment.config().fork
    own = [i for i, epoch in enumerate(history.get("epoch", [])) if epoch is not None and epoch > fork]
    return {c.removeprefix(kind): sum(v[i] or 0 for i in own) for c, v in history.items() if c.startswith(kind)}


# --- curves and confusions --------------------------------------------------------------------------------------------


def _curves(page: Content, groups: Mapping[str, Sequence[Experiment]], control: Sequence[Experiment]) -> None:
    ids = {c.id for c in control}
    styles: dict[str, int | None] = {}
    for name, members in groups.items():
        is_control = any(m.id in ids for m in members)
        styles[name] = None if is_control else sum(s is not None for s in styles.values())
    histories = []
    for name, members in groups.items():
        for member in members:
            try:
                history = figures.read_history(member)
            except StoreError:
                continue
            fork = member.config().fork or None
            epochs = [int(e) if e is not None else i + 1 for i, e in enumerate(history.get("epoch", []))]
            histories.append((styles[name], history, epochs, fork))
    if not histories:
        return
    classes = [c.removeprefix("f1_") for c in histories[0][1] if c.startswith("f1_")]
    if len(classes) > MOST_PANELS:
        page.notes.append(f"Learning curves are of the first {MOST_PANELS} of {len(classes)} classes.")
    columns = [("macro-F1", "val_macro_f1"), ("accuracy", "val_acc")]
    columns += [(f"F1 of {c}", f"f1_{c}") for c in classes[:MOST_PANELS]]
    for number, (title, column) in enumerate(columns):
        lines = [curves.Line(e, h.get(column, []), s, f) for s, h, e, f in histories]
        if any(v is not None for line in lines for v in line.values):
            page.panels.append(Panel(title, curves.svg(lines, f"{page.title}-{number}")))
    page.legend = [
        LegendEntry(name, curves.colour(s), {"-": "solid", "--": "dashed", ":": "dotted"}[curves.dash(s)])
        for name, s in styles.items()
    ]


def _confusions(comparison: Comparison, names: Sequence[str]) -> Iterator[Confusion]:
    """Confusion matrices of the branches, all seeds together, beside those of what they are compared with."""
    by_name = {p.name: p for p in comparison.pairs}
    for name in names if by_name else ():
        pair = by_name[name]
        of_branch, of_reference = (
            _matrix(pair.labels, rows, len(comparison.classes)) for rows in (pair.branch, pair.reference)
        )
        yield _confusion(name, comparison.classes, of_branch, of_reference, len(pair.branch))


def _own_confusion(experiment: Experiment) -> Iterator[Confusion]:
    try:
        found = predictions.read(experiment)
    except RaysweepError:
        return
    yield _confusion(f"{experiment.id}, epoch {found.epoch}", found.classes, found.matrix, None, 1)


def _matrix(labels: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    return sum((np.bincount(labels * k + row, minlength=k * k) for row in rows), np.zeros(k * k, int)).reshape(k, k)


def _confusion(
    name: str, classes: Sequence[str], matrix: np.ndarray, reference: np.ndarray | None, seeds: int
) -> Confusion:
    total = np.maximum(1, matrix.sum(1))
    share = matrix / total[:, None]
    change = share - reference / total[:, None] if reference is not None else np.zeros_like(share)

    def cell(i: int, j: int) -> Confused:
        return Confused(classes[i], classes[j], float(share[i, j]), int(matrix[i, j]), float(change[i, j]))

    found = Confusion(name, seeds, reference is not None, list(classes))
    k = range(len(classes))
    if len(classes) <= MOST_CELLS:
        rows = [ConfusionLine(classes[i], int(total[i]) // seeds, [cell(i, j) for j in k]) for i in k]
        return replace(found, rows=rows)
    # What changed most, or what is confused most.
    size = np.abs(change) if reference is not None else share * (1 - np.eye(len(classes)))
    order = np.argsort(-size, axis=None, kind="stable")[:30]
    return replace(found, most=[cell(*divmod(int(at), len(classes))) for at in order])


def _reproduce(page: Content, groups: Mapping[str, Sequence[Experiment]]) -> None:
    for members in groups.values():
        for member in members:
            try:
                command = commands.of_child(member)
            except RaysweepError as error:
                page.notes.append(str(error))
                continue
            if command:
                page.commands.append(Command(member.id, command))
    del page.commands[4 * MOST_BRANCHES :]
