"""Which networks a comparison is about: those of every branch, and of what each is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raysweep._text import counted, join_names
from raysweep.errors import NotFoundError, RaysweepError
from raysweep.report import predictions
from raysweep.report.predictions import Predictions
from raysweep.store import layout, ratio, resolve
from raysweep.store.experiment import FINISHED, Experiment
from raysweep.store.records import ParentRef
from raysweep.store.records_sweep import BranchRecord, SweepRecord
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep
from raysweep.weights import Changed, changes

NO_CONTROL = (
    "There is no control, so the effect of the changed ratio cannot be separated from the effect of longer training. "
    "`raysweep branch` trains a control unless the grid says `control: false`."
)

AFTER_LOOKS = (
    "Seeds were added {looks} after this comparison could be read. Whoever adds seeds until something is shown finds something in "
    "the end: that 5 % are false holds for the first look."
)


RACED = (
    "Seeds were added by a race, where they decided something (scheduler: race). Its own test stays valid however often it looks: by "
    "{metric}, {shown} shown to be better than the control. The labels of this comparison hold for one look."
)


def _raced(record: SweepRecord) -> list[str]:
    """What is to be said of a sweep that was a race."""
    if record.race is None:
        return []
    shown = record.race.shown
    names = f"{join_names(shown)} {'is' if len(shown) == 1 else 'are'}" if shown else "no branch is"
    return [RACED.format(metric=str(record.grid.get("select", "macro_f1")).replace("_", "-"), shown=names)]


def grouped(branches: Sequence[BranchRecord]) -> dict[str, list[BranchRecord]]:
    """Name without the seed → the branches of a sweep that differ in their seed only. In sweeps of earlier versions branches of equal
    weights belong together; names do not decide it, because two classes can look the same in them."""
    groups: dict[tuple[Any, ...], list[BranchRecord]] = {}
    for branch in branches:
        key: tuple[Any, ...] = (branch.control, *sorted(branch.weights.items()))
        if branch.arm is not None:
            key = (branch.arm,)
        while any(b.seed == branch.seed for b in groups.get(key, [])):
            key = (*key, "again")  # a search drew the same weights twice
        groups.setdefault(key, []).append(branch)
    named: dict[str, list[BranchRecord]] = {}
    for members in groups.values():
        first = members[0]
        name = first.name
        short = name.replace(f"-seed{first.seed}", "", 1) if len(members) > 1 or "-seed" in name else name
        short = first.arm or short
        named[short if short not in named else name] = members
    return named


@dataclass(frozen=True)
class Evaluated:
    """An experiment and its predictions of one epoch."""

    experiment: Experiment
    predictions: Predictions


@dataclass(frozen=True)
class Arms:
    """``against`` and ``word``: the reference in words and in a sentence. ``references``: its networks. ``groups``: those of every branch;
    ``changed`` what each changes of the ratio, and ``settings`` of the settings. ``of``: branch → the control of its cell."""

    against: str
    word: str
    references: Sequence[Evaluated]
    groups: Mapping[str, Sequence[Evaluated]]
    changed: Mapping[str, Changed]
    notes: Sequence[str] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    of: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> Mapping[str, Sequence[Evaluated]]:
        return {"": self.references, **self.groups}

    @property
    def everyone(self) -> list[Evaluated]:
        return [e for row in self.rows.values() for e in row]

    def of_branch(self, name: str) -> Sequence[Evaluated]:
        """The networks that a branch is compared with."""
        return self.groups[self.of[name]] if name in self.of else self.references


def of_sweep(sweep: Sweep) -> Arms:
    """The networks of a sweep's branches. Those that cannot be compared are left out, and notes say so.

    Raises:
        NotFoundError: there is neither a finished control nor a parent with predictions.
    """
    record = sweep.record()
    notes: list[str] = []
    done = _finished(sweep, record, notes)
    references = [done[b.name] for b in record.branches if b.control and b.name in done]
    if references:
        against = "the control, trained for as many epochs" + (
            f", {len(references)} seeds" if len(references) > 1 else ""
        )
        if record.looks:
            against += f", after {counted(record.looks, 'look')}"
            notes.append(AFTER_LOOKS.format(looks=counted(record.looks, "time")))
        notes += _raced(record)
        word, epoch = "the control", references[0].predictions.epoch
    else:
        if record.parent is None:
            raise NotFoundError(
                f"{sweep.folder / layout.SWEEP} does not name the checkpoint that the sweep started from, and no control is "
                "finished, so there is nothing to compare with."
            )
        parent, against = parent_of(sweep.root, record.parent)
        references, word, epoch = [parent], "the parent", None
        notes.append(NO_CONTROL)
    names = {b.name: name for name, members in grouped(record.branches).items() for b in members}
    groups: dict[str, list[Evaluated]] = {}
    changed: dict[str, Changed] = {}
    settings: dict[str, Mapping[str, Any]] = {}
    of: dict[str, str] = {}
    for branch in record.branches:
        if branch.name not in done:
            continue
        mine = done[branch.name]
        if epoch not in (None, mine.predictions.epoch):
            notes.append(
                f"{branch.name} is omitted, because it ended at epoch {mine.predictions.epoch} and the control at epoch {epoch}."
            )
            references = [r for r in references if r is not mine]
        elif not branch.control:
            name = names[branch.name]
            groups.setdefault(name, []).append(mine)
            changed.setdefault(name, _fork(mine.experiment, record, branch.weights))
            settings[name] = branch.settings
            if branch.reference is not None:
                of[name] = branch.reference
    for name in [name for name, its in of.items() if its not in groups]:
        notes.append(f"{name} is omitted, because {of.pop(name)}, the control of its cell, is not finished.")
        del groups[name]
    for its in dict.fromkeys(of.values()):
        those = join_names([name for name, other in of.items() if other == its])
        notes.append(f"Compared with {its}, the control of the same settings: {those}.")
    return Arms(against, word, references, groups, changed, notes, settings, of)


def _finished(sweep: Sweep, record: SweepRecord, notes: list[str]) -> dict[str, Evaluated]:
    """Branch → its predictions, of the finished ones; a note is added for every other one."""
    experiments = sweep.experiments()
    done: dict[str, Evaluated] = {}
    for branch in record.branches:
        experiment = experiments.get(branch.name)
        if experiment is None or experiment.status() != FINISHED:
            notes.append(f"{branch.name} is not finished, so it is omitted.")
            continue
        try:
            done[branch.name] = last(experiment)
        except RaysweepError as error:
            notes.append(f"{branch.name} is omitted: {error}")
    return done


def _fork(branch: Experiment, record: SweepRecord, weights: Mapping[str, float]) -> Changed:
    """The ratio change of a branch as its log says; if the log does not have it, as the sweep's plan does."""
    change = ratio.of_fork(branch.folder)
    return changes(record.parent_weights, weights) if change is None else change.changed


def parent_of(root: Root, ref: ParentRef) -> tuple[Evaluated, str]:
    """(the parent with its predictions, what these are in words): predictions of the epoch where the children started; if
    those are not kept, of its last epoch."""
    parent, epoch = resolve.by_id(root, ref.experiment), ref.epoch or 0
    try:
        return Evaluated(parent, predictions.read(parent, epoch)), "the checkpoint it started from"
    except NotFoundError:
        newest = last(parent)
        words = f"its parent at epoch {newest.predictions.epoch} (the predictions of epoch {epoch}, which it started from, are not kept)"
        return newest, words


def last(experiment: Experiment) -> Evaluated:
    """The predictions of the last epoch."""
    ends = experiment.manifest().ends
    if not ends:
        raise NotFoundError(f"{experiment.id} has no finished epoch yet, so there is nothing to compare.")
    return Evaluated(experiment, predictions.read(experiment, ends[-1].epoch))
