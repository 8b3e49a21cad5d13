"""Series of numbered images, such as the frames of a video: their order, and how a network's answer changes from one to the next."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

from raysweep._text import counted, join_names

MOST_NAMED = 10  # changes, and missing numbers, of a series
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Series:
    """Images of one folder whose names differ in a number only: ``face9.png``, ``face10.png``."""

    name: str  # with # in the place of the number
    numbers: tuple[int, ...]  # ascending
    rows: tuple[int, ...]  # which images they are

    @property
    def missing(self) -> list[int]:
        """Numbers between the first and the last that no image has; at most a thousand of them."""
        there = set(self.numbers)
        found = []
        for before, after in pairwise(self.numbers):
            found += [n for n in range(before + 1, min(after, before + 1001)) if n not in there]
        return found[:1000]

    @property
    def doubled(self) -> list[int]:
        """Numbers that several images have."""
        return sorted({a for a, b in pairwise(self.numbers) if a == b})


@dataclass(frozen=True)
class Step:
    """From one usable image of a series to the next: ``change`` is the share of the probability that has moved to other classes,
    from 0 to 1. None at the first one."""

    number: int
    label: str
    before: int | None = None  # the number of the image that it is compared with
    was: str | None = None  # the class of that image
    change: float | None = None

    @property
    def turns(self) -> bool:
        """Whether the class is another one."""
        return self.was is not None and self.was != self.label


def series_of(paths: Sequence[Path]) -> list[Series]:
    """The series among these images. One without a number in its name belongs to none.

    Where names hold several numbers, that one counts which differs most; of equals, the last.
    """
    alike: defaultdict[tuple[Path, str], list[tuple[int, list[str]]]] = defaultdict(list)
    for row, path in enumerate(paths):
        if numbers := _NUMBER.findall(path.stem):
            alike[path.parent, _NUMBER.sub("\0", path.stem)].append((row, numbers))
    found = []
    for (folder, form), members in alike.items():
        each = [len({int(numbers[i]) for _, numbers in members}) for i in range(form.count("\0"))]
        place = max(range(len(each)), key=lambda i: (each[i], i))
        of_name: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for row, numbers in members:
            others = iter([*numbers[:place], "#", *numbers[place + 1 :]])
            name = "".join(next(others) if c == "\0" else c for c in form)
            of_name[name].append((int(numbers[place]), row))
        for name, some in of_name.items():
            some.sort()
            found.append(Series(str(folder / name), tuple(n for n, _ in some), tuple(row for _, row in some)))
    return found


def steps(series: Series, answers: Mapping[int, tuple[str, Sequence[float]]]) -> dict[int, Step]:
    """Row → step, for the rows that have an answer: (class, probability of every class)."""
    found: dict[int, Step] = {}
    last: tuple[int, str, Sequence[float]] | None = None
    for number, row in zip(series.numbers, series.rows, strict=True):
        if row not in answers:
            continue
        label, now = answers[row]
        if last is None:
            found[row] = Step(number, label)
        else:
            moved = sum(abs(a - b) for a, b in zip(last[2], now, strict=True)) / 2
            found[row] = Step(number, label, last[0], last[1], moved)
        last = number, label, now
    return found


def told(series: Series, of: Mapping[int, Step]) -> list[str]:
    """What people are told of a series: how long each class lasts, the largest change, and what is missing."""
    every = [of[row] for row in series.rows if row in of]
    name = Path(series.name).name
    if not every:
        return [f"{name}: none of {counted(len(series.rows), 'image')} can be used."]
    spans = []
    for label, some in groupby(every, key=lambda step: step.label):
        part = list(some)
        ends = f"{part[0].number}" if len(part) == 1 else f"{part[0].number}–{part[-1].number}"
        spans.append(f"{ends} {label}")
    turns = len(spans) - 1
    shown = ", ".join(spans[: MOST_NAMED + 1])
    more = f" and {len(spans) - MOST_NAMED - 1:,} more spans" if len(spans) > MOST_NAMED + 1 else ""
    lines = [f"{name}: {counted(len(every), 'image')}, {counted(turns, 'change')} of class: {shown}{more}."]
    largest = max(every, key=lambda step: step.change or 0.0)
    if largest.change is not None and len(every) > 2:
        lines[0] += f" The largest change is from {largest.before} to {largest.number} ({largest.change:.1%})."
    if missing := series.missing:
        named = join_names(missing[:MOST_NAMED])
        lines.append(
            f"{name}: no image has the number{'s' * (len(missing) > 1)} {named}"
            f"{f' and {len(missing) - MOST_NAMED:,} more' if len(missing) > MOST_NAMED else ''}; "
            "a change over a gap is one step."
        )
    if doubled := series.doubled:
        lines.append(f"{name}: several images have the number {join_names(doubled)}; they follow each other as listed.")
    return lines
