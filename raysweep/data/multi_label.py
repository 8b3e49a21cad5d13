"""Several labels for an image, or none: read from a cell or from a column for each class, and kept as sets of labels.

A row's label is then a set, written as a JSON list, and the cache numbers the sets as it numbers classes elsewhere. Whoever opens a
cache gets bool (n, classes) instead.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raysweep._text import counted, join_names, plain, short_repr, truncate
from raysweep.data.listing import (
    EMPTY,
    Found,
    Item,
    Listing,
    Row,
    canonical,
    check_reserved,
    class_name,
    label_name,
    ordered,
    set_name,
    truth,
)
from raysweep.data.reading import LeftOut
from raysweep.data.suspicious import combined, told_of_nothing
from raysweep.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from raysweep.config.settings import DataSection

SEPARATORS = ("|", ";")
NOTHING = ("nan", "NaN", "None", "null", "NULL", "<NA>")  # what other programs write where there is nothing
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")


def of_cell(value: Any, names: Sequence[str] | None, data: DataSection, where: object) -> str:
    """The set of labels of one cell, as :func:`written`: ``a|b``, ``a;b``, a list, or a list as text; nothing is no label.

    Args:
        names: the classes that numbers stand for.
        where: the file and the line.

    Raises:
        DataError: it cannot be read, or has a class that ``data.classes`` does not name.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return written([], data, where)
    if isinstance(value, str):
        value = _parts(value.strip(), where)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise DataError(
            f"{where}: the labels are {short_repr(value)}. Give a list, or texts separated by | or ;, or leave it empty where the image has "
            "no label."
        )
    return written([_name(part, names, data, where) for part in value], data, where)


def _parts(text: str, where: object) -> Sequence[Any]:
    if text.startswith("["):
        found: Any = None
        for read in (json.loads, ast.literal_eval):  # pandas writes lists as Python does
            with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                found = read(text) if found is None else found
        if not isinstance(found, list):
            raise DataError(f'{where}: {short_repr(text)} is no list of labels. Write ["a", "b"] or a|b.')
        return found
    used = [s for s in SEPARATORS if s in text]
    if len(used) > 1:
        raise DataError(
            f"{where}: {short_repr(text)} has both | and ;, so it is not plain what separates labels. Use one of them."
        )
    parts = [part.strip() for part in text.split(used[0])] if used else [text] if text else []
    if not all(parts):
        raise DataError(f"{where}: in {short_repr(text)} a label between two separators is empty. Remove it.")
    return parts


def _name(part: Any, names: Sequence[str] | None, data: DataSection, where: object) -> str:
    if isinstance(part, bool):
        raise DataError(
            f"{where}: {short_repr(part)} is no label. For a column of true and false for each class, name these columns: data.labels."
        )
    if part is None or part == "" or (isinstance(part, float) and math.isnan(part)):
        raise DataError(
            f"{where}: one of the labels is empty ({short_repr(part)}). Remove it, or leave the whole cell empty where the image has no label."
        )
    if isinstance(part, str) and part.strip() in NOTHING and part.strip() not in (data.classes or ()):
        raise DataError(
            f"{where}: the label {plain(part.strip())} is what programs write where there is nothing. Leave the cell empty where the image has no "
            "label; if it is a label of its own, name all labels with data.classes."
        )
    if isinstance(part, float) and part.is_integer():
        part = int(part)  # pandas writes whole numbers so where a cell of the column is empty
    return label_name(part, names, where)


def of_columns(columns: Sequence[str], values: Sequence[Any], data: DataSection, where: object) -> str:
    """The set of labels of a row that has 0 or 1 for each class. Raises DataError for anything else."""
    flags = [truth(value) for value in values]
    if None in flags:
        i = flags.index(None)
        raise DataError(
            f"{where}: the column {plain(columns[i])} has {short_repr(values[i])}, neither 0 nor 1. Write 1 (or true) where "
            "an image has this label and 0 (or false) where it does not: an empty cell, yes, no, or -1 for uncertain must become one of them. "
            "If this is no column of a label, name the others with data.labels."
        )
    return written([class_name(c, where) for c, yes in zip(columns, flags, strict=True) if yes], data, where)


def of_columns_or_error(
    columns: Sequence[str], values: Sequence[Any], data: DataSection, where: object
) -> str | DataError:
    """As :func:`of_columns`, whose error is returned: while rows are read it is not known yet which of them are sealed."""
    try:
        return of_columns(columns, values, data, where)
    except DataError as error:
        return error


