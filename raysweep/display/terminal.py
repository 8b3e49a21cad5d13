"""Output of all commands: messages on stderr, data on stdout, numbers and times in a readable form."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from datetime import datetime
from typing import Any, TextIO

from raysweep._text import decimals as decimals
from raysweep._text import hide_credentials, json_text, plain
from raysweep._text import percent as percent
from raysweep.store.commands import command
from raysweep.store.remote.copies import named, opened
from raysweep.store.root import Root

_NEXT = "Next: "
# What stays in one line: a word, a command between backticks, and a command that ends a message.
_WORDS = re.compile(r"(?:(?<=: )raysweep [^`]*$|`[^`]*`|\S)+")


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
    lines: list[str] = []
    for line in text.split("\n"):
        if cell_len(line) <= width:
            lines.append(line)
            continue
        start = line[: len(line) - len(line.lstrip())]
        start += "# " * line.startswith("# ", len(start))  # a comment goes on as one
        current, used = start, len(start)
        for word in words(line[len(start) :]):
            size = cell_len(word)
            if current != start and used + 1 + size > width:
                lines.append(current)
                current, used = start + word, len(start) + size
            else:
                between = " " if current != start else ""
                current, used = current + between + word, used + len(between) + size
        lines.append(current)
    return "\n".join(lines)


def words(text: str) -> list[str]:
    """What must not be broken when a text goes on in the next line.

    >>> words("Stopped. `raysweep list` shows it. Continue: raysweep continue a --root b")[1:]
    ['`raysweep list`', 'shows', 'it.', 'Continue:', 'raysweep continue a --root b']
    """
    return _WORDS.findall(text)


def say_next(root: Root, *words: str) -> None:
    """Print the command to type next."""
    say(f"{_NEXT}{plain(command(root, *words))}")


def say_first(root: Root) -> None:
    """Print what to type in a root without experiments."""
    say_next(root, "run", "base")


def put(text: str) -> None:
    """Print one line of data on stdout."""
    print(named(hide_credentials(text)), flush=True)


def put_words(text: str) -> None:
    """Print a message for people on stdout. A terminal gets it in lines that end between words."""
    put(wrapped(text, shutil.get_terminal_size().columns) if sys.stdout.isatty() else text)


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


def cell_len(text: str) -> int:
    """How many columns of the terminal a text takes: two for a Chinese character, none for a combining mark."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len as of

    return of(text)


def split_classes(text: str | None) -> list[str] | None:
    """The names of ``--classes A,B,C``."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
