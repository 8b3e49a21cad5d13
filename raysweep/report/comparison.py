"""What is compared with what: the branches of a sweep with their controls, a child with its parent, or experiments with
the first one named; always the predictions of the last epoch, on the same validation images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from raysweep._text import short_repr
from raysweep.errors import AmbiguousReferenceError, InputError, NotFoundError, RaysweepError, StoreError
from raysweep.report import effects, predictions, recorded
from raysweep.report.effects import Effect, Pair
from raysweep.report.history import class_sums, own_rows, read_history
from raysweep.report.predictions import Predictions
from raysweep.store import catalog, files, layout, ratio, resolve
from raysweep.store import sweep as sweeps
from raysweep.store.experiment import FINISHED, Experiment
from raysweep.store.records import ParentRef
from raysweep.store.records_sweep import BranchRecord, SweepRecord
from raysweep.store.sweep import Sweep
from raysweep.weights import Changed, changes


@dataclass(frozen=True)
class Compared:
    """One branch, with all its seeds."""

    name: str
    experiments: list[str]
    references: list[str]
    change: Changed  # from the reference to the branch
    seconds: float  # training, all seeds, the parent's epochs not counted
    images: int  # shown, likewise
    epoch: int


@dataclass(frozen=True)
class Comparison:
    """``against`` says in words what every difference is to; ``notes`` what could not be compared, and what to beware of."""

    title: str
    against: str
    classes: tuple[str, ...]
    counts: dict[str, int]  # validation images per class
    branches: list[Compared]
    effects: list[Effect]
    pairs: list[Pair]  # the predictions behind them, in the order of the branches
    notes: list[str] = field(default_factory=list)

    def of(self, branch: str, target: str, metric: str) -> Effect:
        """Raises KeyError if that was not compared."""
        return self._index[branch, target, metric]

    @cached_property
    def _index(self) -> dict[tuple[str, str, str], Effect]:
        return {(e.branch, e.target, e.metric): e for e in self.effects}


ONE_SEED = (
    "There is one seed: what is called better or worse is a difference of these trainings; how much of it another seed "
    "would undo is not known. `seeds: [0, 1, 2]` in the grid tells."
)


NO_CONTROL = (
    "There is no control: what comes of training on, and what of the other ratio, cannot be told apart. "
    "`raysweep branch` trains a control unless the grid says `control: false`."
)


def compare(root: Path, references: Sequence[str]) -> Comparison:
    """Compare a sweep, one experiment with its parent, or several experiments with the first.

    Raises:
        NotFoundError: no such thing, or it has no predictions yet. InputError: they cannot be compared.
    """
    if len(references) == 1:
        found = subject(root, references[0])
        return of_sweep(found) if isinstance(found, Sweep) else of_child(root, found)
    return _with_first([resolve.find_experiment(root, r) for r in references])


def subject(root: Path, reference: str) -> Sweep | Experiment:
    """The sweep or the experiment that a reference means: a path, an id or a name of either, else the start of one, of a
    sweep first.

    Raises:
        NotFoundError: there is none, or several.
    """
    if os.path.isfile(os.path.join(reference, layout.CONFIG)):
        return resolve.find_experiment(root, reference)
    if not os.path.isfile(os.path.join(reference, layout.SWEEP)):
        of_sweeps = [s for s in sweeps.all_sweeps(root) if reference in (s.id, layout.split_id(s.id)[0])]
        others = [e for e in catalog.experiments(root) if reference in (e.id, layout.split_id(e.id)[0])]
        if of_sweeps and others:
            both = ", ".join([*(s.id for s in of_sweeps[-3:]), *(e.id for e in others[-3:])])
            raise AmbiguousReferenceError(
                f"{short_repr(reference)} fits a sweep and an experiment: {both}. Give the whole id."
            )
        if others:
            return resolve.find_experiment(root, reference)
    try:
        return resolve.find_sweep(root, reference)
    except AmbiguousReferenceError:
        raise
    except NotFoundError:
        return resolve.find_experiment(root, reference)


def grouped(branches: Sequence[BranchRecord]) -> dict[str, list[BranchRecord]]:
    """The branches of a sweep by name, without their seeds: those of equal weights are one branch. Names alone would not
    tell, since different classes may be written alike in them."""
    groups: dict[tuple[Any, ...], list[BranchRecord]] = {}
    for branch in branches:
        key: tuple[Any, ...] = (branch.control, *sorted(branch.weights.items()))
        while any(b.seed == branch.seed for b in groups.get(key, [])):
            key = (*key, "again")  # a search that drew the same weights twice
        groups.setdefault(key, []).append(branch)
    named: dict[str, list[BranchRecord]] = {}
    for members in groups.values():
        first = members[0]
        name = first.name
        short = name.replace(f"-seed{first.seed}", "", 1) if len(members) > 1 or "-seed" in name else name
        named[short if short not in named else name] = members
    return named


def of_sweep(sweep: Sweep) -> Comparison:
    """Every branch against the control of its seed, or, without any control, against the parent; branches that differ only
    in their seed are one branch.

    Raises:
        NotFoundError: there is neither a finished control nor a parent with predictions. InputError: no finished branch.
    """
    record = sweep.record()
    found = sweep.experiments()
    notes: list[str] = []
    done: dict[str, tuple[Experiment, Predictions]] = {}
    for branch in record.branches:
        experiment = found.get(branch.name)
        if experiment is None or experiment.status() != FINISHED:
            notes.append(f"{branch.name} is not finished and was left out.")
            continue
        try:
            done[branch.name] = experiment, _last(experiment)
        except RaysweepError as error:
            notes.append(f"{branch.name} was left out: {error}")
    controls = {b.seed: done[b.name] for b in record.branches if b.control and b.name in done}
    against = "the control, trained exactly as long" + (f", {len(controls)} seeds each" if len(controls) > 1 else "")
    without = not controls
    if without:
        if record.parent is None:
            raise NotFoundError(f"{sweep.folder} does not say which checkpoint it started from.")
        parent, reference, against = _parent(sweep.root, record.parent)
        controls = {b.seed: (parent, reference) for b in record.branches}
        notes.append(NO_CONTROL)
    groups: dict[str, list[tuple[Experiment, Predictions, Experiment, Predictions]]] = {}
    weights: dict[str, Mapping[str, float]] = {}
    of_group = {b.name: name for name, members in grouped(record.branches).items() for b in members}
    for branch in record.branches:
        if branch.control or branch.name not in done:
            continue
        if branch.seed not in controls:
            notes.append(f"{branch.name} has no finished control of its seed and was left out.")
            continue
        mine, theirs = done[branch.name], controls[branch.seed]
        if mine[1].epoch != theirs[1].epoch and not without:
            notes.append(f"{branch.name} ended at epoch {mine[1].epoch}, its control at {theirs[1].epoch}: left out.")
            continue
        name = of_group[branch.name]
        groups.setdefault(name, []).append((*mine, *theirs))
        weights[name] = branch.weights
    changed = {name: _fork(members[0][0], record, weights[name]) for name, members in groups.items()}
    return _compared(sweep.id, against, groups, changed, notes)


def _fork(branch: Experiment, record: SweepRecord, weights: Mapping[str, float]) -> Changed:
    """What a branch of a sweep changed, as its log says; without one there, as the sweep's plan does."""
    change = ratio.of_fork(branch.folder)
    return changes(record.parent_weights, weights) if change is None else change.changed


