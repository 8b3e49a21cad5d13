"""Output of all commands: messages on stderr, data on stdout, numbers and times in a readable form."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TextIO

from raysweep._text import counted, hide_credentials, join_names, json_text, plain
from raysweep.store.commands import command
from raysweep.store.remote.copies import named, opened
from raysweep.store.root import Root

_NEXT = "Next: "
_WORDS = re.compile(r"(?:`[^`]*`|\S)+")
_HEAD = 12  # columns of the terminal for the name of a class above numbers
_BETWEEN = 3  # between two columns of a table
_EDGES = 2  # beside the first and the last column


def never_fail() -> None:
    """Let stdout and stderr write characters that their encoding lacks as ``\\u25b2``, instead of failing in the middle of a
    list. Unlike a question mark, an escape says which character it was, and two names stay two."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a program has put its own object there
            stream.reconfigure(errors="backslashreplace")


def as_written(text: str, stream: TextIO) -> str:
    """A text as the stream writes it, so that the columns of a table get their real widths."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def say(text: str = "") -> None:
    """Print one message on stderr. A terminal gets it in lines that end between words."""
    told = named(hide_credentials(text))
    if sys.stderr.isatty() and not told.startswith(_NEXT):  # a command is copied, so it stays one line
        told = wrapped(told, shutil.get_terminal_size().columns)
    print(told, file=sys.stderr, flush=True)


def wrapped(text: str, width: int) -> str:
    """The text in lines of at most ``width`` columns. A word that is longer, and a command between backticks, stay whole."""
    if len(text) <= width and text.isascii():
        return text
    lines: list[str] = []
    for line in text.split("\n"):
        start = line[: len(line) - len(line.lstrip())]
        current, used = start, len(start)
        for word in _WORDS.findall(line):
            size = cell_len(word)
            if current.strip() and used + 1 + size > width:
                lines.append(current)
                current, used = start + word, len(start) + size
            else:
                between = " " if current.strip() else ""
                current, used = current + between + word, used + len(between) + size
        lines.append(current)
    return "\n".join(lines)


def say_next(root: Root, *words: str) -> None:
    """Print the command to type next."""
    say(f"{_NEXT}{plain(command(root, *words))}")


def say_first(root: Root) -> None:
    """Print what to type in a root without experiments."""
    say_next(root, "run", "base")


def put(text: str) -> None:
    """Print one line of data on stdout."""
    print(named(hide_credentials(text)), flush=True)


def put_json_bytes(data: bytes) -> None:
    """Write JSON in UTF-8, which may be megabytes long, to stdout."""
    if not _is_utf8(sys.stdout):
        _put_json(data.decode())
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(named(data.decode()).encode() if opened() else data)
    sys.stdout.buffer.flush()


def put_json(value: Any) -> None:
    """Print valid JSON, indented."""
    _put_json(json_text(value, indent=2) + "\n")


def _put_json(text: str) -> None:
    """Print JSON. Where stdout is not UTF-8, what is not ASCII becomes an escape of JSON, which every program reads."""
    text = named(text)
    if not _is_utf8(sys.stdout) and not text.isascii():
        text = "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in text)
    print(text, end="", flush=True)


def _is_utf8(stream: TextIO) -> bool:
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").replace("_", "") == "utf8"


def is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def debugging() -> bool:
    """Whether ``--debug`` was given, which shows tracebacks."""
    return bool(os.environ.get("RAYSWEEP_DEBUG"))


def percent(value: object) -> str:
    """``81.3%``; ``-`` if the value is not a number."""
    return f"{value:.1%}" if isinstance(value, (int, float)) else "-"


def decimals(value: object) -> str:
    """``0.813``; ``-`` if the value is not a number."""
    return f"{value:.3f}" if isinstance(value, (int, float)) else "-"


def duration(seconds: float) -> str:
    """``45 s``, ``3:05``, ``2:10:00``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def age(created: str | None) -> str:
    """The time since ``created``, in one unit."""
    if not created:
        return "-"
    try:
        seconds = (datetime.now() - datetime.fromisoformat(created)).total_seconds()
    except (TypeError, ValueError):
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def table(
    title: str | None,
    columns: list[tuple[str, str]],
    rows: list[list[str]],
    err: bool = False,
    least: Sequence[int] = (),
    most: int | None = None,
    optional: Sequence[int] = (),
) -> None:
    """Print a table on stdout (with ``err``: stderr): formatted on a terminal, tab-separated for programs.

    Args:
        least: columns of classes that a narrow terminal may leave out, the least important first. A line below the table says
            how many there are. Programs get all of them.
        most: of these columns, also for programs.
        optional: other columns that a narrow terminal may leave out, the least important first. A line below the table names
            them. Not together with ``least``.
    """
    if most is not None and len(least) > most:
        gone = set(least[: len(least) - most])
        kept = [i for i in range(len(columns)) if i not in gone]
        place = {i: at for at, i in enumerate(kept)}
        columns, rows = [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]
        _table(title, columns, rows, err, [place[i] for i in least if i not in gone], len(gone))
    else:
        _table(title, columns, rows, err, least, 0, optional)


