"""Exact copies among images: the same pixels twice in training, on both sides of the split, or under two classes.

An image that the network was trained on says nothing about what it learned, so every copy in validation makes the result better
than it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raysweep._text import counted, plain, truncate

MOST_NAMED = 3  # copies of each kind
REPORT, DROP_TRAIN, DROP_VAL = "report", "drop_train", "drop_val"


@dataclass(frozen=True)
class Copies:
    """Counts of exact copies. ``leaked``: class → its validation images that are also in training, classes without any left out."""

    leaked: Mapping[str, int]
    other_class: int = 0  # of the leaked images, those that are in training under another class only
    surplus: int = 0  # training images that repeat an earlier one
    contradictions: int = 0  # groups of equal training images that have several classes
    dropped: int = 0  # images that data.duplicates took out
    # of several labels, which `audit` does not show: the first of each kind, in words
    named: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Copies:
        """What ``dataclasses.asdict`` has made."""
        other, surplus, contradictions, dropped = (
            int(value[k]) for k in ("other_class", "surplus", "contradictions", "dropped")
        )
        return cls(dict(value["leaked"]), other, surplus, contradictions, dropped, value.get("named", {}))

    def lines(self) -> list[str]:
        """What people should know, a sentence each."""
        found = []
        if self.dropped:
            found.append(f"Taken out, because they are on both sides of the split: {counted(self.dropped, 'image')}.")
        if self.leaked:
            most = sorted(self.leaked.items(), key=lambda item: -item[1])
            each = ", ".join(f"{plain(c)} {n:,}" for c, n in most[:5]) + (" …" if len(most) > 5 else "")
            other = (
                f", {self.other_class:,} of them {'with other labels' if self.named else 'under another class'}"
                if self.other_class
                else ""
            )
            found.append(
                f"Copies: {counted(sum(self.leaked.values()), 'validation image')} {'is' if sum(self.leaked.values()) == 1 else 'are'} "
                f"also in training ({each}){other}. Results are better than they should be; data.duplicates=drop_train takes the "
                f"training copies out.{self._named('leaked', sum(self.leaked.values()))}"
            )
        if self.surplus:
            found.append(
                f"Copies: {counted(self.surplus, 'training image')} {'repeats' if self.surplus == 1 else 'repeat'} another one.{self._named('surplus', self.surplus)}"
            )
        if self.contradictions:
            found.append(
                f"Contradictions: {counted(self.contradictions, 'group')} of equal training images {'has' if self.contradictions == 1 else 'have'} "
                f"{'different labels' if self.named else 'several classes'}.{self._named('contradictions', self.contradictions)}"
            )
        return found

    def _named(self, kind: str, every: int) -> str:
        some = self.named.get(kind, ())
        return f" {'; '.join(truncate(text, 200) for text in some)}{' …' * (len(some) < every)}." if some else ""


@dataclass(frozen=True)
class Groups:
    """The exact copies themselves. ``leaks`` and ``other_class`` bool (n_val,): which validation images are also in training, and
    which of them under another class only. ``sources``: position of a leaked validation image → those of its training images.
    ``repeated``: positions of equal training images, a tuple for each group."""

    leaks: np.ndarray
    other_class: np.ndarray
    sources: Mapping[int, Sequence[int]]
    repeated: tuple[tuple[int, ...], ...]


def groups(train: np.ndarray, train_labels: np.ndarray, val: np.ndarray, val_labels: np.ndarray) -> Groups:
    """The copies among images with these hashes (S32) and labels (int)."""
    places: dict[bytes, list[int]] = {}
    for i, key in enumerate(train.tolist()):
        places.setdefault(key, []).append(i)
    sources = {i: places[key] for i, key in enumerate(val.tolist()) if key in places}
    leaks, other = (np.zeros(len(val), dtype=bool) for _ in range(2))
    for i, rows in sources.items():
        leaks[i] = True
        other[i] = all(train_labels[j] != val_labels[i] for j in rows)
    return Groups(leaks, other, sources, tuple(tuple(rows) for rows in places.values() if len(rows) > 1))


def count(
    found: Groups,
    train_labels: np.ndarray,
    val_labels: np.ndarray,
    classes: Sequence[str],
    dropped: int,
    names: Sequence[Sequence[str]] | None = None,
) -> Copies:
    """The counts of the groups.

    Args:
        names: of the training and the validation images, where the first copies shall be named.
    """
    of_class = np.bincount(val_labels[found.leaks], minlength=len(classes)).tolist()
    several = sum(len(set(train_labels[list(rows)].tolist())) > 1 for rows in found.repeated)
    return Copies(
        {c: n for c, n in zip(classes, of_class, strict=True) if n},
        int(found.other_class.sum()),
        sum(len(rows) - 1 for rows in found.repeated),
        several,
        dropped,
        {} if names is None else _first(found, names[0], names[1], train_labels, classes),
    )


def _first(
    found: Groups, train: Sequence[str], val: Sequence[str], train_labels: np.ndarray, kinds: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The first copies of each kind in words, as in :class:`Copies`.

    Args:
        train, val: the names of the images. kinds: the names that the labels of training images are numbers of.
    """
    of = train_labels.tolist()
    leaked = [f"{val[i]} is {train[rows[0]]}" for i, rows in found.sources.items()]
    pairs = [f"{train[i]} is {train[rows[0]]}" for rows in found.repeated for i in rows[1:]]
    against = [rows for rows in found.repeated if len({of[i] for i in rows}) > 1]
    several = []
    for rows in against[:MOST_NAMED]:
        first = {of[i]: i for i in reversed(rows)}.items()  # label → the first image that has it
        each = sorted((i, label) for label, i in first)
        several.append(", ".join(f"{train[i]} has {kinds[label]}" for i, label in each[:MOST_NAMED]))
    kept = {"leaked": leaked[:MOST_NAMED], "surplus": pairs[:MOST_NAMED], "contradictions": several}
    return {kind: tuple(some) for kind, some in kept.items() if some}
