"""What a data set for another task looks like to a classifier: masks among the images, several classes for one image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from raysweep._text import plain, truncate
from raysweep.data.listing import Found

_MASK = re.compile(r"(?P<base>.+?)[ _.-]?(masks?|segmentation|seg|gt|ground_?truth)([ _.-]?[0-9]+)?", re.IGNORECASE)
_SEPARATORS = ("|", ";", ",", "/", " ")
_WHOLE = ("/", " ")  # which stand in names, too: here each part must be a class of its own
_NOTHING = ("no finding", "no findings", "none", "nothing", "no label", "no labels", "normal", "n/a", "na", "nan")
_NUMBERED = re.compile(r"(?P<word>[A-Za-z][A-Za-z_ -]*?)[ _.-]*\(?[0-9]+\)?")
_MOST_WORDS = 50  # that may be classes in the names of files


def masks(found: Found) -> list[str]:
    """What is to be said of images that are called like another one with ``mask`` added (BUSI: ``benign (1)_mask.png``)."""
    rows = [row for row in [*found.train, *(found.val or [])] if isinstance(row.payload, Path)]
    named = [(row.name, m) for row in rows if (m := _MASK.fullmatch(PurePath(row.name).stem))]
    if not named:
        return []
    others = {str(PurePath(row.name).with_suffix("")) for row in rows}
    some = [name for name, m in named if str(PurePath(name).with_name(m["base"])) in others]
    return (
        [
            f"{len(some):,} image{'s are' if len(some) > 1 else ' is'} called like another one with a word for a mask added, such as "
            f"{truncate(some[0], 100)}, and used as {'images' if len(some) > 1 else 'an image'} of the class. Move masks away."
        ]
        if some
        else []
    )


def combined(names: Iterable[str]) -> dict[str, list[str]]:
    """Names that are several classes at once → these: ``Mass|Effusion`` where there is ``Mass`` or ``Effusion|Nodule``, too.

    What is separated by spaces or slashes counts only if each of its parts is a class of its own.
    """
    every = set(names)
    found: dict[str, list[str]] = {}
    for separator in _SEPARATORS:
        parts = {name: [p.strip() for p in name.split(separator)] for name in every if separator in name}
        parts = {name: some for name, some in parts.items() if len(some) > 1 and all(some)}
        users = Counter(p for some in parts.values() for p in set(some)) if separator not in _WHOLE else Counter[str]()
        for name, some in parts.items():
            if all(p in every or users[p] > 1 for p in some):
                found.setdefault(name, some)
    return found


def told_of_nothing(labels: Sequence[str]) -> list[str]:
    """What is to be said of a label that seems to mean that an image has none (``No Finding`` of NIH's chest X-rays)."""
    some = [name for name in labels if name.strip().lower().replace("_", " ") in _NOTHING]
    return [
        f"The label {plain(name)} is trained as a label of its own. If it means that an image has none, write an empty cell in its place, or "
        "remove its column of 0 and 1."
        for name in some[:1]
    ]


def words_in(names: Sequence[str]) -> list[str]:
    """The words before the numbers in the names of files, where all have one and there are few: ``cat`` and ``dog`` of
    ``cat.0.jpg`` and ``dog.0.jpg``. Else nothing.
    """
    matches = [_NUMBERED.fullmatch(PurePath(name).stem) for name in names]
    words = {m["word"] for m in matches if m}
    return sorted(words) if None not in matches and 1 < len(words) <= min(_MOST_WORDS, len(names) / 2) else []


def told_of_words(names: Sequence[str]) -> str:
    """What is to be said of images without a folder of their class whose names may have it."""
    words = words_in(names)
    if not words:
        return ""
    some = " and ".join(plain(w) for w in words[:2]) + " …" * (len(words) > 2)
    example = next(n for n in names if n.startswith(words[0]))
    return (
        f" The names of the files begin with {some}: if these are the classes, write a list with the columns path and label, such as "
        f"{truncate(example, 80)},{plain(words[0])}, and give it as data.path."
    )
