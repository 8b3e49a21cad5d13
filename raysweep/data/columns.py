"""What the columns of a list mean: by the names that people give them, by what they hold, or as ``data.columns`` says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raysweep._text import join_names, plain, short_repr
from raysweep.config.settings import Columns
from raysweep.data.delimited import looks_like_image
from raysweep.data.listing import split_of, truth
from raysweep.data.tables import (
    FLAG_COLUMNS,
    FOLD_COLUMNS,
    LABEL_COLUMNS,
    MAYBE_SPLIT_COLUMNS,
    PATH_COLUMNS,
    SPLIT_COLUMNS,
    CsvTable,
    Table,
    column,
    every_column,
    plain_name,
)
from raysweep.errors import DataError, did_you_mean

_LOOKED_AT = 20  # rows


class LackingError(DataError):
    """A table has no column for the image or for the class."""


class WrongFlagError(DataError):
    """A column of 0 and 1 holds something else; ``others``: how many columns hold nothing else."""

    def __init__(self, text: str, others: int = 0) -> None:
        super().__init__(text)
        self.others = others


@dataclass(frozen=True)
class Meaning:
    """The columns of a table."""

    path: str
    labels: tuple[str, ...]  # may hold the class, the likeliest first; empty where there is one column for each class
    split: str | None
    flag: tuple[str, str] | None = None  # the splits that true and false in the column ``split`` stand for
    votes: tuple[str, ...] = ()  # one for each class
    notes: tuple[str, ...] = ()


def meaning_of(
    table: Table,
    asked: Columns | None,
    remedy: str = "",
    flags: Sequence[str] = (),
    multi_label: bool = False,
    group: str | None = None,
    alike: Sequence[str] = (),
) -> Meaning:
    """What the columns of a table mean.

    Args:
        asked: what the user says.
        remedy: added to the error about a table that has no column for the class.
        flags: the columns of 0 and 1, one for each label, that the user names.
        multi_label: an image may have several labels.
        group: the column that says which images belong together.
        alike: the columns of 0 and 1 in the table of the training images.

    Raises:
        DataError: a column that is needed is not found; the message has the line that names it.
    """
    asked = asked or Columns(path=None, label=None, split=None)
    if isinstance(table, CsvTable) and (asked.path or "").isdecimal() and (asked.label or "").isdecimal():
        table.may_lack_header()
    have = table.columns()
    first = _first_rows(table, have)
    notes: list[str] = []
    path = _asked(table, "path", asked.path) or column(have, PATH_COLUMNS) or _by_content(table, have, first, notes)
    split = _asked(table, "split", asked.split) or _split(have, first)
    label = _asked(table, "label", asked.label)
    labels = [label] if label else [c for c in every_column(have, LABEL_COLUMNS) if c not in (path, split)]
    others = [name for name in have if name not in (path, split, group)]
    if multi_label and not label and not flags:
        labels = _without_yes_or_no([name for name in labels if name not in alike], others, have, first)
    if not labels and not _has_header(table) and len(others) == 1:
        labels = others
    if flags:
        votes, labels = [_asked(table, "labels", name) or name for name in flags], []
    elif multi_label and not labels:
        votes = [_alike(table, name) for name in alike] or _yes_or_no(table, others, have, first, split)
    else:
        votes = [] if labels else _numeric(others, have, first)
    if not labels and len(votes) < 2:
        more = ", or which are the columns of 0 and 1 for each label, data.labels=[…]" if multi_label else ""
        raise _lacking(table, "label", LABEL_COLUMNS, have, first, more + remedy)
    flag = FLAG_COLUMNS.get(plain_name(split)) if split is not None else None
    unused = [c for c in others if c not in {*labels, *votes}]
    if multi_label and votes and not flags:
        besides = f"; not read: {join_names(unused)}" if unused else ""
        notes.append(
            f"Labels are the columns of {table.file.name} that hold 0 and 1: {join_names(votes)}{besides}. data.labels=[…] names others."
        )
    notes += _about_splits(table, split, flag, unused)
    return Meaning(path, tuple(labels), split, flag, tuple(votes), tuple(notes))


def _about_splits(table: Table, split: str | None, flag: tuple[str, str] | None, others: Sequence[str]) -> list[str]:
    """What is to be said of the column of the split, and of columns that may be one and are not read."""
    found = []
    if flag is not None:
        words = {"train": "training", "val": "validation", "test": "testing"}
        found.append(
            f"Split from the column {plain(split or '')} of {table.file.name}: true is for {words[flag[0]]}, false for {words[flag[1]]}."
        )
    unread = every_column(others, (*FOLD_COLUMNS, *FLAG_COLUMNS))
    if unread:
        found.append(
            f"Not read: the column {join_names(unread)} of {table.file.name}. A split is read from the words train, val and test."
        )
    return found


def may_be_list(table: Table, multi_label: bool = False, flags: Sequence[str] = (), surely: bool = False) -> bool:
    """Whether a table seems to name images and their classes. Reads only its beginning.

    Args:
        multi_label, flags: as for :func:`meaning_of`.
        surely: its name says so. What cannot be read of it is then an error where it is read, not a reason to ignore it.
    """
    try:
        have = table.columns()
        known = [name for name in flags if _called(have, name)]
        meaning_of(table, None, flags=known, multi_label=multi_label)
    except (LackingError, OSError):
        return False
    except WrongFlagError as error:
        return surely or error.others > 1
    except DataError:
        return surely
    return bool(have and (_first_rows(table, have) or not isinstance(table, CsvTable)))


def _has_header(table: Table) -> bool:
    return not isinstance(table, CsvTable) or table.has_header


def _first_rows(table: Table, have: Sequence[str]) -> list[list[Any]]:
    """The first rows of a CSV; none of other tables, nor where a name is there twice. What JSON and Parquet hold beside images may be large, and
    of the keys of JSON lines those of the first line are known."""
    if not isinstance(table, CsvTable) or len(set(have)) < len(have):
        return []
    return [row for _, row in itertools.islice(table.rows(have), _LOOKED_AT)]


def _called(have: Sequence[str], name: str) -> str | None:
    """The column that the user means by a name, or by a number from 1; None where there is none."""
    if name in have:
        return name
    found = column(have, [name]) or next((h for h in have if h.strip().lower() == name.strip().lower()), None)
    if found is None and name.isdecimal() and 1 <= int(name) <= len(have):
        return have[int(name) - 1]
    return found


def _asked(table: Table, what: str, name: str | None) -> str | None:
    """The column that the user names, or numbers from 1."""
    have = table.columns()
    if name is None:
        return None
    found = _called(have, name)
    if found is not None:
        return found
    raise DataError(
        f"{'data.labels' if what == 'labels' else f'data.columns: {what}'}: {table.file} has no column {short_repr(name)}. Its columns are {join_names(have)}."
        f"{did_you_mean(name, have)}"
    )


def _alike(table: Table, name: str) -> str:
    """The column of a label that the table of the training images has, which must have the same name."""
    have = table.columns()
    if name not in have:
        raise DataError(
            f"{table.file} has no column {plain(name)}, which is a label in the table of the training images. Its columns are {join_names(have)}."
            f"{did_you_mean(name, have)} All lists must have the same columns of labels, with 0 for images without one. If it is no label, name "
            "the columns of labels: data.labels=[…]."
        )
    return name


def _by_content(table: Table, have: Sequence[str], first: Sequence[Sequence[Any]], notes: list[str]) -> str:
    """The only column all of whose values are names of image files; some may be empty.

    Raises:
        LackingError: there is none, or several.
    """
    values = {name: [row[i] for row in first if row[i]] for i, name in enumerate(have)} if first else {}
    found = [name for name, some in values.items() if some and all(map(looks_like_image, some))]
    if len(found) != 1:
        raise _lacking(table, "path", PATH_COLUMNS, have, first)
    if _has_header(table):
        notes.append(
            f"Images from the column {plain(found[0])} of {table.file.name}, which holds names of image files."
        )
    return found[0]


def _split(have: Sequence[str], first: Sequence[Sequence[Any]]) -> str | None:
    found = column(have, SPLIT_COLUMNS)
    if found is not None:
        return found
    for name in every_column(have, MAYBE_SPLIT_COLUMNS):
        i = have.index(name)
        if first and all(split_of(str(row[i])) for row in first):
            return name
    for name in every_column(have, tuple(FLAG_COLUMNS)):
        i = have.index(name)
        if all(truth(row[i]) is not None for row in first):
            return name
    return None


def _without_yes_or_no(
    labels: list[str], others: Sequence[str], have: Sequence[str], first: Sequence[Sequence[Any]]
) -> list[str]:
    """``labels`` without columns of 0 and 1 where there are several: each is one label, also where it is called disease or finding."""
    flags = [n for n in others if first and all(truth(row[have.index(n)]) is not None for row in first)]
    return labels if len(flags) < 2 else [name for name in labels if name not in flags]


def _yes_or_no(
    table: Table, others: Sequence[str], have: Sequence[str], first: Sequence[Sequence[Any]], split: str | None
) -> list[str]:
    """The columns that hold 0 and 1. Rows for testing have no say, for they may have no labels, unless there are no others.

    Raises:
        WrongFlagError: half of a column's first values are 0 and 1 and others are not: one wrong cell must not take a label away without a word.
    """
    found, odd = [], None
    rows = [(i, row) for i, row in enumerate(first) if split is None or not _is_test(split, row[have.index(split)])]
    for name in others:
        values = [(i, row[have.index(name)]) for i, row in rows or enumerate(first)]
        wrong = [(i, value) for i, value in values if truth(value) is None]
        if values and not wrong:
            found.append(name)
        elif 0 < len(wrong) <= len(values) / 2:
            odd = odd or (name, *wrong[0])
    if odd is not None:
        name, row, value = odd
        line = next(line for n, (line, _) in enumerate(table.rows([name])) if n == row)
        raise WrongFlagError(
            f"{table.place(line)}: the column {plain(name)} has {short_repr(value)} among zeros and ones. If it is a label, say 0 or "
            "1 of every image; if not, name the columns of labels: data.labels=[…].",
            len(found),
        )
    return found


def _is_test(split: str, value: Any) -> bool:
    """Whether a row's split, by its column, is for testing."""
    flag, true = FLAG_COLUMNS.get(plain_name(split)), truth(value)
    word = str(value) if flag is None or true is None else flag[0 if true else 1]
    return split_of(word) == "test"


