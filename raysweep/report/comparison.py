"""Compare the branches of a sweep with their controls, a child with its parent, or several experiments with the first one.

The predictions of the last epoch are compared, on the same validation images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from raysweep._text import counted
from raysweep.errors import InputError, NotFoundError, RaysweepError
from raysweep.report import effects, leaks, moved, predictions, recorded
from raysweep.report.effects import Effect
from raysweep.report.findings.arms import Arm, Cases
from raysweep.report.findings.findings import Findings
from raysweep.report.findings.selection import Winner
from raysweep.report.findings.variance import STEADY_SEEDS
from raysweep.report.history import cost
from raysweep.report.leaks import WithoutLeaks
from raysweep.report.predictions import Network, Predictions
from raysweep.store import layout, ratio, resolve
from raysweep.store.commands import command
from raysweep.store.experiment import FINISHED, Experiment
from raysweep.store.records import ParentRef
from raysweep.store.records_sweep import BranchRecord, SweepRecord
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep
from raysweep.weights import Changed, changes


@dataclass(frozen=True)
class Compared:
    """One branch, with all its seeds."""

    name: str
    experiments: list[str]
    references: list[str]
    change: Changed  # from the reference to the branch
    seconds: float  # of training since the fork, the sum over all seeds
    images: int  # shown since the fork, the sum over all seeds
    epoch: int


@dataclass(frozen=True)
class Pair:
    """The predictions of a branch and its reference for the same images: ``labels`` int (n,); ``branch`` and ``reference`` int
    (seeds, n), one row for each network."""

    name: str
    labels: np.ndarray
    branch: np.ndarray
    reference: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """``against`` names the reference of every difference in words. ``notes`` say what could not be compared, and what limits the
    conclusions."""

    title: str
    against: str
    classes: tuple[str, ...]
    counts: dict[str, int]  # validation images per class
    branches: list[Compared]
    effects: list[Effect]
    pairs: list[Pair]  # the predictions that the effects were computed from; empty if there are none
    notes: list[str] = field(default_factory=list)
    reference: str = "the control"  # in a sentence
    findings: Findings | None = None
    leaks: WithoutLeaks | None = None  # None where no validation image is known to be in training, too
    offsets: Sequence[Effect] = ()  # what the reference gets without training, see :mod:`raysweep.report.moved`
    offsets_for: str = moved.DEFAULT  # the metric that they were fitted for
    # the networks of each branch; "" has those of the reference
    networks: Mapping[str, Sequence[Network]] = field(default_factory=dict)
    on_test: bool = False  # the networks were validated on test images

    @property
    def winner(self) -> Winner | None:
        """The branch with the best macro-F1, with its gain corrected for having been chosen."""
        return None if self.findings is None else self.findings.winner

    @property
    def tests(self) -> int:
        """How many differences were tested."""
        return 0 if self.findings is None else sum(self.findings.compared)

    @property
    def rows(self) -> list[Effect]:
        """All effects, then what the reference gets from offsets."""
        return [*self.effects, *self.offsets]

    def of(self, branch: str, target: str, metric: str) -> Effect:
        """The effect of a branch on a class, or on ``effects.ALL``.

        Raises:
            KeyError: this was not compared.
        """
        return self._index[branch, target, metric]

    @cached_property
    def _index(self) -> dict[tuple[str, str, str], Effect]:
        return {(e.branch, e.target, e.metric): e for e in self.rows}


ONE_SEED = (
    "A branch with one seed is never called better or worse: another seed could change the differences as much as the ratio does. "
    "`seeds: [0, 1, 2]` and `control_seeds: 8` in the grid measure that."
)
FEW_SEEDS = (
    "With two or three seeds it is not known whether a branch varies more from seed to seed than the others. A difference that is "
    "shown holds if it is as steady as they are."
)


NO_CONTROL = (
    "There is no control, so the effect of the changed ratio cannot be separated from the effect of longer training. "
    "`raysweep branch` trains a control unless the grid says `control: false`."
)

AFTER_LOOKS = (
    "Seeds were added {looks} after this comparison could be read. Whoever adds seeds until something is shown finds something in "
    "the end: that 5 % are false holds for the first look."
)

OF_A_CONTROL = (
    "This is the control of its sweep: the differences are the effect of longer training with an unchanged ratio."
)


def compare(root: Root, references: Sequence[str]) -> Comparison:
    """Compare a sweep, one experiment with its parent, or several experiments with the first.

    Raises:
        NotFoundError: there is no such sweep or experiment, or it has no predictions yet. InputError: they cannot be compared.
    """
    found = [resolve.find_any(root, r) for r in references]
    sweep = next((f for f in found if isinstance(f, Sweep)), None)
    if sweep is not None and len(found) == 1:
        return of_sweep(sweep)
    if sweep is not None:
        raise InputError(f"{sweep.id} is a sweep. Compare it alone, or name experiments only.")
    first, *others = [f for f in found if isinstance(f, Experiment)]
    return _with_first([first, *others]) if others else of_child(root, first)


def grouped(branches: Sequence[BranchRecord]) -> dict[str, list[BranchRecord]]:
    """Name without the seed → the branches of a sweep that differ in their seed only. Branches of equal weights belong together;
    names do not decide it, because two classes can look the same in them."""
    groups: dict[tuple[Any, ...], list[BranchRecord]] = {}
    for branch in branches:
        key: tuple[Any, ...] = (branch.control, *sorted(branch.weights.items()))
        while any(b.seed == branch.seed for b in groups.get(key, [])):
            key = (*key, "again")  # a search drew the same weights twice
        groups.setdefault(key, []).append(branch)
    named: dict[str, list[BranchRecord]] = {}
    for members in groups.values():
        first = members[0]
        name = first.name
        short = name.replace(f"-seed{first.seed}", "", 1) if len(members) > 1 or "-seed" in name else name
        named[short if short not in named else name] = members
    return named


@dataclass(frozen=True)
class _Evaluated:
    """An experiment and its predictions of one epoch."""

    experiment: Experiment
    predictions: Predictions


def of_sweep(sweep: Sweep, metric: str | None = None) -> Comparison:
    """Every branch against all controls; if there is no control at all, against the parent. Branches that differ in their seed
    only are one branch. Networks of equal seeds are not paired: that would not make a difference any clearer.

    Args:
        metric: what the offsets of the control are fitted for; by default what the grid selects the winner by.

    Raises:
        NotFoundError: there is neither a finished control nor a parent with predictions. InputError: no finished branch.
    """
    return _compared(sweep.id, *_arms(sweep), metric or moved.chosen(sweep.record().grid))


def networks_of(sweep: Sweep) -> tuple[Mapping[str, Sequence[Network]], str]:
    """(what :func:`of_sweep` would compare: the networks of every branch, "" for the reference; the reference in a sentence). Raises
    what that raises, but nothing is computed."""
    (_, word), references, groups, _, _ = _arms(sweep)
    _check_same_images([*references, *(e for rows in groups.values() for e in rows)])
    return _networks({"": references, **groups}), word


_Groups = Mapping[str, Sequence[_Evaluated]]


def _arms(sweep: Sweep) -> tuple[tuple[str, str], Sequence[_Evaluated], _Groups, Mapping[str, Changed], list[str]]:
    """(the reference in words and in a sentence, its networks, those of every branch, what each changes, notes)."""
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
        word, epoch = "the control", references[0].predictions.epoch
    else:
        if record.parent is None:
            raise NotFoundError(
                f"{sweep.folder / layout.SWEEP} does not name the checkpoint that the sweep started from, and no control is "
                "finished, so there is nothing to compare with."
            )
        parent, against = _parent(sweep.root, record.parent)
        references, word, epoch = [parent], "the parent", None
        notes.append(NO_CONTROL)
    names = {b.name: name for name, members in grouped(record.branches).items() for b in members}
    groups: dict[str, list[_Evaluated]] = {}
    changed: dict[str, Changed] = {}
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
    return (against, word), references, groups, changed, notes


def _finished(sweep: Sweep, record: SweepRecord, notes: list[str]) -> dict[str, _Evaluated]:
    """Branch → its predictions, of the finished ones; a note is added for every other one."""
    experiments = sweep.experiments()
    done: dict[str, _Evaluated] = {}
    for branch in record.branches:
        experiment = experiments.get(branch.name)
        if experiment is None or experiment.status() != FINISHED:
            notes.append(f"{branch.name} is not finished, so it is omitted.")
            continue
        try:
            done[branch.name] = _last(experiment)
        except RaysweepError as error:
            notes.append(f"{branch.name} is omitted: {error}")
    return done


def _fork(branch: Experiment, record: SweepRecord, weights: Mapping[str, float]) -> Changed:
    """The ratio change of a branch as its log says; if the log does not have it, as the sweep's plan does."""
    change = ratio.of_fork(branch.folder)
    return changes(record.parent_weights, weights) if change is None else change.changed