def written(labels: Sequence[str], data: DataSection, where: object) -> str:
    """A set of labels as a text: equal for equal sets. Raises DataError for a class that ``data.classes`` does not name."""
    found = sorted({canonical(label) for label in labels})
    known = None if data.classes is None else {canonical(c) for c in data.classes}
    if known is not None and (other := [c for c in found if c not in known]):
        raise DataError(
            f"{where}: the label {plain(other[0])} is not one of data.classes ({join_names(data.classes or ())})."
            f"{did_you_mean(other[0], known)} Correct the label, or name it there, too."
        )
    return json.dumps(found, ensure_ascii=False)


def listing(found: Found, data: DataSection, notes: Sequence[str]) -> Listing:
    """The images with the numbers of their sets of labels.

    Args:
        found: rows whose labels are sets, as :func:`written`.

    Raises:
        DataError: no images have labels, or names that are one class or several.
    """
    # also one that no image has, which is then told
    named = {
        *map(canonical, data.classes or ()),
        *(canonical(class_name(c, data.path or "data.labels")) for c in data.labels),
    }
    every = [row.label for rows in (found.train, found.val) for row in rows or []]
    sets = {text: json.loads(text) for text in dict.fromkeys([*every, *(row.label for row in found.test)])}
    test, left_out = _known_of_test(found, sets, named | {c for text in every for c in sets[text]})
    parts = (found.train, found.val, test)
    sets = {text: sets[text] for text in dict.fromkeys([*every, *(row.label for row in test)])}
    classes = ordered({label for labels in sets.values() for label in labels} | {*(data.classes or ())} | named)
    _check_names(classes, data)
    position = {c: i for i, c in enumerate(classes)}
    rows = {text: tuple(position[label] for label in labels) for text, labels in sets.items()}
    numbered = {row: i for i, row in enumerate(sorted(set(rows.values())))}
    train, val, sealed = (
        None if r is None else [Item(x.name, numbered[rows[x.label]], x.payload, x.group) for x in r] for r in parts
    )
    times = Counter(len(sets[text]) for text in every)
    none = f"{times[0]:,} of them {'has' if times[0] == 1 else 'have'} no label"
    told = f"{counted(len(every), 'image')} for training and validation with {len(classes)} labels, {sum(k * n for k, n in times.items()) / max(1, len(every)):.2f} each in the mean; {none}."
    return Listing(
        classes,
        train or [],
        val,
        left_out,
        (*notes, told, *told_of_nothing(classes)),
        sealed or [],
        found.on_test,
        tuple(numbered),
    )


def _known_of_test(
    found: Found, sets: Mapping[str, Sequence[str]], known: Collection[str]
) -> tuple[list[Row], Mapping[str, LeftOut]]:
    """(the sealed images all of whose labels are ``known``, what is left out). The whole image is left out, as one of a class without
    training images is: without the label its labels would be others than the data say, and a network that knows the label would
    be wrong with it."""
    strange = [(row.name, others) for row in found.test if (others := [c for c in sets[row.label] if c not in known])]
    if not strange:
        return found.test, found.left_out
    labels = truncate(join_names(sorted({c for _, others in strange for c in others})), 300)
    kind = f"test images with labels that no training image has ({labels})"
    test = [row for row in found.test if all(c in known for c in sets[row.label])]
    return test, {**found.left_out, kind: LeftOut.of(name for name, _ in strange)}


def _check_names(classes: Sequence[str], data: DataSection) -> None:
    where = data.path
    check_reserved(classes, where, "label")
    alike = [names for names in _alike(classes).values() if len(names) > 1]
    if alike:
        raise DataError(
            f"{where} has labels whose names differ in upper and lower case alone: {join_names(alike[0])}. Write them in the same way."
        )
    twice = next((c for c in classes if (m := _WHOLE.fullmatch(c)) and m[1] in classes), None)
    if twice is not None:
        raise DataError(
            f"{where} has labels that are one number in two ways: {twice.split('.')[0]}, {twice}. Write them in the same way."
        )
    if data.classes is None and (several := combined(classes)):
        name, some = next(iter(several.items()))
        raise DataError(
            f"{where}: the label {plain(name)} seems to be several at once: {join_names(some)}. Separate labels by | or ;, or, if it is a "
            "label of its own, name all labels with data.classes."
        )