def _table(
    title: str | None,
    columns: list[tuple[str, str]],
    rows: list[list[str]],
    err: bool,
    least: Sequence[int],
    omitted: int,
    optional: Sequence[int] = (),
) -> None:
    """:func:`table`, after ``omitted`` columns were left out."""
    stream = sys.stderr if err else sys.stdout
    if not stream.isatty():
        write = say if err else put
        write("\t".join(name for name, _ in columns))
        for row in rows:
            write("\t".join(row))
        _say_omitted(omitted)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=err, highlight=False)
    texts = [[as_written(named(cell), stream) for cell in row] for row in ([c for c, _ in columns], *rows)]
    widths = _widths(texts, set(least))
    shown = _fitting(widths, console.width, least or optional)
    others = sum(widths[i] + _BETWEEN for i in shown[1:]) + _EDGES
    first = min(widths[shown[0]], max(console.width // 3, console.width - others))
    made = Table(title=Text(title) if title else None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for at, i in enumerate(shown):
        # The names of the rows keep a third of the width, whatever else there is.
        made.add_column(
            Text(texts[0][i]),
            justify="right" if columns[i][1] == "r" else "left",
            overflow="fold",
            no_wrap=columns[i][1] == "n",
            width=first if at == 0 else None,
            max_width=widths[i] if i in least else None,
        )
    for row in texts[1:]:
        made.add_row(*(Text(row[i]) for i in shown))
    console.print(made)
    if optional:
        _say_without([name for i, (name, _) in enumerate(columns) if i not in shown])
    else:
        _say_omitted(omitted + len(columns) - len(shown))


def _say_without(names: Sequence[str]) -> None:
    if names:
        say(f"Not shown in a terminal this narrow: {join_names(names)}; --json has all.")


def _say_omitted(classes: int) -> None:
    if classes:
        say(
            f"{counted(classes, 'class', 'classes')} with smaller changes {'is' if classes == 1 else 'are'} not shown; --json has all."
        )


def _widths(texts: Sequence[Sequence[str]], narrow: set[int]) -> list[int]:
    """The width of each column. The names of classes at the top of ``narrow`` columns may be folded."""
    heads = [min(cell_len(name), _HEAD) if i in narrow else cell_len(name) for i, name in enumerate(texts[0])]
    return [max([head, *(cell_len(row[i]) for row in texts[1:])]) for i, head in enumerate(heads)]


def _fitting(widths: Sequence[int], width: int, least: Sequence[int]) -> list[int]:
    """The columns that fit into a terminal side by side: all but as many of ``least`` as must go."""
    gone: set[int] = set()
    total = sum(w + _BETWEEN for w in widths) - _BETWEEN + _EDGES
    for i in least:
        if total <= width:
            break
        gone.add(i)
        total -= widths[i] + _BETWEEN
    return [i for i in range(len(widths)) if i not in gone]


def cell_len(text: str) -> int:
    """How many columns of the terminal a text takes: two for a Chinese character, none for a combining mark."""
    from rich.cells import cell_len as of

    return of(text)


def split_classes(text: str | None) -> list[str] | None:
    """The names of ``--classes A,B,C``."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