def _with_first(experiments: Sequence[Experiment]) -> Comparison:
    first, *others = experiments
    if any(map(recorded.is_old, experiments)):
        return _by_record(first, others, first.id)
    reference = _last(first)
    groups = {e.id: [_last(e)] for e in others}
    changed = {e.id: ratio.between(first, e) for e in others}
    notes = [
        f"{name} ended at epoch {mine.predictions.epoch}, {first.id} at epoch {reference.predictions.epoch}."
        for name, (mine,) in groups.items()
        if mine.predictions.epoch != reference.predictions.epoch
    ]
    return _compared(f"{first.id} and {len(others)} more", (first.id, first.id), [reference], groups, changed, notes)


def of_child(root: Root, child: Experiment) -> Comparison:
    """A child against the checkpoint that it started from; if its predictions are not kept, against the parent's last epoch. A
    branch of a sweep is compared as in its sweep, with the control.

    Raises:
        InputError: it has no parent. NotFoundError: the parent or predictions are missing.
    """
    config = child.config()
    if config.parent is None:
        raise InputError(
            f"{child.id} has no parent to compare it with. Name a second experiment: "
            f"`{command(child.root, 'compare', 'OTHER', child.id)}`."
        )
    why = NO_CONTROL
    if config.sweep is not None and config.branch is not None:
        if (found := _of_branch(child, config.sweep)) is not None:
            return found
        why = OF_A_CONTROL if config.branch.control else _without_control(child, config.sweep)
    if recorded.is_old(before := resolve.by_id(root, config.parent.experiment)):
        return _by_record(before, [child], f"its parent {before.id}", [why])
    parent, against = _parent(root, config.parent)
    change = ratio.from_parent(child, parent.experiment)
    return _compared(child.id, (against, "the parent"), [parent], {child.id: [_last(child)]}, {child.id: change}, [why])


