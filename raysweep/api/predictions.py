"""What a network predicts for images that a user gives."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from raysweep._text import MAX_LISTED, counted, percent, truncate
from raysweep.report import thumbnails
from raysweep.report.card import MOST_ROWS, WORSE, Card, Cell, Shown, Table, left_out
from raysweep.report.findings.binary import THRESHOLD
from raysweep.store.root import Root
from raysweep.store.trust import Trust
from raysweep.tools import images as of_user
from raysweep.tools import predict as networks

if TYPE_CHECKING:
    import pandas as pd

_THUMBNAIL = 48  # pixels


@dataclass(frozen=True, repr=False, eq=False)
class Predictions(Shown):
    """One row for each image, in the order given.

    ``probabilities``: float32 (n, classes), NaN for images that could not be used. ``names``: paths, or ``#0``, ``#1`` … for images in memory.
    ``left_out``: name → why it could not be used. ``source``: the checkpoint.
    """

    source: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    probabilities: np.ndarray
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    pictures: tuple[np.ndarray | None, ...] = ()  # of the first images, as the network saw them
    multi_label: bool = False  # an image has several labels, each with a probability of its own

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> list[str | None]:
        """The class of the highest probability, or of several labels those above 0.5 as ``a|b``; None for images that could not be used."""
        good = ~np.isnan(self.probabilities[:, 0])
        if self.multi_label:
            chosen = [
                [c for c, p in zip(self.classes, row, strict=True) if p > THRESHOLD] for row in self.probabilities
            ]
            return ["|".join(some) if ok else None for some, ok in zip(chosen, good.tolist(), strict=True)]
        best = np.where(good, np.nan_to_num(self.probabilities).argmax(1), -1)
        return [None if i < 0 else self.classes[i] for i in best.tolist()]

    @property
    def confidence(self) -> np.ndarray:
        """float32 (n,): the highest probability; NaN for images that could not be used."""
        return self.probabilities.max(1)  # type: ignore[no-any-return]

    def to_pandas(self) -> pd.DataFrame:
        """A row for each image: ``image``, ``class``, ``probability``, then the probability of each class as ``p_CLASS``."""
        import pandas as pd

        first = pd.DataFrame({"image": self.names, "class": self.labels, "probability": self.confidence})
        return pd.concat([first, pd.DataFrame(self.probabilities, columns=[f"p_{c}" for c in self.classes])], axis=1)

    def card(self) -> Card:
        labels = self.labels
        rows: list[list[str | Cell]] = []
        for i, name in enumerate(self.names[:MOST_ROWS]):
            picture = self.pictures[i] if i < len(self.pictures) else None
            shown = Cell(
                truncate(name, 60), picture="" if picture is None else thumbnails.data_uri(picture, _THUMBNAIL)
            )
            if labels[i] is None:
                rows.append([shown, Cell(self.left_out.get(name, ""), WORSE), "", ""])
                continue
            first, *others = np.argsort(-self.probabilities[i], kind="stable")[:2].tolist()
            then = [f"{self.classes[j]} {percent(float(self.probabilities[i, j]))}" for j in others]
            said = labels[i] or "–" if self.multi_label else self.classes[first]
            rows.append([shown, said, percent(float(self.probabilities[i, first])), *(then or [""])])
        columns = [("image", "l"), ("class", "l"), ("probability", "r"), ("next", "l")]
        columns = [("image", "l"), ("labels", "l"), ("highest", "r"), ("next", "l")] if self.multi_label else columns
        table = Table(columns, rows, left_out(len(self) - len(rows), "image", "images", ".to_pandas()"))
        lines = [(WORSE, f"{counted(len(self.left_out), 'image')} could not be used.")] if self.left_out else []
        lines += [("", f"Note: {note}") for note in self.notes]
        return Card(
            "Predictions",
            f"of {counted(len(self), 'image')} by {self.source}",
            tables=[table] if rows else [],
            lines=lines,
        )


def predict(
    root: Root,
    reference: str,
    images: Any,
    adjust: str | None,
    classes: Sequence[str] | None,
    settings: Mapping[str, Any] | None,
    trust: Trust,
) -> Predictions:
    """See :meth:`raysweep.api.experiment.Experiment.predict`."""
    every = of_user.each(images)
    network = networks.load(root, reference, settings, classes, trust, adjust)
    height, _, channels = network.shape
    found = np.full((len(every), len(network.classes)), np.nan, np.float32)
    names = of_user.named(every)
    bad: dict[str, str] = {}
    pictures: list[np.ndarray | None] = []
    for start in range(0, len(every), networks.AT_ONCE):
        drawn = list(of_user.drawn(every[start : start + networks.AT_ONCE], height, channels, network.geometry))
        good = {start + i: pixels for i, pixels in enumerate(drawn) if not isinstance(pixels, str)}
        if good:
            found[list(good)] = network.probabilities(np.stack(list(good.values())))
        bad |= {names[start + i]: why for i, why in enumerate(drawn) if isinstance(why, str)}
        pictures += [None if isinstance(p, str) else p for p in drawn][: MOST_ROWS - len(pictures)]
    if bad:
        told = "; ".join(f"{truncate(name)} ({why})" for name, why in list(bad.items())[:MAX_LISTED])
        more = f"; and {len(bad) - MAX_LISTED:,} more, which .left_out names" if len(bad) > MAX_LISTED else ""
        warnings.warn(f"{len(bad):,} of {counted(len(every), 'image')} cannot be used: {told}{more}.", stacklevel=3)
    notes = (*network.notes, *([str(network.adjustment)] if network.adjustment is not None else []))
    several = network.multi_label
    return Predictions(network.source, network.classes, tuple(names), found, bad, notes, tuple(pictures), several)
