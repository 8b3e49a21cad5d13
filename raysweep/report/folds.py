"""Compare the branches of a k-fold sweep: every training image was for validation once, in the fold whose parent never saw it.

The networks of a branch with one seed, one in each fold, are taken together: they predict all images. Folds are a factor beside
seeds and images (:class:`~raysweep.report.findings.variance.OfFolds`): what one parent gains and another loses is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raysweep._text import counted, join_names
from raysweep.errors import InputError, NotFoundError, RaysweepError
from raysweep.report import effects, evaluated, moved
from raysweep.report.comparison import Compared, Comparison, Pair
from raysweep.report.evaluated import Arms, Evaluated
from raysweep.report.findings.arms import Arm, Cases
from raysweep.report.history import cost
from raysweep.store import layout
from raysweep.store.folds import Folds
from raysweep.store.sweep import Sweep

FACTOR = (
    "Folds count as a factor: each has a parent and validation images of its own, and a difference is shown where it is larger than what it "
    "varies from fold to fold ({folds} folds, so {degrees} of freedom). It holds for networks trained on these data, not only from one "
    "checkpoint."
)
NO_LEAKS = (
    "Images that are also in training are not looked for over all folds; the comparison of each fold's sweep does."
)


@dataclass(frozen=True)
class _Network:
    """The networks of one branch and seed, one in each fold, as one that predicts all images."""

    each: Sequence[Evaluated]

    @property
    def probabilities(self) -> np.ndarray:
        """(n, K), fold after fold."""
        return np.concatenate([e.predictions.probabilities for e in self.each])

    @property
    def predicted(self) -> np.ndarray:
        return np.concatenate([e.predictions.predicted for e in self.each])


def try_compare(folds: Folds) -> tuple[Comparison | None, str | None]:
    """(the comparison; why there is none, if there is none). The sweep itself has succeeded."""
    try:
        return compare(folds), None
    except RaysweepError as error:
        return None, str(error)


def compare(folds: Folds) -> Comparison:
    """Every branch against its control, over all folds.

    Raises:
        NotFoundError: a fold's sweep is missing. InputError: no branch is finished in every fold.
    """
    record = folds.record()
    arms = [evaluated.of_sweep(_sweep(folds, part.sweep, part.fold)) for part in record.parts]
    notes: list[str] = []
    rows = _joined(arms, notes)
    control, groups = rows.pop("", []), rows
    if not control or not groups:
        raise InputError(
            f"{folds.id}: no branch and its control are finished in every fold. {' '.join(notes[:5])}".strip()
        )
    cases = _cases(control[0])
    classes = control[0].each[0].predictions.classes
    number = len(arms)
    notes += [FACTOR.format(folds=number, degrees=counted(number - 1, "degree")), NO_LEAKS]
    counts: dict[str, int] = dict(zip(classes, cases.counts.tolist(), strict=True))
    notes += effects.few_images(counts)
    reference, *others = (_arm(name, networks) for name, networks in {"": control, **groups}.items())
    of = {name: its for name, its in arms[0].of.items() if name in groups and its in groups}
    found, findings = effects.of_arms(reference, others, cases, classes, of)
    free = [] if moved.too_many(len(classes), len(cases.labels)) else _free(reference, others, of, cases, classes, arms)
    against = f"the control of the same fold, {number} folds" + (f", {len(control)} seeds" if len(control) > 1 else "")
    return Comparison(
        folds.id,
        against,
        classes,
        counts,
        [
            _compared(name, networks, groups[of[name]] if name in of else control, arms[0], of)
            for name, networks in groups.items()
        ],
        found,
        [_pair(name, n, groups[of[name]] if name in of else control, cases) for name, n in groups.items()],
        notes,
        arms[0].word,
        findings,
        offsets=free,
    )


def _sweep(folds: Folds, name: str | None, fold: int) -> Sweep:
    found = None if name is None else Sweep(folds.root.path / layout.SWEEPS / name, folds.root)
    if found is None or not (found.folder / layout.SWEEP).is_file():
        raise NotFoundError(f"{folds.id} has no sweep of fold {fold} yet, so there is nothing to compare.")
    return found


def _joined(arms: Sequence[Arms], notes: list[str]) -> dict[str, list[_Network]]:
    """Branch → its networks, of the seeds that every fold has; "" has those of the control."""
    found: dict[str, list[_Network]] = {}
    for name in dict.fromkeys(name for arm in arms for name in arm.rows):
        of_folds = [{_seed(e): e for e in arm.rows.get(name, [])} for arm in arms]
        shared = [seed for seed in of_folds[0] if all(seed in fold for fold in of_folds)]
        lacking = {seed for fold in of_folds for seed in fold} - set(shared)
        if lacking:
            seeds = join_names(sorted(str(seed) for seed in lacking))
            notes.append(
                f"{name or 'The control'} is omitted with seed {seeds}, because it is not finished in every fold."
            )
        if shared:
            found[name] = [_Network([fold[seed] for fold in of_folds]) for seed in shared]
    for fold, arm in enumerate(arms, start=1):
        notes += [f"Fold {fold}: {note}" for note in arm.notes if "omitted" in note]
    return found


def _seed(one: Evaluated) -> object:
    return one.experiment.config().setting("seed")


def _cases(network: _Network) -> Cases:
    """All images, fold after fold. Each class has its share in the data, since every image is there once."""
    predictions = [e.predictions for e in network.each]
    labels = np.concatenate([p.labels for p in predictions])
    folds = np.repeat(np.arange(len(predictions)), [len(p.labels) for p in predictions])
    groups, first = [], 0
    for p in predictions:  # each fold numbers its own
        if p.groups is not None:
            groups.append(p.groups - p.groups.min(initial=0) + first)
            first = int(groups[-1].max(initial=first)) + 1
    known = np.concatenate(groups) if len(groups) == len(predictions) else None
    return Cases(labels, len(predictions[0].classes), known, folds=folds)


def _arm(name: str, networks: Sequence[_Network]) -> Arm:
    return effects.arm(name, [n.probabilities for n in networks])


def _free(
    control: Arm,
    others: Sequence[Arm],
    of: Mapping[str, str],
    cases: Cases,
    classes: Sequence[str],
    arms: Sequence[Arms],
) -> list[effects.Effect]:
    every = [control, *(a for a in others if a.name in of.values())]
    return [e for a in every for e in moved.effects(moved.name_of(a.name or arms[0].word), a, cases, classes)]


def _compared(
    name: str, networks: Sequence[_Network], references: Sequence[_Network], arms: Arms, of: Mapping[str, str]
) -> Compared:
    mine = [e for n in networks for e in n.each]
    costs = [cost(e.experiment) for e in mine]
    return Compared(
        name,
        [e.experiment.id for e in mine],
        [e.experiment.id for n in references for e in n.each],
        dict(arms.changed.get(name, {})),
        sum(seconds for seconds, _ in costs),
        sum(images for _, images in costs),
        mine[0].predictions.epoch,
        dict(arms.settings.get(name, {})),
        of.get(name, ""),
    )


def _pair(name: str, networks: Sequence[_Network], references: Sequence[_Network], cases: Cases) -> Pair:
    mine, theirs = (np.stack([n.predicted for n in row]) for row in (networks, references))
    return Pair(name, cases.labels, mine, theirs)
