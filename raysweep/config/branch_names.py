"""What branches are called: names from the weights that they change, usable as parts of a folder's name."""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raysweep._text import short_repr


@functools.lru_cache(maxsize=4)
def short_names(classes: tuple[str, ...]) -> dict[str, str]:
    """Class → what branches are called after it: at most 16 characters, different for each class, and usable in a folder's name.

    The start of a name, if that says which class it is; else its end, for what differs stands there
    (``Alphabet_of_the_Magi/character03``); else the number of the class and its end.

    >>> short_names(("disgust", "Magi of the Alphabet/a1", "Magi of the Alphabet/b2"))
    {'disgust': 'disgust', 'Magi of the Alphabet/a1': 'the_Alphabet_a1', 'Magi of the Alphabet/b2': 'the_Alphabet_b2'}
    """
    found: dict[str, str] = {}
    left = list(classes)
    for form in (_start, _end):
        forms = {c: form(c) for c in left}
        often = Counter(text.casefold() for text in forms.values())
        taken = {text.casefold() for text in found.values()}
        fits = [c for c in left if forms[c] and often[forms[c].casefold()] == 1 and forms[c].casefold() not in taken]
        found |= {c: forms[c] for c in fits}
        left = [c for c in left if c not in found]
    taken = {text.casefold() for text in found.values()}
    number = {c: i for i, c in enumerate(classes, start=1)}
    found |= {c: unique(f"{number[c]}_{_end(c)[-(15 - len(str(number[c]))) :]}", taken) for c in left}
    return found


def _start(name: str) -> str:
    return re.sub(r"[^\w.]+", "", name)[:16]


def _end(name: str) -> str:
    """As many of its last words as fit."""
    words = [w for w in re.split(r"[^\w.]+|_", name) if w]
    kept = words[-1:]
    for word in reversed(words[:-1]):
        if len("_".join([word, *kept])) > 16:
            break
        kept.insert(0, word)
    return "_".join(kept)[-16:].strip("_.")


def describe(changes: Mapping[str, Any], classes: Sequence[str] = ()) -> str:
    """A branch's name from what it changes, such as ``disgust=5_fear=2``; usable as part of a folder's name.

    Args:
        classes: all classes, from which those that are changed must be told apart.
    """
    short = short_names(tuple(classes) or tuple(changes))
    return fitting("_".join(f"{short.get(name, _start(name))}={value(given)}" for name, given in changes.items()))


def value(given: Any, most: int = 12) -> str:
    """A number, word or structure as a part of a name, of at most so many letters."""
    try:
        text = f"{given:.4g}" if isinstance(given, (int, float)) and not isinstance(given, bool) else short_repr(given)
    except OverflowError:  # of hundreds of digits
        text = short_repr(given)
    return re.sub(r"[^\w.-]+", "", text.replace("%", "pct"))[:most]


def fitting(name: str) -> str:
    """``name`` as the part of a folder's name that it becomes: at most 60 letters."""
    whole = name.strip("._=")
    if len(whole) <= 60:
        return whole
    return f"{whole[:51]}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"  # cut names must differ, too


def unique(name: str, taken: set[str]) -> str:
    """``name``, or with ``-2``, ``-3`` … appended if it is taken (file systems may ignore case); it is taken from now on."""
    found, n = name, 1
    while found.casefold() in taken:
        n += 1
        found = f"{name}-{n}"
    taken.add(found.casefold())
    return found
