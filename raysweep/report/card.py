"""How objects of the Python interface, and what runs in a notebook, show themselves: one :class:`Card`, as text in a console and as
HTML in a notebook."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raysweep._text import counted, hide_credentials, plain

MOST_CLASSES = 12  # columns or rows of classes
MOST_ROWS = 20  # of a table
BETTER, WORSE, SOFT = "better", "worse", "soft"


@dataclass(frozen=True)
class Cell:
    """A cell of a table that is not plain text. ``tone``: BETTER, WORSE or SOFT. ``picture``: the ``src`` of an image before the text."""

    text: str
    tone: str = ""
    picture: str = ""


@dataclass(frozen=True)
class Table:
    """``columns``: (name, "l" for texts or "r" for numbers). ``more``: what was left out, in a sentence."""

    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str | Cell]]
    more: str = ""

    def cells(self) -> Iterator[Sequence[Cell]]:
        """Each row's cells."""
        for row in self.rows:
            yield [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]


@dataclass(frozen=True)
class Bar:
    """How much of something is done; ``share`` is in [0, 1], None where that is not known."""

    share: float | None
    text: str


@dataclass(frozen=True)
class Card:
    """``kind`` and ``title`` name the object. ``facts`` are short, ``lines`` are (tone, sentence), ``charts`` are SVG without any text of
    a user, with a ``legend`` of names, colours and CSS dashes; ``code`` is shown as it is."""

    kind: str
    title: str
    facts: Sequence[str] = ()
    tables: Sequence[Table] = ()
    lines: Sequence[tuple[str, str]] = ()
    charts: Sequence[tuple[str, str]] = ()  # (name, SVG)
    legend: Sequence[tuple[str, str, str]] = ()
    code: str = ""
    bar: Bar | None = None

    def text(self) -> str:
        """For a console: no line of a table is broken, and no name can control the terminal."""
        told = [f"{self.kind} {self.title}".strip(), *(f"  {fact}" for fact in self.facts)]
        for table in self.tables:
            told += ["", *_lines(table)]
            told += [table.more] if table.more else []
        told += ["", *(text for _, text in self.lines)] if self.lines else []
        told += ["", *self.code.rstrip("\n").split("\n")] if self.code else []
        return hide_credentials("\n".join(map(plain, told)))

    def html(self) -> str:
        """For a notebook: no script and no other file, in the notebook's own colours, light or dark."""
        from raysweep.report import templates

        return hide_credentials(templates.render("card.html", card=self).strip())


class Shown(ABC):
    """An object that shows itself by its card."""

    @abstractmethod
    def card(self) -> Card:
        """What is shown."""

    def __repr__(self) -> str:
        return self.card().text()

    def _repr_html_(self) -> str:
        return self.card().html()

    def _repr_pretty_(self, printer: object, cycle: bool) -> None:  # else IPython prints the fields of a dataclass
        printer.text(repr(self))  # type: ignore[attr-defined]


def _lines(table: Table) -> Iterator[str]:
    rows = [[plain(name) for name, _ in table.columns], *([plain(c.text) for c in row] for row in table.cells())]
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    right = [kind == "r" for _, kind in table.columns]
    for row in rows:
        cells = []
        for text, width, is_right in zip(row, widths, right, strict=True):
            blank = " " * (width - _width(text))
            cells.append(blank + text if is_right else text + blank)
        yield f"  {'  '.join(cells)}".rstrip()


def _width(text: str) -> int:
    """How many columns a text takes: two for a Chinese character, none for a combining mark."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def left_out(count: int, noun: str, plural: str, whole: str) -> str:
    """``… 33 more classes; .to_pandas() has all``, or an empty text."""
    return f"… {counted(count, f'more {noun}', f'more {plural}')}; {whole} has all." if count > 0 else ""
