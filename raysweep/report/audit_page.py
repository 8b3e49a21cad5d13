"""The page of ``raysweep audit``: what was read of a data set, and thumbnails of its copies, contradictions and near copies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from raysweep._paths import user_path
from raysweep._text import counted, truncate
from raysweep.data import audit
from raysweep.data.audit import TRAIN, VAL, Audit, Near, Place, Places
from raysweep.data.cache import Dataset
from raysweep.data.copies import Groups
from raysweep.errors import InputError
from raysweep.report import templates, thumbnails
from raysweep.store import files

MOST_BYTES = 2_600_000  # of the cards; the page stays below 3 MB
_THUMBNAIL = 64  # pixels
_NAME = 90  # letters
_NAMES = 6  # of one card


@dataclass(frozen=True)
class Picture:
    """A thumbnail and what stands below it, a line for each image that looks like this."""

    source: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Card:
    """Pictures that belong together. ``about`` says what is remarkable about them."""

    pictures: Sequence[Picture]
    about: str = ""

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return sum(len(p.source) + 200 + sum(2 * len(line) + 20 for line in p.lines) for p in self.pictures)


@dataclass(frozen=True)
class Section:
    title: str
    text: str
    cards: Sequence[Card]
    more: int  # cards that are left out


@dataclass(frozen=True)
class ClassLine:
    name: str
    train: int
    val: int
    leaked: int
    sealed: int  # test images that are copies of its training images


@dataclass(frozen=True)
class AuditPage:
    """Everything on the page. Texts are as users wrote them; whoever shows them escapes them."""

    title: str
    made: str
    about: str
    classes: Sequence[ClassLine]
    with_sealed: bool  # there are such copies, and of which classes is known
    lines: Sequence[str]  # what was left out, cropped or converted
    sizes: Sequence[tuple[str, int]]  # images as they were stored
    modes: Sequence[tuple[str, int]]
    sections: Sequence[Section]


def new_file(name: str) -> Path:
    """The file that a page can be written to.

    Raises:
        InputError: it exists, or cannot be there.
    """
    target = user_path(name)
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise InputError(f"{truncate(name)}: give the name of a file in a folder that exists, such as audit.html.")
    if target.exists():
        raise InputError(f"{truncate(name)}: the file exists. Name a new one, or delete it.")
    return target


def write(found: Audit, name: str) -> Path:
    """Write the page to a new file, and return its path.

    Raises:
        InputError: the file exists, or cannot be there. StoreError: it cannot be written.
    """
    target = new_file(name)
    files.write_atomic(target, html(found.data, found.pairs, found.name).encode(errors="backslashreplace"))
    return target


def html(data: Dataset, pairs: Sequence[Near] | None, title: str) -> str:
    """The page as one HTML file.

    Args:
        pairs: near copies, if they were looked for.
        title: the data set in words.
    """
    return templates.render("audit.html", page=content(data, pairs, title))


def content(data: Dataset, pairs: Sequence[Near] | None, title: str) -> AuditPage:
    """What the page says. Thumbnails are made until the page is full; every section says how many it leaves out."""
    groups, places = audit.exact(data), Places(data)
    train, val = data.train.counts(data.classes), data.val.counts(data.classes)
    copies = data.reading.copies
    leaked = {} if copies is None else copies.leaked
    sealed = {} if data.reading.seal is None else data.reading.seal.of_class
    lines = [ClassLine(c, train[c], val[c], leaked.get(c, 0), sealed.get(c, 0)) for c in data.classes]
    height, width, channels = data.shape
    usual = sum(train.values()) + sum(val.values()) - sum(data.reading.modes.values())
    return AuditPage(
        title,
        datetime.now().isoformat(sep=" ", timespec="minutes"),
        f"{counted(len(data.train.labels), 'training image')}, {counted(len(data.val.labels), 'validation image')}, "
        f"{counted(len(data.classes), 'class', 'classes')}; read as {width} × {height} pixels, "
        f"{'gray' if channels == 1 else 'in colour'}",
        sorted(lines, key=lambda line: -line.leaked),
        bool(sealed),
        data.reading.lines(),
        list(data.reading.sizes.items()),
        [("gray or RGB", usual), *data.reading.modes.items()] if data.reading.modes else [],
        _sections(_Pictures(data, places), groups, pairs),
    )


class _Pictures:
    """Makes pictures of places."""

    def __init__(self, data: Dataset, places: Places) -> None:
        self.data, self.places = data, places

    def at(self, split: str, rows: Sequence[int], also: Sequence[Place] = ()) -> Picture:
        """Equal images of one split, and others that are equal to them."""
        images = self.data.train if split == TRAIN else self.data.val
        every = [*(self.places.at(split, i) for i in rows), *also]
        lines = [_line(p) for p in every[:_NAMES]]
        if len(every) > _NAMES:
            lines.append(f"and {len(every) - _NAMES:,} more")
        return Picture(thumbnails.data_uri(images.one(rows[0]), _THUMBNAIL), lines)


def _line(place: Place) -> str:
    return f"{'training' if place.split == TRAIN else 'validation'}: {place.of_class}, {truncate(place.name, _NAME)}"


def _sections(pictures: _Pictures, groups: Groups, pairs: Sequence[Near] | None) -> list[Section]:
    labels = pictures.data.train.labels
    contradicting = [rows for rows in groups.repeated if len({int(labels[i]) for i in rows}) > 1]
    # Those under another class first: they need a decision.
    leaked = sorted(groups.sources, key=lambda i: (not groups.other_class[i], i))

    def of_leaked() -> Iterator[Card]:
        for i in leaked:
            also = [pictures.places.at(TRAIN, j) for j in groups.sources[i]]
            yield Card(
                [pictures.at(VAL, [i], also)], "under another class in training" if groups.other_class[i] else ""
            )

    def of_contradicting() -> Iterator[Card]:
        for rows in contradicting:
            yield Card([pictures.at(TRAIN, rows)], "equal pixels, several classes")

    def of_near() -> Iterator[Card]:
        for pair in near:
            both = [pictures.at(p.split, [p.index]) for p in (pair.one, pair.other)]
            yield Card(both, f"{pair.distance} of 64 bits differ" if pair.distance else "equal hashes, other pixels")

    near = sorted(pairs or (), key=lambda p: (p.one.split == p.other.split, p.distance))
    across = sum(p.one.split != p.other.split for p in near)
    left = MOST_BYTES
    found = []
    for title, text, cards, count in (
        (
            "Contradicting labels",
            "Equal training images of several classes. At most one of the classes is right.",
            of_contradicting(),
            len(contradicting),
        ),
        (
            "Copies across the split",
            "Validation images whose pixels are also in training: what the network was trained on says nothing about what it learned.",
            of_leaked(),
            len(leaked),
        ),
        (
            "Near copies",
            f"Pairs whose difference hashes differ by at most {audit.NEAR} of 64 bits, {across:,} of them across the split, which come "
            "first. Look at them: some are the same picture, some only look alike.",
            of_near(),
            len(near),
        ),
    ):
        shown, left = _until_full(cards, left)
        if count:
            found.append(Section(f"{title} ({count:,})", text, shown, count - len(shown)))
    return found


def _until_full(cards: Iterable[Card], left: int) -> tuple[list[Card], int]:
    """(the first cards that take no more than ``left`` bytes, how many bytes are left)."""
    shown: list[Card] = []
    for card in cards:
        if card.size > left:
            return shown, 0
        shown.append(card)
        left -= card.size
    return shown, left
