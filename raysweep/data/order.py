"""The order of the classes: what number each of them has in the labels and in a network's output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from raysweep._text import join_names
from raysweep.data.cache import Dataset, Images
from raysweep.errors import DataError


def in_order(data: Dataset, classes: Sequence[str] | None) -> Dataset:
    """The data set with its labels numbered as ``classes`` are; as it is, alphabetically, where that is None.

    Raises:
        DataError: the classes are not those of the data.
    """
    if classes is None or tuple(classes) == data.classes:
        return data
    if sorted(classes) != sorted(data.classes):
        raise DataError(
            f"data.classes names {join_names(classes)}; the data have {join_names(data.classes)}. They must be the same, each once, in "
            "the order of the network's outputs."
        )
    places = {name: i for i, name in enumerate(classes)}
    number = np.array([places[name] for name in data.classes])
    train, val = (Images(part.pixels, number[part.labels]) for part in (data.train, data.val))
    return replace(data, classes=tuple(classes), train=train, val=val)
