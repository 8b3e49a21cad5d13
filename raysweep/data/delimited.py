"""Lists as people have them: which encoding and delimiter a text file has, and whether its first line names the columns."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from raysweep.data.tree import IMAGE_SUFFIXES

_HEAD = 1_000_000  # bytes that are looked at
_DELIMITERS = ",;\t|"
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|", " ": "spaces"}
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class Dialect:
    """How a text file holds a table."""

    encoding: str = "utf-8-sig"
    delimiter: str = ","  # " ": whatever white space is last in a line
    first: int = 0  # lines before the table: Excel's ``sep=;``

    def notes(self, file: Path, header: bool) -> list[str]:
        """What is unusual about it, for people."""
        found = [f"fields separated by {_NAMES[self.delimiter]}"] if self.delimiter != "," else []
        found += ["text in UTF-16"] if self.encoding.startswith("utf-16") else []
        found += [] if header else ["no line with the names of its columns"]
        return [f"{file.name} has {', '.join(found)}."] if found else []


def sniff(file: Path) -> Dialect:
    """The dialect of a text file, from its first line that is not empty.

    Raises:
        OSError: it cannot be read.
    """
    with open(file, "rb") as opened:
        head = opened.read(_HEAD)
    encoding = next((name for bom, name in _BOMS.items() if head.startswith(bom)), None) or _without_mark(head)
    text = head.decode(encoding, errors="replace")
    lines = [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
    if lines and (found := re.fullmatch(r"sep=(.)", lines[0].strip("\r\n"))):
        return Dialect(encoding, found[1], 1)
    return Dialect(encoding, _delimiter(lines[:20]))


def _without_mark(head: bytes) -> str:
    """UTF-16 writes each ASCII character with a zero byte."""
    some = head[:4096]
    zeros = [some[i::2].count(0) / max(1, len(some) // 2) for i in (0, 1)]
    if max(zeros) < 0.4 or min(zeros) > 0.1:
        return "utf-8-sig"
    return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"


def _delimiter(lines: Sequence[str]) -> str:
    """The character that makes the most fields of the first line."""
    if not lines:
        return ","
    counts = {d: fields_in(lines[0], d) for d in _DELIMITERS}
    best = max(counts, key=lambda d: counts[d])  # the first of several: a comma
    if counts[best] > 1:
        return best
    # A name with spaces, and a class or its number after the last one.
    return (
        " "
        if all(len(line.split()) > 1 for line in lines) and any(looks_like_image(x) for x in lines[-1].split())
        else ","
    )


def fields_in(line: str, delimiter: str) -> int:
    """The number of fields in a line."""
    try:
        return len(next(csv.reader([line], delimiter=delimiter), []))
    except csv.Error:
        return 1


def looks_like_image(value: object) -> bool:
    """Whether a field may be the name of an image's file."""
    return isinstance(value, str) and PureWindowsPath(value.strip()).suffix.lower() in IMAGE_SUFFIXES
