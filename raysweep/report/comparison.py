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

from raysweep.errors import InputError, RaysweepError
from raysweep.label_sets import MAP
from raysweep.report import effects, evaluated, leaks, moved, recorded
from raysweep.report.effects import Effect
from raysweep.report.evaluated import NO_CONTROL, Arms, Evaluated, last, parent_of
from raysweep.report.findings import fitted
from raysweep.report.findings.arms import Arm, Cases
from raysweep.report.findings.findings import Findings
from raysweep.report.findings.selection import Winner
from raysweep.report.findings.variance import STEADY_SEEDS
from raysweep.report.history import cost
from raysweep.report.leaks import WithoutLeaks
from raysweep.report.predictions import Network
from raysweep.store import layout, ratio, resolve
from raysweep.store.commands import command
from raysweep.store.experiment import Experiment
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep
from raysweep.weights import Changed


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
    settings: Mapping[str, Any] = field(default_factory=dict)  # other than those of the sweep's control, by dotted key
    reference: str = ""  # the control of its cell, where it is compared with that; else empty


@dataclass(frozen=True)
class Pair:
    """The predictions of a branch and its reference for the same images: ``labels`` int (n,); ``branch`` and ``reference`` int
    (seeds, n), one row for each network; of several labels bool (n, classes) and (seeds, n, classes)."""

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
    def several(self) -> bool:
        """Whether an image has several labels."""
        return self.findings is not None and MAP in self.findings.gains

    @property
    def overall(self) -> tuple[str, ...]:
        """The metrics over all classes that are shown; by the first the winner is chosen."""
        return (MAP, "macro_f1", "accuracy") if self.several else ("macro_f1", "accuracy")

    @property
    def images(self) -> int:
        """How many validation images there are."""
        return len(self.pairs[0].labels) if self.several else sum(self.counts.values())

    @property
    def winner(self) -> Winner | None:
        """The branch with the best macro-F1, of several labels mAP, with its gain corrected for having been chosen."""
        return None if self.findings is None else self.findings.winner

    @property
    def tests(self) -> int:
        """How many differences were tested."""
        return 0 if self.findings is None else sum(self.findings.compared)

    @property
    def rows(self) -> list[Effect]:
        """All effects, then what the reference gets from offsets."""
        return [*self.effects, *self.offsets]

    def reference_of(self, branch: str) -> str:
        """What a branch is compared with, in a sentence."""
        return next((b.reference for b in self.branches if b.name == branch and b.reference), self.reference)

    def offsets_of(self, name: str) -> list[Effect]:
        """What one reference gets from offsets."""
        return [e for e in self.offsets if e.branch == name]

    @property
    def moved(self) -> list[str]:
        """The names of all references with offsets, that of the sweep's control first."""
        return list(dict.fromkeys(e.branch for e in self.offsets))

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


def of_sweep(sweep: Sweep, metric: str | None = None) -> Comparison:
    """Every branch against all controls; if there is no control at all, against the parent. Branches that differ in their seed
    only are one branch. Networks of equal seeds are not paired: that would not make a difference any clearer.

    Args:
        metric: what the offsets of the control are fitted for; by default what the grid selects the winner by.

    Raises:
        NotFoundError: there is neither a finished control nor a parent with predictions. InputError: no finished branch.
    """
    found = evaluated.of_sweep(sweep)
    return _compared(sweep.id, found, metric or moved.chosen(sweep.record().grid))


@dataclass(frozen=True)
class SweepNetworks:
    """What :func:`of_sweep` would compare: the networks of every branch, "" for the reference; the reference in a sentence; branch →
    the other branch that it is compared with instead."""

    networks: Mapping[str, Sequence[Network]]
    word: str
    references: Mapping[str, str]


def networks_of(sweep: Sweep) -> SweepNetworks:
    """Raises what :func:`of_sweep` raises, but nothing is computed."""
    found = evaluated.of_sweep(sweep)
    _check_same_images(found.everyone)
    return SweepNetworks(_networks(found.rows), found.word, found.of)