def _alike(classes: Sequence[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in classes:
        found.setdefault(name.casefold(), []).append(name)
    return found


def in_words(label: str) -> str:
    """The label of a row, as :func:`written`, in words."""
    return set_name(json.loads(label))


def table(meta: Mapping[str, Any]) -> np.ndarray | None:
    """bool (sets, classes): which labels each set of a cache has, by its record; None for a cache of one class for each image."""
    sets = meta.get("sets")
    return None if sets is None else _table(sets, len(meta["classes"]))


def _table(sets: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    found = np.zeros((len(sets), classes), dtype=bool)
    for i, labels in enumerate(sets):
        found[i, list(labels)] = True
    return found


def in_columns(labels: np.ndarray, have: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Labels of images, renumbered for another order of the same classes: int64 (n,), or bool (n, classes)."""
    if labels.ndim == 2:
        return np.asarray(labels[:, [list(have).index(name) for name in wanted]])
    return np.asarray(np.array([list(wanted).index(name) for name in have])[labels])


def labels_of(listing: Listing, sets: np.ndarray) -> np.ndarray | None:
    """bool (n, classes): the labels of each image, whose ``sets`` are int64 (n,); None of one class for each image."""
    return None if listing.sets is None else _table(listing.sets, len(listing.classes))[sets]


def strata(
    listing: Listing, sets: np.ndarray, bad: Collection[int] = frozenset()
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(the stratum of each image, int64 (n,); their names), by which a split is made: the rarest of its labels, as in iterative
    stratification (Sechidis et al. 2011, doi 10.1007/978-3-642-23808-6_10). Strata of one image join the largest, and so do those
    that have too few images which can be read.

    Args:
        sets: the set of labels of each image, training images first, int64 (n,).
        bad: the positions of those that cannot be decoded.

    Raises:
        DataError: a label has no training images.
    """
    k, trained = len(listing.classes), len(listing.train)
    has = _table(listing.sets or (), k)[sets]
    check_trained(has[:trained], listing, has[trained:])
    counts = has[:trained].sum(0)
    rarest = np.where(has.any(1), np.where(has, counts, np.iinfo(np.int64).max).argmin(1), k)
    sizes = np.bincount(rarest[:trained], minlength=k + 1)
    rarest[sizes[rarest] < 2] = sizes.argmax()
    readable = np.bincount([c for i, c in enumerate(rarest[:trained].tolist()) if i not in bad], minlength=k + 1)
    rarest[readable[rarest] < (2 if listing.val is None else 1)] = readable.argmax()
    there, found = np.unique(rarest, return_inverse=True)
    return found.reshape(-1), tuple([*listing.classes, EMPTY][i] for i in there)


def of_val(listing: Listing, labels: np.ndarray, train: np.ndarray, val: np.ndarray) -> np.ndarray:
    """The classes of the validation images, int64 (n,), or bool (n, classes) of several labels.

    Args:
        labels: as the listing numbers them, int64 (n,). train, val: positions.

    Raises:
        DataError: of several labels one has no training images.
    """
    has = labels_of(listing, labels)
    if has is None:
        return np.asarray(labels[val])
    check_trained(has[train], listing, has[val])
    return np.asarray(has[val])


def check_trained(labels: np.ndarray, listing: Listing, in_val: np.ndarray) -> None:
    """Raises DataError where no training image has a label; ``labels`` and ``in_val`` bool (n, classes), of training and validation."""
    classes = listing.classes
    lacking = [i for i, n in enumerate(labels.sum(0).tolist()) if not n]
    if not lacking:
        return
    sealed = {c for item in listing.test for c in (listing.sets or ())[item.label]}
    places = {"validation": {*np.flatnonzero(in_val.any(0)).tolist()}, "testing": sealed}
    where = [name for name, those in places.items() if not those.isdisjoint(lacking)]
    named = {*lacking}.isdisjoint(places["validation"] | sealed)
    raise DataError(
        f"There are no training images with the label {join_names(classes[i] for i in lacking)}. "
        + (
            "It is named in data.classes or data.labels alone: remove it there, "
            if named
            else f"There are some for {' and '.join(where)}: move them, "
        )
        + "or add some for training"
        + ("." if named else ", or remove the label from the table.")
    )
