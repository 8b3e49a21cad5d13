"""Tables that adapt to the terminal. Nothing is broken inside a word: columns leave by priority, texts go on in the next line between
words, and where that is not enough, every row becomes a paragraph. Programs get all columns, separated by tabs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TextIO

from raysweep._text import counted, join_names
from raysweep.display.terminal import as_written, cell_len, put, say, words, wrapped
from raysweep.store.remote.copies import named

_HEAD = 16  # columns of the terminal for the name of a class above numbers; a longer one may become its number
_TEXT = 24  # columns that a text gets before other columns leave
_KEPT = 3  # columns of classes that stay longer than the optional ones
_BETWEEN = 3  # between two columns of a table
_EDGES = 2  # beside the first and the last column


def table(
    title: str | None,
    columns: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[str]],
    err: bool = False,
    least: Sequence[int] = (),
    most: int | None = None,
    optional: Sequence[int] = (),
    whole: str = "--json",
) -> None:
    """Print a table on stdout (with ``err``: stderr): formatted on a terminal, tab-separated for programs.

    Args:
        columns: (name, "l" or "r"): texts on the left, which may go on in the next line, and numbers on the right. The first
            column has the ids or names, which are copied: it is never shortened and never folded.
        least: columns of classes that a narrow terminal may leave out, the least important first. A line below the table says
            how many there are. Programs get all of them.
        most: of these columns, also for programs.
        optional: other columns that a narrow terminal may leave out, the least important first. A line below the table names
            them.
        whole: what has everything.
    """
    classes = {i: f"#{at}" for at, i in enumerate(sorted(least), start=1)}
    gone = list(least[: len(least) - most]) if most is not None and len(least) > most else []
    left = set(gone)
    kept = [i for i in range(len(columns)) if i not in left]
    if not (sys.stderr if err else sys.stdout).isatty():
        write = say if err else put
        for row in ([name for name, _ in columns], *rows):
            write("\t".join(row[i] for i in kept))
        _say_omitted(len(gone), whole)
        return
    others = [i for i, (name, _) in enumerate(columns) if i not in classes and i and _longest(name) > _HEAD]
    numbers = classes | {i: chr(ord("A") + at % 26) for at, i in enumerate(others)}
    made = _Table(columns, rows, sys.stderr if err else sys.stdout, numbers)
    shown = made.fitting(kept, list(least[len(gone) :]), optional, _columns())
    if title:
        made.write(wrapped(title, _columns()))
    made.write("")
    for line in made.lines(shown, _columns()):
        made.write(line)
    made.write("")
    if legend := [f"{numbers[i]} is {columns[i][0]}" for i in shown.columns if i in shown.numbered]:
        say(f"{'; '.join(legend)}.")
    absent = set(kept) - set(shown.columns)
    if names := [columns[i][0] for i in kept if i in absent and i not in classes]:
        say(f"Not shown in a terminal this narrow: {join_names(names)}; {whole} has all.")
    _say_omitted(len(gone) + sum(i in classes for i in absent), whole)


def lines(
    columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], width: int, optional: Sequence[int]
) -> list[str]:
    """The lines of a table on stderr for a display that is redrawn; what does not fit is left out without a word."""
    made = _Table(columns, rows, sys.stderr, {})
    return list(made.lines(made.fitting(list(range(len(columns))), [], optional, width), width))


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _say_omitted(classes: int, whole: str) -> None:
    if classes:
        say(f"… {counted(classes, 'more class', 'more classes')} with smaller changes; {whole} has all.")


@dataclass(frozen=True)
class _Shown:
    """How a table is shown: its columns with their widths, and which heads are numbers; as paragraphs if there are no widths."""

    columns: list[int]
    widths: list[int]
    numbered: frozenset[int] = frozenset()


class _Table:
    """The cells of a table as a terminal writes them."""

    def __init__(
        self,
        columns: Sequence[tuple[str, str]],
        rows: Sequence[Sequence[str]],
        stream: TextIO,
        numbers: Mapping[int, str],
    ) -> None:
        self.stream, self.numbers = stream, numbers
        self.right = [kind == "r" for _, kind in columns]
        self.heads = [as_written(named(name), stream) for name, _ in columns]
        self.rows = [[as_written(named(cell), stream) for cell in row] for row in rows]
        self.body = [max((cell_len(row[i]) for row in self.rows), default=0) for i in range(len(columns))]
        self.words = [
            0 if self.right[i] else max((_longest(row[i]) for row in self.rows), default=0) for i in range(len(columns))
        ]

    def write(self, line: str) -> None:
        print(line, file=self.stream)

    # --- what is shown -------------------------------------------------------------------------------------------

    def fitting(self, kept: list[int], least: list[int], optional: Sequence[int], width: int) -> _Shown:
        """All columns if they fit; else long names of classes become numbers, then columns leave, then texts get narrower."""
        full = [self._width(i, self.heads[i], False) for i in kept]
        if _total(full) <= width:
            return _Shown(kept, full)
        numbered = frozenset(i for i in kept if i in self.numbers and cell_len(self.heads[i]) > _HEAD)
        wished = {i: self._width(i, self._head(i, numbered), True) for i in kept}
        leaving = [*least[:-_KEPT], *optional, *least[-_KEPT:]] if optional else least
        total = _total([wished[i] for i in kept])
        gone: list[int] = []
        for i in leaving:
            if total <= width:
                break
            gone.append(i)
            total -= wished[i] + _BETWEEN
        for i in reversed(gone[:]):  # one that is wide has left room for others, which are narrow
            if total + wished[i] + _BETWEEN <= width:
                gone.remove(i)
                total += wished[i] + _BETWEEN
        shown = [i for i in kept if i not in gone]
        widths = [wished[i] for i in shown]
        if _total(widths) > width:
            widths = self._narrowed(shown, widths, width)
        else:
            self._widened(shown, widths, width)
        if not widths:  # paragraphs have room for more than columns
            most = set(least[:-_KEPT])
            return _Shown([i for i in kept if i not in most], [])
        return _Shown(shown, widths, numbered)

    def _head(self, i: int, numbered: frozenset[int]) -> str:
        return self.numbers[i] if i in numbered else self.heads[i]

    def _width(self, i: int, head: str, narrow: bool) -> int:
        """The width of a column; with ``narrow``, of a text as much as its longest word needs, and usually enough."""
        text = not self.right[i] and i > 0 and narrow
        body = min(self.body[i], max(self.words[i], _TEXT)) if text else self.body[i]
        return max(_longest(head) if i not in self.numbers and narrow else cell_len(head), body)

    def _narrowed(self, shown: list[int], widths: list[int], width: int) -> list[int]:
        """Texts as narrow as their longest words, if the columns fit then; else nothing."""
        least = [
            widths[at] if self.right[i] or at == 0 else max(self.words[i], _longest(self.heads[i]))
            for at, i in enumerate(shown)
        ]
        if _total(least) > width:
            return []
        self._widened(shown, least, width)
        return least

    def _widened(self, shown: list[int], widths: list[int], width: int) -> None:
        """Give texts the room that is left, then heads."""
        for texts in (True, False):
            for at, i in enumerate(shown):
                full = self.body[i] if texts else cell_len(self.heads[i]) * (i not in self.numbers)
                if at and (not texts or not self.right[i]):
                    widths[at] += max(0, min(width - _total(widths), full - widths[at]))

    # --- how it is shown -----------------------------------------------------------------------------------------

    def lines(self, shown: _Shown, width: int) -> Iterator[str]:
        if not shown.widths:
            yield from self._paragraphs(shown.columns, width)
            return
        heads = [self._head(i, shown.numbered) for i in shown.columns]
        bold = "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"
        for line in self._row(heads, shown, bottom=True):
            yield f"\x1b[1m{line}\x1b[0m" if bold else line
        rule = "─" if as_written("─", self.stream) == "─" else "-"
        yield f" {rule * (_total(shown.widths) - _EDGES)}"
        for row in self.rows:
            yield from self._row([row[i] for i in shown.columns], shown)

    def _row(self, cells: list[str], shown: _Shown, bottom: bool = False) -> Iterator[str]:
        """The lines of one row, at the bottom or at the top of which its texts begin."""
        parts = [_broken(cell, size) for cell, size in zip(cells, shown.widths, strict=True)]
        high = max(map(len, parts))
        if bottom:
            parts = [[""] * (high - len(p)) + p for p in parts]
        for line in zip_longest(*parts, fillvalue=""):
            padded = []
            for text, size, i in zip(line, shown.widths, shown.columns, strict=True):
                blank = " " * (size - cell_len(text))
                padded.append(blank + text if self.right[i] else text + blank)
            yield f" {(' ' * _BETWEEN).join(padded)}".rstrip()

    def _paragraphs(self, columns: list[int], width: int) -> Iterator[str]:
        first, *others = columns
        for row in self.rows:
            yield row[first]
            start = " " * (len(row[first]) - len(row[first].lstrip()))
            line = ""
            for i in others:
                if not row[i].strip():
                    continue
                item = f"{self.heads[i]} {row[i].strip()}".strip()
                if line and cell_len(line) + 2 + cell_len(item) > width:
                    yield line
                    line = ""
                line = f"{line or start}  {item}"
                if cell_len(line) > width:
                    yield wrapped(line, width)
                    line = ""
            if line:
                yield line


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _BETWEEN * (len(widths) - 1) + _EDGES


def _longest(text: str) -> int:
    return max(map(cell_len, words(text)), default=0)


def _broken(text: str, width: int) -> list[str]:
    """A cell in lines that end between words."""
    return [text] if cell_len(text) <= width else [line.strip() for line in wrapped(text, width).split("\n")]