def _numeric(others: Sequence[str], have: Sequence[str], first: Sequence[Sequence[Any]]) -> list[str]:
    """The columns that hold numbers only: those of the classes, where there is one for each. First those of 0 and 1."""
    if not first:
        return []
    found = [name for name in others if all(number(row[have.index(name)]) is not None for row in first)]
    flags = [name for name in found if all(number(row[have.index(name)]) in (0.0, 1.0) for row in first)]
    if len(flags) > 1 and all(sum(number(row[have.index(n)]) or 0 for n in flags) == 1 for row in first):
        return flags
    sums = {round(sum(number(row[have.index(n)]) or 0 for n in found), 3) for row in first}
    return found if len(found) > 1 and (len(sums) == 1 or found == flags) and len(first) > 1 else []


def number(value: Any) -> float | None:
    """A number ≥ 0; None for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and found >= 0 else None


def _lacking(
    table: Table,
    what: str,
    wanted: Sequence[str],
    have: Sequence[str],
    first: Sequence[Sequence[Any]],
    remedy: str = "",
) -> LackingError:
    """The error about a column that was not found: what was, and the line to type."""
    if not have:
        return LackingError(
            f"{table.file} is empty: it has no column path and no rows. Give a list of images and their classes."
        )
    row = f" Its first row is {join_names(first[0])}." if first else ""
    numbers = "" if _has_header(table) else " (numbers, since it names no columns)"
    called = f"path: {have[0] if have else 'NAME'}, label: {have[-1] if have else 'NAME'}"
    fer = " FER-2013's CSV also has a column pixels." if "emotion" in have and what == "path" else ""
    return LackingError(
        f"{table.file} has no column for the {'image' if what == 'path' else 'class'} of each row: there is no column "
        f"{', '.join(wanted[:5])} or the like; its columns are {join_names(have)}{numbers}.{row}{fer} Say which "
        f"they are, such as 'data.columns={{{called}}}'{remedy}."
    )