def _with_first(experiments: Sequence[Experiment]) -> Comparison:
    first, *others = experiments
    if any(map(recorded.is_old, experiments)):
        return _by_record(first, others, first.id)
    reference = _last(first)
    groups = {e.id: [(e, _last(e), first, reference)] for e in others}
    changed = {e.id: ratio.between(first, e) for e in others}
    notes = [
        f"{e.id} ended at epoch {groups[e.id][0][1].epoch}, {first.id} at {reference.epoch}."
        for e in others
        if groups[e.id][0][1].epoch != reference.epoch
    ]
    return _compared(f"{first.id} and {len(others)} more", f"{first.id}", groups, changed, notes)


def of_child(root: Path, child: Experiment) -> Comparison:
    """A child against the checkpoint that it started from, or what the parent has predictions of."""
    config = child.config()
    if config.parent is None:
        raise InputError(
            f"{child.id} has no parent to be compared with. Name another experiment beside it: "
            f"raysweep compare OTHER {child.id}"
        )
    if recorded.is_old(before := resolve.by_id(root, config.parent.experiment)):
        return _by_record(before, [child], f"its parent {before.id}", [NO_CONTROL])
    parent, reference, words = _parent(root, config.parent)
    mine = _last(child)
    change = ratio.from_parent(child, parent)
    return _compared(child.id, words, {child.id: [(child, mine, parent, reference)]}, {child.id: change}, [NO_CONTROL])


OLD = (
    "The old system kept no predictions, so what of a difference is noise, and whether the images were the same, is not known. "
    "`raysweep import OLD data.path=IMAGES` evaluates its checkpoints; its copy can be compared image by image."
)


