"""``data.group``: which images belong together, such as those of one patient or film. They are one case: never on both sides of a
split, and counted once in what is said of a difference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from raysweep._text import counted, join_names, plain, short_repr, truncate
from raysweep.data.listing import Found, Item, Row
from raysweep.errors import DataError

PLACE = "{group}"


def column_of(asked: str | None) -> str | None:
    """The column that ``data.group`` names; None where it is a pattern, or nothing."""
    return None if asked is None or PLACE in asked else asked


def assigned(found: Found, asked: str | None, where: object) -> Found:
    """The images with their groups.

    Args:
        asked: ``data.group``. A source has read a column already.
        where: the data, for messages.

    Raises:
        DataError: no image has a group, or a group is on both sides of a split.
    """
    if asked is None:
        return found
    if column_of(asked) is None:
        pattern = _compiled(asked)
        train, val, test = (
            None if rows is None else [row._replace(group=_in_name(pattern, row.name)) for row in rows]
            for rows in (found.train, found.val, found.test)
        )
        found = replace(found, train=train or [], val=val, test=test or [])
    rows = [*found.train, *(found.val or []), *found.test]
    alone = [row for row in rows if row.group is None]
    if rows and len(alone) == len(rows):
        what = (
            "no column of that name"
            if column_of(asked)
            else f"no image whose name fits, such as {truncate(rows[0].name, 80)}"
        )
        raise DataError(
            f"data.group is {short_repr(asked)}, but {where} has {what}. Name a column of a list, or a pattern of the file's name "
            f"in which {PLACE} stands for the group and * for anything else, such as {PLACE}_*."
        )
    _check_sides(found, where)
    if alone:
        note = f"{counted(len(alone), 'image')} without a group, such as {truncate(alone[0].name, 80)}: each is a group of its own."
        found = replace(found, notes=(*found.notes, note))
    return found


def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*|\{group\})", pattern)
    texts, seen = [], False
    for part in parts:
        texts.append({"*": "[^/]*", PLACE: "(?P=g)" if seen else "(?P<g>[^/]+?)"}.get(part, re.escape(part)))
        seen = seen or part == PLACE
    return re.compile("(?:.*/)?" + "".join(texts))


def _in_name(pattern: re.Pattern[str], name: str) -> str | None:
    match = pattern.fullmatch(name)
    return match["g"] if match else None


def _check_sides(found: Found, where: object) -> None:
    sides = {"training": found.train, "validation": found.val or [], "test": found.test}
    groups = {side: {row.group for row in rows if row.group is not None} for side, rows in sides.items()}
    for one, other in (("training", "validation"), ("training", "test"), ("validation", "test")):
        both = sorted(groups[one] & groups[other])
        if both:
            remedy = " data.val=split makes a split that keeps groups together." if "validation" in (one, other) else ""
            raise DataError(
                f"{where} has {counted(len(both), 'group')} with images for {one} and for {other}: {join_names(map(plain, both[:5]))}"
                f"{' …' * (len(both) > 5)}. Move the images of a group to one side, or leave data.group out.{remedy}"
            )


def numbered(items: Sequence[Item]) -> np.ndarray | None:
    """The number of each image's group, int64 (n,); None where no image has one. An image without a group is one of its own."""
    if all(item.group is None for item in items):
        return None
    names: dict[object, int] = {}
    found = [names.setdefault(i if item.group is None else item.group, len(names)) for i, item in enumerate(items)]
    return np.array(found, dtype=np.int64)


def grouped(row: Row, value: object) -> Row:
    """A row with the group that its column says; none where that is empty."""
    text = "" if value is None else str(value).strip()
    return row._replace(group=text or None)
