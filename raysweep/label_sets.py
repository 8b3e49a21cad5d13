"""Images with several labels, or none: how many there are of each set of labels, and how often each set is shown.

The weight of an image is the mean of its labels' weights. Images without labels have none of their own, so they keep their share: their weight is the mean
of all other images' weights. Images with the same labels have the same weight, so each set of labels is drawn as a class of single-label data is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from raysweep._text import short_repr
from raysweep.errors import InputError

MAP = "mAP"  # the mean over the labels of average precision, as it is called everywhere
IMAGES = "images"  # a column of the history: the images of an epoch, which the labels' counts do not add up to
LabelSet = tuple[str, ...]  # in the order of the classes


class LabelCounts(dict[str, int]):
    """Label → images that have it. ``sets``: set of labels → images that have exactly these; an image counts once there."""

    sets: Mapping[LabelSet, int]

    @classmethod
    def of(cls, classes: Iterable[str], sets: Mapping[LabelSet, int]) -> LabelCounts:
        found = cls(dict.fromkeys(classes, 0))
        for labels, n in sets.items():
            for label in labels:
                found[label] += n
        found.sets = dict(sets)
        return found

    def to_json(self) -> str:
        """The sets, each as the numbers of its labels among the classes and its images: ``0 2:31;1:7;:12``. One text, because a checkpoint
        may have 100,000 sets, and each number of a list is checked by itself whenever it is read."""
        number = {c: str(i) for i, c in enumerate(self)}
        return ";".join(f"{' '.join(number[c] for c in labels)}:{n}" for labels, n in self.sets.items())

    @classmethod
    def from_json(cls, classes: Sequence[str], value: str | Sequence[Any]) -> LabelCounts:
        """What :meth:`to_json` gives, or the same as lists, ``[[[0, 2], 31], …]``.

        Raises:
            TypeError, ValueError or IndexError: it is something else.
        """
        if isinstance(value, str):
            parts = [part.split(":") for part in value.split(";") if part]
            rows: Iterable[Any] = (([int(c) for c in labels.split()], int(n)) for labels, n in parts)
        else:
            rows = value
        found: dict[LabelSet, int] = {}
        for labels, n in rows:
            if any(type(v) is not int or v < 0 for v in (*labels, n)) or len({*labels}) < len(labels):
                raise ValueError(f"a set of labels is {short_repr(list(labels))} with {short_repr(n)} images")
            names = tuple(classes[i] for i in sorted(labels))
            if names in found:
                raise ValueError(f"the labels {short_repr(list(labels))} occur twice")
            found[names] = n
        return cls.of(classes, found)

    def masses(self, of: Mapping[str, float]) -> dict[LabelSet, int]:
        """Set → images × weight, exactly, times one number that makes all of them whole; ``of``: class → weight.

        Whole numbers, because there may be as many sets as images, and fractions take ten times as long.
        """
        exact = {c: Fraction(value) for c, value in of.items()}
        unit = math.lcm(*(value.denominator for value in exact.values()))
        whole = {c: int(value * unit) for c, value in exact.items()}
        parts = math.lcm(*(len(labels) for labels in self.sets if labels))
        labelled = {s: n * sum(whole[c] for c in s) * (parts // len(s)) for s, n in self.sets.items() if s}
        images, every = sum(self.sets[s] for s in labelled), sum(labelled.values())
        if not images:
            return dict(self.sets)
        return {s: labelled[s] * images if s else n * every for s, n in self.sets.items()}

    def per_label(self, of_sets: Mapping[LabelSet, int]) -> dict[str, int]:
        """What a number for each set of labels is for each label: the sum over the sets that have it."""
        found = dict.fromkeys(self, 0)
        for labels, value in of_sets.items():
            for label in labels:
                found[label] += value
        return found


def not_built(what: str, instead: str = "") -> InputError:
    """The error of what only knows one class for each image.

    Args:
        what: in a sentence. instead: what to do, a sentence.
    """
    return InputError(
        f"{what} is for one class for each image, and not built for several labels (data.multi_label). {instead}".rstrip()
    )


def images_in(counts: Mapping[str, int]) -> int:
    """How many images there are; ``counts``: class → images."""
    return sum(counts.sets.values() if isinstance(counts, LabelCounts) else counts.values())
