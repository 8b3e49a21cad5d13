"""The parts of the page of a sweep or an experiment, as its template shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raysweep.report.effects import Effect


@dataclass(frozen=True, slots=True)
class TreeLine:
    """One experiment of the tree, with a bar of its epochs in percent of the longest."""

    guides: str
    edge: str
    name: str
    about: str
    start: float
    length: float
    control: bool


@dataclass(frozen=True, slots=True)
class BranchLine:
    """One branch, all its seeds together; the means of their last epochs."""

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


@dataclass(frozen=True, slots=True)
class HeatCell:
    """An effect and the strength of its colour from 0 to 1."""

    e: Effect
    strength: float


@dataclass(frozen=True, slots=True)
class HeatLine:
    name: str
    cells: Sequence[HeatCell]


@dataclass(frozen=True, slots=True)
class Heat:
    """Branch × class of every metric. ``heads`` are (class, its images)."""

    heads: Sequence[tuple[str, str]]
    tables: Mapping[str, Sequence[HeatLine]]
    names: Mapping[str, str]  # what to call a metric


@dataclass(frozen=True, slots=True)
class Share:
    """Of one class: its weight, the share asked for and shown, and by how many images they differ."""

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
    classes: Sequence[str]
    rows: Sequence[ShareLine]


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
class Confused:
    """One cell of a confusion matrix: ``share`` of the true class, and its change against what is compared with."""

    true: str
    said: str
    share: float
    count: int
    change: float

    @property
    def hit(self) -> bool:
        return self.true == self.said


@dataclass(frozen=True, slots=True)
class ConfusionLine:
    name: str
    images: int
    cells: Sequence[Confused]


@dataclass(frozen=True, slots=True)
class Confusion:
    """A confusion matrix: whole in ``rows``, or, of many classes, only the largest cells in ``most``."""

    name: str
    seeds: int
    compared: bool
    classes: Sequence[str]
    rows: Sequence[ConfusionLine] = ()
    most: Sequence[Confused] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """What to type to make something again."""

    name: str
    command: str