def _by_record(first: Experiment, others: Sequence[Experiment], against: str, notes: Sequence[str] = ()) -> Comparison:
    """What the folders themselves record of their last epochs, side by side."""
    reference = recorded.read(first)
    known = {e.id: recorded.read(e) for e in others}
    named = [e.config().classes for e in (first, *others)]
    classes = tuple(next((c for c in named if c), reference.counts))
    branches = []
    for e in others:
        seconds, images = cost(e)
        change = ratio.between(first, e)
        branches.append(Compared(e.id, [e.id], [first.id], change, seconds, images, known[e.id].epoch))
    found = [effect for e in others for effect in recorded.effects(e.id, classes, known[e.id], reference)]
    counts = {c: reference.counts.get(c, 0) for c in classes}
    title = others[0].id if len(others) == 1 else f"{first.id} and {len(others)} more"
    where = f"{against}, at epoch {reference.epoch}"
    return Comparison(title, where, classes, counts, branches, found, [], [*notes, OLD])


def _parent(root: Path, told: ParentRef) -> tuple[Experiment, Predictions, str]:
    """A parent, its predictions where children began, or of its last epoch where those are not kept, and which it was."""
    parent, epoch = resolve.by_id(root, told.experiment), told.epoch or 0
    try:
        return parent, predictions.read(parent, epoch), "the checkpoint it started from"
    except NotFoundError:
        last = _last(parent)
        words = f"its parent at epoch {last.epoch} (predictions of epoch {epoch}, where it began, are not kept)"
        return parent, last, words


def _last(experiment: Experiment) -> Predictions:
    ends = experiment.manifest().ends
    if not ends:
        raise NotFoundError(f"{experiment.id} has no finished epoch yet, so there is nothing to compare.")
    return predictions.read(experiment, ends[-1].epoch)


def _compared(
    title: str,
    against: str,
    groups: Mapping[str, list[tuple[Experiment, Predictions, Experiment, Predictions]]],
    changed: Mapping[str, dict[str, tuple[float, float]]],
    notes: list[str],
) -> Comparison:
    if not groups:
        raise InputError(f"{title}: no branch can be compared. {_few(notes)}".strip())
    _, _, first, one = next(iter(groups.values()))[0]
    data = first.config().data_sha256
    for rows in groups.values():
        for mine, predicted, other, reference in rows:
            for experiment, found in ((mine, predicted), (other, reference)):
                # Another split can have the same labels in the same order; the hash of the images tells.
                same = experiment.config().data_sha256 == data and found.classes == one.classes
                if not same or not np.array_equal(found.labels, one.labels):
                    raise InputError(
                        f"{experiment.id} was not validated on the same images as the others, so a difference would mean "
                        "nothing. Compare experiments of the same data."
                    )
    pairs = [
        Pair(
            name,
            one.labels,
            np.stack([r[1].predicted for r in rows]),
            np.stack([r[3].predicted for r in rows]),
            len({r[2].id for r in rows}) < len(rows),
        )
        for name, rows in groups.items()
    ]
    branches = []
    for name, rows in groups.items():
        costs = [cost(mine) for mine, *_ in rows]
        branches.append(
            Compared(
                name,
                [mine.id for mine, *_ in rows],
                [r[2].id for r in rows],
                dict(changed[name]),
                sum(c[0] for c in costs),
                sum(c[1] for c in costs),
                rows[0][1].epoch,
            )
        )
    if all(len(rows) == 1 for rows in groups.values()):
        notes = [*notes, ONE_SEED]
    counts = dict(zip(one.classes, np.bincount(one.labels, minlength=len(one.classes)).tolist(), strict=True))
    return Comparison(title, against, one.classes, counts, branches, effects.effects(pairs, one.classes), pairs, notes)


def _few(notes: Sequence[str]) -> str:
    more = f" And {len(notes) - 5} more." if len(notes) > 5 else ""
    return " ".join(notes[:5]) + more


def cost(experiment: Experiment) -> tuple[float, int]:
    """(seconds of training, images shown) since the fork; zeros if the history is missing or damaged."""
    try:
        history = read_history(experiment)
    except StoreError:
        return 0.0, 0
    took = history.get("seconds", [])
    seconds = sum(took[i] or 0.0 for i in own_rows(experiment, history)) if took else 0.0
    return float(seconds), int(sum(class_sums(experiment, history, "realised_").values()))


COLUMNS = ("branch", "target", "metric", "reference", "value", "difference", "low", "high", "p", "q", "noise", "label")


def write_csv(comparison: Comparison, path: Path) -> None:
    """``effects.csv``: one row per branch, class and metric; ``(all)`` for what is of all classes."""
    rows: list[list[Any]] = [list(COLUMNS)]
    rows += [[getattr(e, c) for c in COLUMNS] for e in comparison.effects]
    files.write_atomic(path, files.csv_text(rows).encode())
