"""Which validation images a branch fixed and which it broke, against its reference; a majority of an arm's networks decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raysweep._text import join_names
from raysweep.errors import InputError, RaysweepError
from raysweep.label_sets import not_built
from raysweep.report import comparison, images
from raysweep.report.images import ValidationImages
from raysweep.report.predictions import Network, Predictions
from raysweep.store.sweep import Sweep

FIXED, BROKEN, OTHER = "fixed", "broken", "still wrong"
ALARM, QUIET = "false alarm", "alarm gone"  # of another class, and now called this one; or not any more
KINDS = (FIXED, BROKEN, OTHER, ALARM, QUIET)


@dataclass(frozen=True)
class Voted:
    """What an arm's networks say of each image together.

    ``top`` int (n,): the class that most of ``seeds`` networks predict; of two that as many predict, the one with the higher mean
    probability. ``votes`` int (n,): how many predict it. ``mean`` float32 (n, K): the mean probability of each class.
    """

    seeds: int
    top: np.ndarray
    votes: np.ndarray
    mean: np.ndarray


@dataclass(frozen=True)
class Flip:
    """An image that the branch predicts otherwise than its reference. ``old_votes`` and ``new_votes``: how many networks say so.
    ``in_training``: how many training images have equal pixels; None where that is not known."""

    index: int  # in the order of the predictions
    name: str
    true: str
    kind: str
    old: str
    old_votes: int
    new: str
    new_votes: int
    in_training: int | None


@dataclass(frozen=True)
class Flips:
    """``flips`` in the order of KINDS; of each kind first those that most networks agree on. ``named``: whether the names of the images are known."""

    branch: str
    reference: str  # in a sentence
    old_seeds: int
    new_seeds: int
    flips: Sequence[Flip]
    named: bool

    @property
    def counts(self) -> Mapping[str, int]:
        """Kind → how many, of those that there are."""
        kinds = [flip.kind for flip in self.flips]
        return {kind: n for kind in KINDS if (n := kinds.count(kind))}


def of_branch(sweep: Sweep, branch: str, of_class: str | None = None) -> Flips:
    """What a branch of a sweep predicts otherwise than what it is compared with, with all seeds of both.

    Args:
        branch: its name, with or without the seed, or the id of one of its experiments.
        of_class: only images of this class, and images that are newly or no longer mistaken for it.

    Raises:
        InputError: there is no such branch or class. NotFoundError, StoreError: predictions are missing or damaged.
    """
    found = comparison.networks_of(sweep)
    name = _name(sweep, branch, found.networks)
    its = found.references.get(name, "")
    before, after = found.networks[its], found.networks[name]
    old, new = [n.predictions() for n in before], [n.predictions() for n in after]
    classes = old[0].classes
    if old[0].several:
        raise not_built("`raysweep flips`", "val_predictions.parquet has the predictions for every image.")
    if of_class is not None and of_class not in classes:
        raise InputError(f"--class {of_class}: the classes are {join_names(classes)}.")
    known = images.of([n.experiment for n in (*before, *after)], len(old[0].labels))
    number = None if of_class is None else classes.index(of_class)
    flips = between(voted(old), voted(new), old[0].labels, classes, known, number)
    return Flips(name, its or found.word, len(old), len(new), flips, known is not None)


def _name(sweep: Sweep, wanted: str, networks: Mapping[str, Sequence[Network]]) -> str:
    if wanted and wanted in networks:
        return wanted
    ids = {branch.name: e.id for branch in sweep.record().branches if (e := sweep.experiments().get(branch.name))}
    for name, members in networks.items():
        if name and {ids.get(wanted, wanted)} & {n.experiment.id for n in members}:
            return name
    others = sorted(name for name in networks if name)
    raise InputError(
        f"{sweep.id} has no finished branch {wanted}, apart from the control. Its branches are {join_names(others)}."
    )


def voted(networks: Sequence[Predictions]) -> Voted:
    """The majority of some networks."""
    mean: np.ndarray = np.stack([n.probabilities for n in networks]).mean(0, dtype=np.float32)
    count = np.zeros(mean.shape, dtype=np.float32)
    rows = np.arange(len(mean))
    for n in networks:
        count[rows, n.predicted] += 1
    top = np.argmax(count + mean / 2, axis=1)  # a mean probability is at most 1, so it decides among equals only
    return Voted(len(networks), top, count[rows, top].astype(int), mean)


def between(
    old: Voted,
    new: Voted,
    labels: np.ndarray,
    classes: Sequence[str],
    known: ValidationImages | None,
    of_class: int | None = None,
    among: np.ndarray | None = None,
) -> list[Flip]:
    """The images that ``new`` predicts otherwise than ``old``, in the order of KINDS; of each kind first those that most networks agree
    on.

    Args:
        labels: int (n,), the true class of each image.
        of_class: only what concerns this class; None: every flip, each in the kind that its own class sees.
        among: bool (n,), only these images.
    """
    kinds = _kinds(old.top, new.top, labels, of_class)
    rows = np.flatnonzero(kinds if among is None else kinds * among)
    sure = old.votes[rows] / old.seeds + new.votes[rows] / new.seeds
    clear = new.mean[rows, new.top[rows]] - new.mean[rows, old.top[rows]]
    found = []
    for i in rows[np.lexsort((-clear, -sure, kinds[rows]))].tolist():
        was, now = int(old.top[i]), int(new.top[i])
        found.append(
            Flip(
                i,
                known.names[i] if known is not None else f"image {i}",
                classes[int(labels[i])],
                KINDS[int(kinds[i]) - 1],
                classes[was],
                int(old.votes[i]),
                classes[now],
                int(new.votes[i]),
                None if known is None else int(known.in_training[i]),
            )
        )
    return found


def _kinds(old: np.ndarray, new: np.ndarray, labels: np.ndarray, of_class: int | None) -> np.ndarray:
    """int (n,): 0, or the position in KINDS plus 1."""
    changed = old != new
    kinds = np.select(
        [changed & (new == labels), changed & (old == labels), changed],
        [1 + KINDS.index(FIXED), 1 + KINDS.index(BROKEN), 1 + KINDS.index(OTHER)],
        0,
    )
    if of_class is not None:
        of_others = labels != of_class
        kinds[of_others] = np.select(
            [(changed & (new == of_class))[of_others], (changed & (old == of_class))[of_others]],
            [1 + KINDS.index(ALARM), 1 + KINDS.index(QUIET)],
            0,
        )
    return kinds


def readable(network: Network) -> Predictions | None:
    """The predictions of a network; None where they cannot be read any more."""
    try:
        return network.predictions()
    except RaysweepError:
        return None