def _without_control(branch: Experiment, sweep: str) -> str:
    return (
        f"{branch.id} is a branch of {sweep}, but that has no finished control to compare it with, so the effect of the changed "
        "ratio cannot be separated from the effect of longer training."
    )


def _of_branch(branch: Experiment, sweep_id: str) -> Comparison | None:
    """One branch with the numbers and labels that it has in its sweep; None if the sweep does not compare it with a control.

    A label takes into account how many differences are tested, so a branch by itself would be called worse where its sweep
    calls the same difference not shown.
    """
    folder = branch.root.path / layout.SWEEPS / sweep_id
    if Path(sweep_id).name != sweep_id or not (folder / layout.SWEEP).is_file():
        return None
    sweep = Sweep(folder, branch.root)
    try:
        whole, record = of_sweep(sweep), sweep.record()
    except RaysweepError:
        return None
    mine = next((b for b in whole.branches if branch.id in b.experiments), None)
    if mine is None or NO_CONTROL in whole.notes:
        return None
    others = tuple(f"{b.name} is " for b in record.branches)
    notes = [n for n in whole.notes if not n.startswith(others)]
    if (seeds := len(mine.experiments)) > 1:
        notes.append(
            f"{branch.id} is one of {seeds} seeds of {mine.name} in {sweep.id}; as there, the differences are means over all of them."
        )
    return replace(
        whole,
        title=branch.id,
        against=f"{whole.against} (in {sweep.id})",
        branches=[replace(mine, name=branch.id)],
        effects=[e.of_branch(branch.id) for e in whole.effects if e.branch == mine.name],
        pairs=[replace(p, name=branch.id) for p in whole.pairs if p.name == mine.name],
        leaks=None if whole.leaks is None else whole.leaks.of_branch(mine.name, branch.id),
        networks={"": whole.networks[""], branch.id: whole.networks[mine.name]},
        notes=notes,
    )


OLD = (
    "The old system kept no predictions, so it is not known how much of a difference is noise, and whether the images were the "
    "same. `raysweep import OLD data.path=IMAGES` evaluates the checkpoints; the imported copy can be compared image by image."
)


def _by_record(first: Experiment, others: Sequence[Experiment], against: str, notes: Sequence[str] = ()) -> Comparison:
    """The metrics that the folders record of their last epochs, without intervals and labels."""
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


def _parent(root: Root, ref: ParentRef) -> tuple[_Evaluated, str]:
    """(the parent with its predictions, what these are in words): predictions of the epoch where the children started; if
    those are not kept, of its last epoch."""
    parent, epoch = resolve.by_id(root, ref.experiment), ref.epoch or 0
    try:
        return _Evaluated(parent, predictions.read(parent, epoch)), "the checkpoint it started from"
    except NotFoundError:
        last = _last(parent)
        words = f"its parent at epoch {last.predictions.epoch} (the predictions of epoch {epoch}, which it started from, are not kept)"
        return last, words


