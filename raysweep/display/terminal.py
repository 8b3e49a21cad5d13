"""Output of all commands: messages on stderr, data on stdout, numbers and times in a readable form."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from typing import Any

from raysweep._text import hide_credentials, json_text, plain
from raysweep.store.commands import command
from raysweep.store.remote.copies import named, opened
from raysweep.store.root import Root


def say(text: str = "") -> None:
    """Print one message line on stderr."""
    print(named(hide_credentials(text)), file=sys.stderr, flush=True)


def say_next(root: Root, *words: str) -> None:
    """Print the command to type next."""
    say(f"Next: {plain(command(root, *words))}")


def put(text: str) -> None:
    """Print one line of data on stdout."""
    print(named(hide_credentials(text)), flush=True)


def put_bytes(data: bytes) -> None:
    """Write UTF-8 data, which may be megabytes long, to stdout."""
    sys.stdout.flush()
    sys.stdout.buffer.write(named(data.decode()).encode() if opened() else data)
    sys.stdout.buffer.flush()


def put_json(value: Any) -> None:
    """Print valid JSON, indented."""
    put(json_text(value, indent=2))


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


def table(title: str | None, columns: list[tuple[str, str]], rows: list[list[str]], err: bool = False) -> None:
    """Print a table on stdout (with ``err``: stderr): formatted on a terminal, tab-separated for programs."""
    if not (sys.stderr if err else sys.stdout).isatty():
        write = say if err else put
        write("\t".join(name for name, _ in columns))
        for row in rows:
            write("\t".join(row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(title) if title else None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for name, side in columns:
        shown.add_column(Text(name), justify="right" if side == "r" else "left", overflow="fold", no_wrap=side == "n")
    for row in rows:
        shown.add_row(*(Text(named(cell)) for cell in row))
    Console(stderr=err).print(shown)


def split_classes(text: str | None) -> list[str] | None:
    """The names of ``--classes A,B,C``."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
