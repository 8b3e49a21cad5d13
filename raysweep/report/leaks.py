"""The same comparison without the validation images that are also in training, and which of its labels change then.

A network has seen the right answer of such an image, so a branch that shows it more often is better there without having learned
anything that holds elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from raysweep.label_sets import MAP
from raysweep.report import effects, images
from raysweep.report.effects import ALL, LEARNED, LEVEL, METRICS, OVERALL, Effect
from raysweep.report.findings import binary
from raysweep.report.findings.arms import Arm, Cases
from raysweep.report.findings.findings import Findings
from raysweep.report.findings.variance import two_sided
from raysweep.report.images import ValidationImages
from raysweep.store.experiment import Experiment

MADE = (
    "made"  # shown with the leaked images only: they differ from the others, whose difference is too small to be shown
)
LOST = "lost"  # not shown without them, but they do not differ from the others: it may be that too few images are left
HIDDEN = "hidden"  # shown without them only
TURNED = "turned"  # shown with the opposite sign
COLUMNS = tuple(f"without_leaks_{name}" for name in ("difference", "low", "high", "p", "q", "label", "images"))

UNKNOWN = (
    "Whether validation images are also in training is not known: an earlier version made these experiments, and the images that it "
    "decoded are gone. `raysweep audit` finds copies in the data."
)
NOTHING_LEFT = "Every validation image is also in training, so nothing here says what was learned. Add images, or set data.duplicates=drop_train."


@dataclass(frozen=True)
class Change:
    """A difference whose label is another one without the leaked images; ``kind`` is one of the words above."""

    whole: Effect
    clean: Effect
    kind: str


@dataclass(frozen=True)
class WithoutLeaks:
    """``images``: class → validation images that are also in training, classes without any left out; ``other_class`` of them are
    there under other classes only. ``on_leaked``: (branch, class) → the difference in recall on these images. ``apart``: (branch, class
    or ALL) → 1 where the leaked images gain more than the others, −1 where they gain less, of those where luck does not explain it.
    """

    images: Mapping[str, int]
    other_class: int
    effects: Sequence[Effect]
    offsets: Sequence[Effect]  # as in the comparison: what the references get without training
    findings: Findings
    on_leaked: Mapping[tuple[str, str], float]
    apart: Mapping[tuple[str, str], int]
    leaked: int = 0  # images; of several labels for an image fewer than those of all labels

    def of(self, whole: Effect) -> Effect | None:
        """The same effect without the leaked images; None if it was not computed."""
        return self._index.get((whole.branch, whole.target, whole.metric))

    @cached_property
    def _index(self) -> dict[tuple[str, str, str], Effect]:
        return {(e.branch, e.target, e.metric): e for e in (*self.effects, *self.offsets)}

    @property
    def count(self) -> int:
        """of leaked images"""
        return self.leaked or sum(self.images.values())

    def of_branch(self, old: str, new: str) -> WithoutLeaks:
        """The part of one branch, under a new name."""
        mine = [e.of_branch(new) for e in self.effects if e.branch == old]
        on_leaked = {(new, c): v for (b, c), v in self.on_leaked.items() if b == old}
        return replace(
            self, effects=mine, on_leaked=on_leaked, apart={(new, c): v for (b, c), v in self.apart.items() if b == old}
        )


def find(
    experiments: Sequence[Experiment],
    control: Arm,
    branches: Sequence[Arm],
    cases: Cases,
    classes: Sequence[str],
    offsets: Callable[[Sequence[Arm], Cases], list[Effect]] = lambda arms, cases: [],
    references: Mapping[str, str] = MappingProxyType({}),
) -> tuple[WithoutLeaks | None, list[str]]:
    """(the comparison without leaked images, None where there are none; notes).

    Args:
        experiments: of all networks, which were validated on the same images.
        control, branches, cases, classes, references: as :func:`raysweep.report.effects.of_arms` takes them.
        offsets: what the references get without training, on these images.
    """
    known = images.of(experiments, len(cases.labels))
    if known is None:
        return None, [UNKNOWN]
    leaked = known.leaked
    if not leaked.any():
        return None, []
    if leaked.all():
        return None, [NOTHING_LEFT]
    without = _without(known, control, branches, cases, classes, references)
    mine = [control, *(b for b in branches if b.name in references.values())]
    return replace(without, offsets=offsets([_part(arm, ~leaked) for arm in mine], cases.part(~leaked))), []


def _without(
    known: ValidationImages,
    control: Arm,
    branches: Sequence[Arm],
    cases: Cases,
    classes: Sequence[str],
    references: Mapping[str, str],
) -> WithoutLeaks:
    leaked, members = known.leaked, cases.actual
    kept = [_part(arm, ~leaked) for arm in (control, *branches)]
    found, findings = effects.of_arms(kept[0], kept[1:], cases.part(~leaked), classes, references)
    counts = members[:, leaked].sum(1).tolist()
    of_class = {c: n for c, n in zip(classes, counts, strict=True) if n}
    plain = _right(control, cases)
    right = {arm.name: _right(arm, cases) for arm in branches if arm.name in references.values()}
    level = LEVEL / max(1, len(branches) * (1 + len(of_class)))  # Bonferroni: nothing is called the cause by luck
    on_leaked, apart = {}, {}
    for arm in branches:
        gains = _right(arm, cases) - (right[references[arm.name]] if arm.name in references else plain)
        apart[arm.name, ALL] = _apart(gains[-1, leaked], gains[-1, ~leaked], level)
        for i, c in enumerate(classes):
            if not counts[i]:
                continue
            gain, of_this = gains[i if cases.several else -1], members[i]
            mine = gain[leaked & of_this]
            on_leaked[arm.name, c] = float(mine.mean())
            apart[arm.name, c] = _apart(mine, gain[~leaked & of_this], level)
    return WithoutLeaks(
        of_class, int(known.other_class.sum()), found, (), findings, on_leaked, apart, int(leaked.sum())
    )


def _part(arm: Arm, which: np.ndarray) -> Arm:
    return Arm(arm.name, [lambda load=load: load()[which] for load in arm.networks])  # type: ignore[misc]


def _right(arm: Arm, cases: Cases) -> np.ndarray:
    """float64 (1, n): the share of the networks that predict each image rightly; of several labels (classes + 1, n): each label by itself,
    then all of them."""
    right: np.ndarray = np.mean([_hits(np.asarray(load()), cases) for load in arm.networks], axis=0)
    return right


def _hits(log_probabilities: np.ndarray, cases: Cases) -> np.ndarray:
    if not cases.several:
        return np.asarray(log_probabilities.argmax(1) == cases.labels)[None]
    same = (binary.predicted(np.exp(log_probabilities)) == cases.labels).T
    return np.concatenate([same, same.all(0)[None]])


def _apart(leaked: np.ndarray, others: np.ndarray, level: float) -> int:
    """Whether the gains of leaked images are apart from those of others, by Welch's test over images: a seed that shifts a class
    shifts both. The variance has the floor of a proportion."""
    n, m = len(leaked), len(others)
    if min(n, m) < 2:
        return 0
    difference = float(leaked.mean() - others.mean())
    variance = max(float(leaked.var(ddof=1)) / n + float(others.var(ddof=1)) / m, 1 / min(n, m) ** 2)
    p = float(two_sided(np.array(abs(difference) / math.sqrt(variance)), min(n, m) - 1))
    return 0 if p > level else int(math.copysign(1, difference))


def changes(every: Sequence[Effect], without: WithoutLeaks | None) -> dict[tuple[str, str, str], Change]:
    """(branch, class, metric) → how its label changes without the leaked images, of those whose label does."""
    found = {}
    for whole in every if without is not None else ():
        told = (*OVERALL, MAP) if whole.target == ALL else (*METRICS, LEARNED)
        clean = without.of(whole) if without is not None and whole.metric in told else None
        if clean is not None and clean.shown != whole.shown:
            apart = 0 if without is None else without.apart.get((whole.branch, whole.target), 0)
            found[whole.branch, whole.target, whole.metric] = Change(whole, clean, _kind(whole, clean, apart))
    return found


def _kind(whole: Effect, clean: Effect, apart: int) -> str:
    if not whole.shown:
        return HIDDEN
    if clean.shown:
        return TURNED
    sign = int(math.copysign(1, whole.difference))
    return MADE if apart == sign and sign * clean.difference < whole.smallest else LOST


def as_row(whole: Effect, without: WithoutLeaks) -> Mapping[str, Any]:
    """The same effect without the leaked images as plain values, in the order of ``COLUMNS``."""
    clean = without.of(whole)
    return {c: None if clean is None else getattr(clean, c.removeprefix("without_leaks_")) for c in COLUMNS}
