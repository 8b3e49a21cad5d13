"""The order of the classes: the number of each class in the labels and in a network's output."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from raysweep._text import join_names
from raysweep.data import multi_label
from raysweep.data.cache import Dataset
from raysweep.data.listing import canonical
from raysweep.errors import DataError


def as_written(data: Dataset, classes: Sequence[str] | None) -> Dataset:
    """The data set with its classes spelled as in a checkpoint of an earlier version, which kept outer spaces and Unicode forms."""
    forms = {canonical(name): name for name in classes or ()}
    if set(forms) != set(data.classes) or len(forms) != len(classes or ()):
        return data
    return replace(data, classes=tuple(forms[name] for name in data.classes))


def in_order(data: Dataset, classes: Sequence[str] | None) -> Dataset:
    """The data set with its classes in this order, and its labels renumbered; unchanged where ``classes`` is None.

    Raises:
        DataError: ``classes`` are not the classes of the data.
    """
    if classes is None or tuple(classes) == data.classes:
        return data
    if sorted(classes) != sorted(data.classes):
        raise DataError(
            f"data.classes names {join_names(classes)}; the data have {join_names(data.classes)}. Name "
            "every class of the data exactly once, in the order of the network's outputs."
        )
    parts = (data.train, data.val)
    train, val = (replace(p, labels=multi_label.in_columns(p.labels, data.classes, classes)) for p in parts)
    return replace(data, classes=tuple(classes), train=train, val=val)


def matched(labels: Sequence[str], classes: Sequence[str]) -> tuple[str, ...] | None:
    """``classes`` in the order of ``labels``, which are the same but for case, form, separators or leading zeros; None where they
    are not, or where two of them would be one.

    >>> matched(["Sad", "very_happy", "07"], ["7", "sad", "very happy"]), matched(["a", "A"], ["a", "b"])
    (('sad', 'very happy', '7'), None)
    """
    theirs, mine = [_form(name) for name in labels], {_form(name): name for name in classes}
    if len(mine) != len(classes) or len(set(theirs)) != len(theirs) or set(theirs) != set(mine):
        return None
    return tuple(mine[form] for form in theirs)


def _form(name: str) -> str:
    text = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()
    return str(int(text)) if text.isascii() and text.isdigit() and len(text) < 100 else text