def _with_first(experiments: Sequence[Experiment]) -> Comparison:
    first, *others = experiments
    if any(map(recorded.is_old, experiments)):
        return _by_record(first, others, first.id)
    reference = last(first)
    groups = {e.id: [last(e)] for e in others}
    changed = {e.id: ratio.between(first, e) for e in others}
    notes = [
        f"{name} ended at epoch {mine.predictions.epoch}, {first.id} at epoch {reference.predictions.epoch}."
        for name, (mine,) in groups.items()
        if mine.predictions.epoch != reference.predictions.epoch
    ]
    return _compared(
        f"{first.id} and {len(others)} more", Arms(first.id, first.id, [reference], groups, changed, notes)
    )


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
    parent, against = parent_of(root, config.parent)
    change = ratio.from_parent(child, parent.experiment)
    mine = {child.id: [last(child)]}
    return _compared(child.id, Arms(against, "the parent", [parent], mine, {child.id: change}, [why]))


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
    word = whole.reference_of(mine.name)
    return replace(
        whole,
        title=branch.id,
        against=f"{mine.reference or whole.against} (in {sweep.id})",
        reference=word,
        branches=[replace(mine, name=branch.id, reference="")],
        effects=[e.of_branch(branch.id) for e in whole.effects if e.branch == mine.name],
        pairs=[replace(p, name=branch.id) for p in whole.pairs if p.name == mine.name],
        leaks=None if whole.leaks is None else whole.leaks.of_branch(mine.name, branch.id),
        networks={"": whole.networks[mine.reference], branch.id: whole.networks[mine.name]},
        offsets=whole.offsets_of(moved.name_of(word)),
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


def _compared(title: str, arms: Arms, metric: str = moved.DEFAULT) -> Comparison:
    """
    Args:
        metric: what the offsets of the references are fitted for.
    """
    notes = list(arms.notes)
    if not arms.groups:
        raise InputError(f"{title}: there is no branch to compare. {_few(notes)}".strip())
    _check_same_images(arms.everyone)
    one = arms.references[0].predictions
    branches = [_branch(name, rows, arms) for name, rows in arms.groups.items()]
    fewest = min(len(rows) for rows in arms.groups.values())
    if fewest == 1:
        notes.append(ONE_SEED)
    elif fewest < STEADY_SEEDS:
        notes.append(FEW_SEEDS)
    metric = fitted.OF_LABELS if one.several else metric
    counts: dict[str, int] = dict(zip(one.classes, one.cases.counts.tolist(), strict=True))
    control, *others = (
        effects.arm(name, [e.predictions.probabilities for e in row]) for name, row in arms.rows.items()
    )
    everyone = [e.experiment for e in arms.everyone]

    def free(references: Sequence[Arm], cases: Cases) -> list[Effect]:
        if moved.too_many(len(one.classes), len(one.labels)):
            return []
        names = [moved.name_of(a.name or arms.word) for a in references]
        every = zip(names, references, strict=True)
        return [e for name, a in every for e in moved.effects(name, a, cases, one.classes, metric)]

    with ThreadPoolExecutor(1) as pool:  # what is computed is mostly NumPy's, which lets two threads do it
        beside = pool.submit(leaks.find, everyone, control, others, one.cases, one.classes, free, arms.of)
        found, findings = effects.of_arms(control, others, one.cases, one.classes, arms.of)
        offsets = free([control, *(a for a in others if a.name in arms.of.values())], one.cases)
    without, told = beside.result()
    if not offsets:
        notes.append(f"Offsets for {arms.word} are not searched: there are too many classes and images.")
    notes += [*effects.few_images(counts), *told]
    pairs = [_pair(name, rows, arms.of_branch(name)) for name, rows in arms.groups.items()]
    whole = Comparison(title, arms.against, one.classes, counts, branches, found, pairs, notes, arms.word, findings)
    return replace(
        whole,
        leaks=without,
        networks=_networks(arms.rows),
        offsets=offsets,
        offsets_for=metric,
        on_test=one.on_test,
    )


def _networks(rows: Mapping[str, Sequence[Evaluated]]) -> dict[str, list[Network]]:
    return {name: [Network(e.experiment, e.predictions.epoch) for e in row] for name, row in rows.items()}


def _check_same_images(every: Sequence[Evaluated]) -> None:
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


def _pair(name: str, rows: Sequence[Evaluated], references: Sequence[Evaluated]) -> Pair:
    mine, theirs = (np.stack([e.predictions.predicted for e in arm]) for arm in (rows, references))
    return Pair(name, references[0].predictions.labels, mine, theirs)


def _branch(name: str, rows: Sequence[Evaluated], arms: Arms) -> Compared:
    costs = [cost(e.experiment) for e in rows]
    return Compared(
        name,
        [e.experiment.id for e in rows],
        [e.experiment.id for e in arms.of_branch(name)],
        dict(arms.changed[name]),
        sum(seconds for seconds, _ in costs),
        sum(images for _, images in costs),
        rows[0].predictions.epoch,
        dict(arms.settings.get(name, {})),
        arms.of.get(name, ""),
    )


def _few(notes: Sequence[str]) -> str:
    more = f" And {len(notes) - 5} more." if len(notes) > 5 else ""
    return " ".join(notes[:5]) + more