def _last(experiment: Experiment) -> _Evaluated:
    """The predictions of the last epoch."""
    ends = experiment.manifest().ends
    if not ends:
        raise NotFoundError(f"{experiment.id} has no finished epoch yet, so there is nothing to compare.")
    return _Evaluated(experiment, predictions.read(experiment, ends[-1].epoch))


def _compared(
    title: str,
    against: tuple[str, str],
    references: Sequence[_Evaluated],
    groups: Mapping[str, Sequence[_Evaluated]],
    changed: Mapping[str, Changed],
    notes: list[str],
    metric: str = moved.DEFAULT,
) -> Comparison:
    """
    Args:
        against: the reference in words, and in a sentence.
        metric: what the offsets of the reference are fitted for.
    """
    if not groups:
        raise InputError(f"{title}: there is no branch to compare. {_few(notes)}".strip())
    _check_same_images([*references, *(e for rows in groups.values() for e in rows)])
    one = references[0].predictions
    pairs = [_pair(name, rows, references) for name, rows in groups.items()]
    branches = [_branch(name, rows, references, changed[name]) for name, rows in groups.items()]
    fewest = min(len(rows) for rows in groups.values())
    if fewest == 1:
        notes = [*notes, ONE_SEED]
    elif fewest < STEADY_SEEDS:
        notes = [*notes, FEW_SEEDS]
    counts: dict[str, int] = dict(zip(one.classes, one.cases.counts.tolist(), strict=True))
    rows = {"": references, **groups}
    control, *arms = (effects.arm(name, [e.predictions.probabilities for e in row]) for name, row in rows.items())
    everyone = [e.experiment for row in rows.values() for e in row]

    def free(control: Arm, cases: Cases) -> list[Effect]:
        if moved.too_many(len(one.classes), len(one.labels)):
            return []
        return moved.effects(moved.name_of(against[1]), control, cases, one.classes, metric)

    with ThreadPoolExecutor(1) as pool:  # what is computed is mostly NumPy's, which lets two threads do it
        beside = pool.submit(leaks.find, everyone, control, arms, one.cases, one.classes, free)
        found, findings = effects.of_arms(control, arms, one.cases, one.classes)
        offsets = free(control, one.cases)
    without, told = beside.result()
    if not offsets:
        notes = [*notes, f"Offsets for {against[1]} are not searched: there are too many classes and images."]
    notes = [*notes, *effects.few_images(counts), *told]
    whole = Comparison(title, against[0], one.classes, counts, branches, found, pairs, notes, against[1], findings)
    return replace(
        whole,
        leaks=without,
        networks=_networks(rows),
        offsets=offsets,
        offsets_for=metric,
        on_test=one.on_test,
    )


def _networks(rows: _Groups) -> dict[str, list[Network]]:
    return {name: [Network(e.experiment, e.predictions.epoch) for e in row] for name, row in rows.items()}


def _check_same_images(every: Sequence[_Evaluated]) -> None:
    """Raises InputError if the networks were not all validated on the same images."""
    first = every[0]
    data = first.experiment.config().data_sha256
    for found in every:
        # Another split can have the same labels in the same order, so the hash of the images is compared, too.
        same = found.experiment.config().data_sha256 == data
        same = same and found.predictions.classes == first.predictions.classes
        if not same or not np.array_equal(found.predictions.labels, first.predictions.labels):
            raise InputError(
                f"{found.experiment.id} was not validated on the same images as the others, so a difference would mean "
                "nothing. Compare experiments of the same data and split_seed."
            )


def _pair(name: str, rows: Sequence[_Evaluated], references: Sequence[_Evaluated]) -> Pair:
    mine, theirs = (np.stack([e.predictions.predicted for e in arm]) for arm in (rows, references))
    return Pair(name, references[0].predictions.labels, mine, theirs)


def _branch(name: str, rows: Sequence[_Evaluated], references: Sequence[_Evaluated], change: Changed) -> Compared:
    costs = [cost(e.experiment) for e in rows]
    return Compared(
        name,
        [e.experiment.id for e in rows],
        [e.experiment.id for e in references],
        dict(change),
        sum(seconds for seconds, _ in costs),
        sum(images for _, images in costs),
        rows[0].predictions.epoch,
    )


def _few(notes: Sequence[str]) -> str:
    more = f" And {len(notes) - 5} more." if len(notes) > 5 else ""
    return " ".join(notes[:5]) + more
