"""What the page of a sweep or an experiment says: plain records in the order of the page, each made by its section."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from raysweep._text import counted, join_names
from raysweep.data.reading import ON_TEST
from raysweep.errors import RaysweepError
from raysweep.report import comparison as comparing
from raysweep.report import evaluated, predictions, verdict
from raysweep.report.comparison import Comparison
from raysweep.report.effects import ALL
from raysweep.report.sections import (
    branches,
    confusion,
    differences,
    learning_curves,
    lineage,
    pictures,
    reproduce,
    shares,
)
from raysweep.report.sections.pictures import Candidates
from raysweep.report.sections.records import (
    BranchLine,
    Command,
    Confusion,
    Curves,
    Group,
    Heat,
    LegendEntry,
    Panel,
    Recipe,
    Shares,
    SourceFile,
    TreeLine,
    Verdict,
)
from raysweep.store import catalog
from raysweep.store.commands import command
from raysweep.store.experiment import Experiment
from raysweep.store.records_sweep import SweepRecord
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep

MOST_BRANCHES = 60  # that are shown; effects.csv has all


@dataclass(frozen=True)
class Content:
    """Everything on the page. Texts are as users wrote them; whoever shows them escapes them."""

    title: str
    subtitle: Sequence[str]
    made: str
    notes: Sequence[str]
    tree: Sequence[TreeLine]
    branches: Sequence[BranchLine]
    shares: Shares | None
    legend: Sequence[LegendEntry]
    panels: Sequence[Panel]
    commands: Sequence[Command]
    files: Sequence[SourceFile]
    confusions: Sequence[Confusion] = ()
    # What follows is empty where nothing is compared.
    verdicts: Sequence[Verdict] = ()
    against: str = ""  # the reference, in words
    offsets: str = ""  # the name of what the reference gets without training
    offsets_for: str = ""  # the metric, in words
    next: Sequence[str] = ()  # commands
    heat: Heat | None = None
    pictures: Candidates | None = None


def of_sweep(sweep: Sweep, comparison: Comparison | None = None, charts: bool = True) -> Content:
    """The page of a sweep. Where nothing can be compared, it has no effects and a note says why.

    Args:
        comparison: of the sweep, if it was computed already.
        charts: False for a page that draws the learning curves itself.

    Raises:
        StoreError: ``sweep.json`` is damaged.
    """
    record = sweep.record()
    experiments = sweep.experiments()
    parent = record.parent.experiment if record.parent else None
    tree = lineage.lines(sweep.root, parent, 4 * MOST_BRANCHES, {e.id for e in experiments.values()})
    groups = groups_of(record, experiments)
    notes: list[str] = []
    try:
        comparison = comparison or comparing.of_sweep(sweep)
    except RaysweepError as error:
        notes.append(str(error))
    recipe = reproduce.sweep(sweep, [e for group in groups for e in group.members], 4 * MOST_BRANCHES)
    page = _page(sweep.id, _about_sweep(record), tree, groups, comparison, notes, recipe, charts)
    if not page.verdicts or (comparison is not None and comparison.several):
        return page
    return replace(page, next=[command(sweep.root, "suggest", sweep.id)])


def of_experiment(root: Root, experiment: Experiment, charts: bool = True) -> Content:
    """The page of one experiment, compared with its parent if it has one.

    Args:
        charts: False for a page that draws the learning curves itself.

    Raises:
        StoreError: its configuration is damaged.
    """
    about = _about_experiment(experiment)
    tree = lineage.lines(root, experiment.id, 4 * MOST_BRANCHES)
    comparison, notes = None, []
    if experiment.config().parent:
        try:
            comparison = comparing.of_child(root, experiment)
        except RaysweepError as error:
            notes.append(str(error))
    group = Group(experiment.id, [experiment])
    return _page(experiment.id, about, tree, [group], comparison, notes, reproduce.experiment(experiment), charts)


def _about_sweep(record: SweepRecord) -> list[str]:
    of_branches, of_control = (len({b.seed for b in record.branches if b.control == which}) for which in (False, True))
    seeds = counted(of_branches or of_control, "seed")
    seeds += f", the control {of_control}" if of_branches and of_control not in (0, of_branches) else ""
    return [
        f"{counted(len(record.branches), 'branch', 'branches')} of {record.parent.reference if record.parent else '?'}",
        f"{counted(record.epochs, 'epoch') if record.epochs else '? epochs'} each, {seeds}",
    ]


def _about_experiment(experiment: Experiment) -> list[str]:
    row, config = catalog.summary(experiment), experiment.config()
    about = [
        f"{row.status}, {row.epochs_done} of {counted(row.epochs_target, 'epoch') if row.epochs_target else '? epochs'}",
        f"model {config.model_name}",
    ]
    if row.parent:
        about.append(f"child of {row.parent.reference}")
    if config.experiment_description:
        about.append(str(config.experiment_description))
    return about


def groups_of(record: SweepRecord, experiments: Mapping[str, Experiment]) -> list[Group]:
    """The experiments of a sweep, those that differ in their seed only together."""
    named = evaluated.grouped([b for b in record.branches if b.name in experiments])
    return [
        Group(name, [experiments[b.name] for b in members], any(b.control for b in members))
        for name, members in named.items()
    ]


def _page(
    title: str,
    about: Sequence[str],
    tree: Sequence[TreeLine],
    groups: Sequence[Group],
    comparison: Comparison | None,
    notes: Sequence[str],
    recipe: Recipe,
    charts: bool,
) -> Content:
    shown, omitted = _shown(groups, comparison)
    curves = learning_curves.curves(shown, title) if charts else Curves()
    of_comparison = [] if comparison is None else comparison.notes
    page = Content(
        title=title,
        subtitle=about,
        made=datetime.now().isoformat(sep=" ", timespec="minutes"),
        notes=[*notes, *of_comparison, *_on_test(groups, comparison), *omitted, *curves.notes, *recipe.notes],
        tree=tree,
        branches=[branches.line(group, comparison) for group in shown],
        shares=shares.table(shown),
        legend=curves.legend,
        panels=curves.panels,
        commands=recipe.commands,
        files=recipe.files,
    )
    if comparison is not None:
        return _compared(page, comparison)
    if len(groups) != 1:  # of a sweep that has just begun there is none
        return page
    (alone,) = groups[0].members[:1]
    return replace(page, confusions=confusion.own(alone), pictures=pictures.own(alone))


def _on_test(groups: Sequence[Group], comparison: Comparison | None) -> list[str]:
    """That all was chosen on the test images, where it was and no verdict says it."""
    members = [] if comparison is not None and comparison.pairs else [m for group in groups for m in group.members]
    for member in members:
        with contextlib.suppress(RaysweepError):  # it has no predictions
            return [ON_TEST] if predictions.read(member).on_test else []
    return []


def _compared(page: Content, comparison: Comparison) -> Content:
    """The page with what the comparison says of the branches that it shows."""
    known = {b.name for b in comparison.branches}
    names = [line.name for line in page.branches if line.name in known]
    return replace(
        page,
        notes=[*page.notes, *differences.omitted(comparison, len(names))],
        subtitle=[*page.subtitle, counted(comparison.images, "validation image")],
        verdicts=differences.verdicts(comparison),
        against=comparison.against,
        offsets=join_names(comparison.moved),
        offsets_for=verdict.NAMES[comparison.offsets_for],
        heat=differences.heat(comparison, names),
        confusions=confusion.compared(comparison, names),
        pictures=pictures.compared(comparison, names),
    )


def _shown(groups: Sequence[Group], comparison: Comparison | None) -> tuple[Sequence[Group], list[str]]:
    """(the groups that the page shows, the control first and then the best by macro-F1; a note if some are omitted)."""
    if comparison is not None:
        first = comparison.overall[0]
        gain = {b.name: comparison.of(b.name, ALL, first).difference for b in comparison.branches}
        groups = sorted(groups, key=lambda g: (not g.control, -gain.get(g.name, -2.0)))
    if len(groups) <= MOST_BRANCHES:
        return groups, []
    which = "best" if comparison is not None else "first"
    note = f"The {which} {MOST_BRANCHES} of {len(groups):,} branches are shown; effects.csv has all."
    return groups[:MOST_BRANCHES], [note]
