"""What the sections of a report contain, as plain records that the template ``page.html`` shows. Shares are in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raysweep.report.effects import Effect
from raysweep.store.experiment import Experiment


@dataclass(frozen=True, slots=True)
class Group:
    """The experiments of one branch, which differ in their seed only."""

    name: str
    members: Sequence[Experiment]
    control: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sentence about a difference. ``label`` is ``better``, ``worse`` or ``nothing``."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class TreeLine:
    """One experiment of the tree. Its bar begins at ``start`` and is ``length`` long, in percent of the last epoch of all."""

    guides: str
    edge: str
    name: str
    about: str
    start: float
    length: float
    control: bool


@dataclass(frozen=True, slots=True)
class BranchLine:
    """One branch: means over its seeds' last epochs, sums of their training seconds and images."""

    name: str
    control: bool
    change: str
    status: str
    seeds: int
    accuracy: float | None
    macro_f1: float | None
    worst: str
    worst_recall: float | None
    d_accuracy: Effect | None
    d_macro_f1: Effect | None
    seconds: float
    images: int
    mean_precision: float | None = None  # mAP, of several labels for an image
    d_mean_precision: Effect | None = None


@dataclass(frozen=True, slots=True)
class HeatCell:
    """An effect, and the strength of its colour in [0, 1]."""

    e: Effect
    strength: float


@dataclass(frozen=True, slots=True)
class HeatLine:
    """A row; ``under``: it belongs to the row above."""

    name: str
    cells: Sequence[HeatCell]
    under: bool = False


@dataclass(frozen=True, slots=True)
class Heat:
    """For every metric a table of branch × class. ``heads`` are pairs (class, its images), one per column."""

    heads: Sequence[tuple[str, str]]
    tables: Mapping[str, Sequence[HeatLine]]
    names: Mapping[str, str]  # metric → its name in texts

    @property
    def without_leaks(self) -> bool:
        """Whether there are rows without the images that are also in training."""
        return any(row.under for rows in self.tables.values() for row in rows)


@dataclass(frozen=True, slots=True)
class Share:
    """Of one class: its weight, the requested and the realised share, and the difference in images (realised - requested)."""

    weight: float
    requested: float
    realised: float
    off: int


@dataclass(frozen=True, slots=True)
class ShareLine:
    name: str
    cells: Sequence[Share]


@dataclass(frozen=True, slots=True)
class Shares:
    """The shares of the classes that differ most; ``more`` classes are left out."""

    classes: Sequence[str]
    rows: Sequence[ShareLine]
    more: int = 0


@dataclass(frozen=True, slots=True)
class LegendEntry:
    name: str
    colour: str
    dash: str


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    svg: str


@dataclass(frozen=True, slots=True)
class Curves:
    legend: Sequence[LegendEntry] = ()
    panels: Sequence[Panel] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Confused:
    """One cell of a confusion matrix: ``share`` of the true class, and its change against the reference. Of several labels for an image:
    ``share`` of the images with the label ``true`` on which ``predicted`` is predicted, and ``there``, the share that truly has it."""

    true: str
    predicted: str
    share: float
    count: int
    change: float
    there: float | None = None

    @property
    def hit(self) -> bool:
        return self.true == self.predicted


@dataclass(frozen=True, slots=True)
class ConfusionLine:
    name: str
    images: int
    cells: Sequence[Confused]


@dataclass(frozen=True, slots=True)
class Confusion:
    """A confusion matrix, or of ``several`` labels for an image the table of those predicted together: all of it in ``rows``, or, where
    there are many classes, only the most important cells in ``most``."""

    name: str
    seeds: int
    compared: bool
    classes: Sequence[str]
    rows: Sequence[ConfusionLine] = ()
    most: Sequence[Confused] = ()
    several: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """What to type to reproduce something."""

    name: str
    command: str


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that a command needs."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to reproduce a sweep or an experiment; ``notes`` say for which experiments that is not known."""

    commands: Sequence[Command] = ()
    files: Sequence[SourceFile] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """One image: its name, the text below it, all that is known of it, and ``uri``, which is empty where it cannot be shown.
    ``copied``: it is also in training."""

    name: str
    caption: str
    about: str
    copied: bool = False
    uri: str = ""


@dataclass(frozen=True, slots=True)
class PictureRow:
    """The first of ``count`` images of one kind. ``label`` is ``better``, ``worse`` or ``nothing``: how the title is coloured."""

    title: str
    label: str
    count: int
    pictures: Sequence[Picture]


@dataclass(frozen=True, slots=True)
class ClassPictures:
    name: str
    about: str
    rows: Sequence[PictureRow]


@dataclass(frozen=True, slots=True)
class Pictures:
    """``command`` lists more of them; empty where there is none."""

    classes: Sequence[ClassPictures]
    notes: Sequence[str] = ()
    command: str = ""
