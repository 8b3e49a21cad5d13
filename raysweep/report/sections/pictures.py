"""The images behind the numbers, class by class: what branches fixed and broke, confident errors, possible label errors.

First it is settled which images are worth showing; then as many pictures are made as fit into the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from raysweep._text import counted, truncate
from raysweep.data import decoded
from raysweep.data.cache import Dataset
from raysweep.errors import DataError, RaysweepError
from raysweep.report import flips, images, predictions, thumbnails
from raysweep.report.comparison import Comparison
from raysweep.report.effects_table import by_size
from raysweep.report.flips import BROKEN, FIXED, Voted, readable, voted
from raysweep.report.images import ValidationImages
from raysweep.report.predictions import Network, Predictions
from raysweep.report.sections.records import ClassPictures, Picture, PictureRow, Pictures
from raysweep.store.commands import command
from raysweep.store.experiment import Experiment

MOST_CLASSES = 40
MOST_BRANCHES = 4  # whose images are shown
MOST_PICTURES = 8  # of a row
MOST_BYTES = 1_200_000  # of all pictures together; a page has less room where its tables are long
SIZE = 64  # pixels of a picture's longer side
_NAME = 200  # letters of a name


@dataclass(frozen=True)
class Candidates:
    """What is worth showing. ``indices``: of every picture in ``shown``, row by row, the position of its image."""

    shown: Pictures
    indices: Sequence[Sequence[Sequence[int]]] = ()
    source: Dataset | None = None
    known: ValidationImages | None = None


def compared(comparison: Comparison, branches: Sequence[str]) -> Candidates | None:
    """The candidates of a comparison; None where its predictions cannot be read.

    Args:
        branches: those on the page, the best first.
    """
    if not comparison.networks or comparison.several:  # which images are fixed or broken is not told of several labels
        return None
    chosen = [name for name in branches if name in comparison.networks][:MOST_BRANCHES]
    references = {b.name: b.reference for b in comparison.branches if b.name in chosen}
    arms = {name: _read(comparison.networks[name]) for name in dict.fromkeys(("", *chosen, *references.values()))}
    if not all(arms.values()):
        return None
    every = np.concatenate([comparison.pairs[0].reference, *(pair.branch for pair in comparison.pairs)])
    first = comparison.networks[""][0].experiment
    making = _Making(
        comparison.classes,
        comparison.pairs[0].labels,
        images.of([n.experiment for n in comparison.networks[""]], len(comparison.pairs[0].labels)),
        {name: voted(members) for name, members in arms.items()},
        every,
        comparison.reference,
        references,
    )
    order = by_size(comparison, "f1")[:MOST_CLASSES]
    notes = []
    if len(comparison.classes) > MOST_CLASSES:
        notes.append(f"Of the {MOST_CLASSES} classes with the largest changes.")
    if len(comparison.networks) - 1 > len(chosen):
        notes.append(f"Of the {counted(len(chosen), 'best branch', 'best branches')}.")
    more = ""
    if chosen and (sweep := comparison.networks[chosen[0]][0].experiment.config().sweep) is not None:
        more = command(first.root, "flips", sweep, chosen[0], "--class", order[0])
    return making.of_classes(order, notes, first, more)


def own(experiment: Experiment) -> Candidates | None:
    """The candidates of one experiment; None where its predictions cannot be read."""
    try:
        best = predictions.read(experiment)
    except RaysweepError:
        return None
    if best.several:
        return None
    known = images.of([experiment], len(best.labels))
    making = _Making(best.classes, best.labels, known, {"": voted([best])}, best.predicted[None], "the network")
    recalls = [
        float(making.right[best.labels == c].mean()) if making.counts[c] else 2.0 for c in range(len(best.classes))
    ]
    order = [best.classes[c] for c in np.argsort(recalls, kind="stable")[:MOST_CLASSES]]
    notes = [f"Of the {MOST_CLASSES} worst classes."] if len(best.classes) > MOST_CLASSES else []
    return making.of_classes(order, notes, experiment, "")


def _read(networks: Sequence[Network]) -> list[Predictions]:
    """Of those that can still be read."""
    return [found for n in networks if (found := readable(n)) is not None]


@dataclass
class _Making:
    """Chooses the images. ``arms``: name → its majority, "" for the reference. ``every`` int (networks, n): what all networks of the
    comparison predict. ``against``: each branch to be shown → the arm that it is compared with."""

    classes: Sequence[str]
    labels: np.ndarray
    known: ValidationImages | None
    arms: Mapping[str, Voted]
    every: np.ndarray
    reference: str
    against: Mapping[str, str] = field(default_factory=dict)
    rows: list[list[list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = np.bincount(self.labels, minlength=len(self.classes))
        self.right = self.arms[""].top == self.labels
        self.mean = np.mean([arm.mean for arm in self.arms.values()], axis=0)
        self.suspects = self._suspects()

    def of_classes(self, order: Sequence[str], notes: list[str], experiment: Experiment, more: str) -> Candidates:
        found = [made for c in order if (made := self._of_class(self.classes.index(c))) is not None]
        source = decoded.data_of(experiment)
        if self.known is None:
            notes.append("The names of the images are not known, because an earlier version made these experiments.")
        if source is None:
            notes.append(
                "The pictures cannot be shown: the decoded images are not on this machine any more. Any command that reads the same "
                "data, such as `raysweep audit`, decodes them again; then write the report anew."
            )
        return Candidates(Pictures(found, notes, more), self.rows, source, self.known)

    def _of_class(self, c: int) -> ClassPictures | None:
        mine = self.labels == c
        made: list[tuple[PictureRow, list[int]]] = []
        for name in self.against:
            made += self._flips(name, self.arms[name], mine)
        made += [self._confident(c, mine), self._suspected(c), self._disputed(mine)]
        made = [(row, indices) for row, indices in made if indices]
        if not made:
            return None
        self.rows.append([indices for _, indices in made])
        about = (
            f"{counted(int(mine.sum()), 'image')}, {int(self.right[mine].sum()):,} of them right by {self.reference}"
        )
        return ClassPictures(self.classes[c], about, [row for row, _ in made])

    def _flips(self, name: str, arm: Voted, mine: np.ndarray) -> list[tuple[PictureRow, list[int]]]:
        its = self.against[name]
        old, before = self.arms[its], its or self.reference
        every = [f for f in flips.between(old, arm, self.labels, self.classes, self.known, among=mine)]
        rows = []
        for kind, word, colour in ((FIXED, "fixed", "better"), (BROKEN, "broke", "worse")):
            of_kind = [f for f in every if f.kind == kind]
            made = [
                self._picture(
                    f.index,
                    f"{f.old} → {f.new}",
                    f"{before}: {f.old} ({f.old_votes} of {old.seeds}); {name}: {f.new} ({f.new_votes} of {arm.seeds})",
                )
                for f in of_kind[:MOST_PICTURES]
            ]
            rows.append(
                (PictureRow(f"{name} {word}", colour, len(of_kind), made), [f.index for f in of_kind[:MOST_PICTURES]])
            )
        return rows

    def _confident(self, c: int, mine: np.ndarray) -> tuple[PictureRow, list[int]]:
        arm = self.arms[""]
        wrong = np.flatnonzero(mine & ~self.right)
        share = arm.mean[wrong, arm.top[wrong]]
        order = wrong[np.argsort(-share, kind="stable")][:MOST_PICTURES].tolist()
        made = [self._sure(i, arm.top[i], arm.mean) for i in order]
        return PictureRow(f"most confident errors of {self.reference}", "nothing", len(wrong), made), order

    def _suspects(self) -> np.ndarray:
        """bool (n,): all networks predict the same other class, and are as sure of it as they are on average of images that bear its
        label (the threshold of confident learning, Northcutt et al. 2021, doi 10.1613/jair.1.12125)."""
        first = self.every[0]
        agreed = (self.every == first).all(0) & (first != self.labels)
        sure = np.bincount(self.labels, self.mean[np.arange(len(self.labels)), self.labels], len(self.classes))
        threshold = np.divide(sure, self.counts, out=np.full(len(self.classes), np.inf), where=self.counts > 0)
        result: np.ndarray = agreed & (self.mean[np.arange(len(first)), first] >= threshold[first])
        return result

    def _suspected(self, c: int) -> tuple[PictureRow, list[int]]:
        rows = np.flatnonzero(self.suspects & (self.labels == c))
        order = rows[np.argsort(-self.mean[rows, self.every[0][rows]], kind="stable")]
        chosen = order[:MOST_PICTURES].tolist()
        made = [self._sure(i, self.every[0][i], self.mean) for i in chosen]
        many = len(self.every)
        text = f"possible label errors: {'all ' + str(many) + ' networks are' if many > 1 else 'the network is'} sure of another class"
        return PictureRow(text, "nothing", len(rows), made), chosen

    def _disputed(self, mine: np.ndarray) -> tuple[PictureRow, list[int]]:
        """The images on which the networks disagree most: those whose most frequent prediction has at most half of the votes."""
        rows, many = np.flatnonzero(mine), len(self.every)
        votes = np.array([np.bincount(self.every[:, i]).max() for i in rows]) if many > 2 else np.full(len(rows), many)
        split = rows[2 * votes <= many]
        order = split[np.argsort(votes[2 * votes <= many], kind="stable")]
        chosen = order[:MOST_PICTURES].tolist()
        made = []
        for i in chosen:
            seen, count = np.unique(self.every[:, i], return_counts=True)
            top = np.argsort(-count, kind="stable")
            each = ", ".join(f"{self.classes[seen[j]]} {count[j]}" for j in top[:4])
            made.append(
                self._picture(i, " / ".join(self.classes[seen[j]] for j in top[:2]), f"of {many} networks: {each}")
            )
        return PictureRow("the networks disagree", "nothing", len(split), made), chosen

    def _sure(self, i: int, predicted: int, mean: np.ndarray) -> Picture:
        share = f"{self.classes[predicted]} {mean[i, predicted]:.0%}"
        return self._picture(
            i, f"→ {share}", f"predicted {share}, {self.classes[self.labels[i]]} {mean[i, self.labels[i]]:.0%}"
        )

    def _picture(self, i: int, caption: str, about: str) -> Picture:
        name = f"image {i}" if self.known is None else truncate(self.known.names[i], _NAME)
        copied = self.known is not None and bool(self.known.in_training[i])
        return Picture(name, caption, f"{name}: {about}{'; also in training' if copied else ''}", copied)


def filled(candidates: Candidates, room: int) -> Pictures:
    """With pictures, as many as fit into ``room`` bytes: of every row the first, then of every row the second, and so on. A row ends
    where its pictures do; the page says how many images it has."""
    shown, source = candidates.shown, candidates.source
    if source is None:
        return shown
    room = min(room, MOST_BYTES)
    made: dict[int, str] = {}
    other = 0
    kept = [[0 for _ in rows] for rows in candidates.indices]
    places = [
        (at, a, b, indices[at])
        for at in range(MOST_PICTURES)
        for a, rows in enumerate(candidates.indices)
        for b, indices in enumerate(rows)
        if at < len(indices)
    ]
    for at, a, b, i in places:
        if i not in made:
            made[i] = uri(source, i, candidates.known)
            other += not made[i]
        picture = shown.classes[a].rows[b].pictures[at]
        room -= len(made[i]) + 3 * len(picture.about.encode()) + 200  # its markup
        if room < 0:
            break
        kept[a][b] = at + 1
    classes = [
        replace(of_class, rows=_filled(of_class.rows, candidates.indices[a], kept[a], made))
        for a, of_class in enumerate(shown.classes)
    ]
    notes = list(shown.notes)
    if other:
        notes.append(
            f"{counted(other, 'picture')} cannot be shown: what is decoded now is another image, or cannot be read."
        )
    return replace(shown, classes=[of_class for of_class in classes if of_class.rows], notes=notes)


def _filled(
    rows: Sequence[PictureRow], indices: Sequence[Sequence[int]], kept: Sequence[int], made: Mapping[int, str]
) -> list[PictureRow]:
    return [
        replace(row, pictures=[replace(p, uri=made[i]) for p, i in zip(row.pictures[:n], of_row[:n], strict=True)])
        for row, of_row, n in zip(rows, indices, kept, strict=True)
        if n
    ]


def uri(source: Dataset, index: int, known: ValidationImages | None) -> str:
    """A picture; empty where the image is not the one that the networks were validated on, or cannot be read."""
    from raysweep.data import cache

    try:
        if known is not None and not cache.holds(source, images.VAL, index, known.pixels[index]):
            return ""
        pixels = source.val.one(index)
    except (DataError, IndexError, OSError):
        return ""
    return thumbnails.data_uri(pixels, SIZE)
