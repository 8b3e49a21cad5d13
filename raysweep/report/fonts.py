"""Names in pictures: with a font that has their letters, else a number and a legend. Two classes never look the same."""

from __future__ import annotations

import functools
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_USUAL = "DejaVu Sans"  # comes with matplotlib
_BOXES = ("Last Resort",)  # has a glyph for everything: a box


@dataclass(frozen=True)
class Labels:
    """Labels of classes for matplotlib, in their order, and a line that explains the numbers among them; empty if none is."""

    texts: list[str]
    legend: str = ""


def labels(names: Sequence[str], width: int = 24) -> Labels:
    """A label for each class. A name that no installed font can draw becomes ``#3``, the number of the class counted from 1;
    names that would look the same get their number, too."""
    shown = [safe_label(name, width) for name in names]
    boxes = _boxes("".join(names))
    unseen = [bool(boxes.intersection(name)) for name in names]
    often = Counter(unicodedata.normalize("NFC", text) for text in shown)
    texts = []
    for number, (text, hidden) in enumerate(zip(shown, unseen, strict=True), start=1):
        if hidden:
            texts.append(f"#{number}")
        else:
            twice = often[unicodedata.normalize("NFC", text)] > 1
            texts.append(f"{text} #{number}" if twice else text)
    legend = "No installed font has the letters of some names: #1 is the first class of classification_report.txt, and so on."
    return Labels(texts, legend if any(unseen) else "")


def one_line(text: str) -> str:
    """A text for matplotlib in one line, without mathtext and control characters; what no font has is escaped."""
    boxes = _boxes(text)
    plain = "".join(c if c.isprintable() else " " for c in text)
    return "".join(ascii(c)[1:-1] if c in boxes else c for c in plain).replace("$", r"\$")


def safe_label(text: str, width: int = 24) -> str:
    """A name for matplotlib, without mathtext and control characters, wrapped and never truncated."""
    return "\n".join(textwrap.wrap(one_line(text), width)) or "?"


def choose(figure: Any) -> None:
    """Give every text of a figure the fonts that have its letters; does nothing where the usual font has them all."""
    from matplotlib.text import Text

    texts = [t for t in figure.findobj(Text) if t.get_text()]
    missing = _missing("".join(t.get_text() for t in texts))
    if missing:
        families = [_USUAL, *_families(missing)]
        for text in texts:
            text.set_fontfamily(families)


def _missing(text: str) -> frozenset[str]:
    """The characters that the usual font lacks."""
    if text.isascii():
        return frozenset()
    return frozenset(c for c in text if c.isprintable() and ord(c) not in _usual())


def _boxes(text: str) -> frozenset[str]:
    """The characters that would be drawn as a box, or in the wrong order."""
    missing = _missing(text)
    known = {c for _, has in _covering(missing) for c in has} if missing else set()
    backwards = frozenset() if _orders_letters() else {c for c in text if unicodedata.bidirectional(c) in ("R", "AL")}
    return frozenset((missing - known) | backwards)


@functools.cache
def _orders_letters() -> bool:
    """Whether matplotlib writes Arabic and Hebrew from right to left and joins the letters, as it does since 3.11."""
    import matplotlib

    return tuple(int(n) for n in matplotlib.__version__.split(".")[:2]) >= (3, 11)


@functools.cache
def _usual() -> frozenset[int]:
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(font_manager.findfont(_USUAL)).get_charmap())


def _families(missing: frozenset[str]) -> list[str]:
    return [family for family, _ in _covering(missing)]


@functools.lru_cache(maxsize=64)
def _covering(missing: frozenset[str]) -> tuple[tuple[str, frozenset[str]], ...]:
    """(family, which of these characters it has) of the installed fonts, as few as are needed."""
    from matplotlib import font_manager

    left, found = set(missing), []
    for entry in sorted(
        font_manager.fontManager.ttflist, key=lambda e: (e.style != "normal", "Noto" not in e.name, e.name)
    ):
        if not left:
            break
        if entry.name.startswith(_BOXES):
            continue
        try:
            letters = font_manager.get_font(entry.fname).get_charmap()
        except (OSError, RuntimeError):  # a font that was removed, or one that matplotlib cannot read
            continue
        if has := frozenset(c for c in left if ord(c) in letters):
            found.append((entry.name, has))
            left -= has
    return tuple(found)
