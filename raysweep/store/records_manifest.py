"""``manifest.json`` as typed records: the committed checkpoints and the best of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from raysweep._text import short_repr
from raysweep.store import files, layout
from raysweep.store.layout import Position
from raysweep.store.records import Json, Record
from raysweep.store.untrusted import schema

_KEYS = ("format_version", "experiment", "checkpoints", "best", "predictions", "sealed", "images")
_TEXTS = ("worst_class", "order_sha256")  # metrics that are not numbers


@dataclass(frozen=True, slots=True)
class ManifestEntry(Record):
    """One committed checkpoint, as the manifest records it."""

    OMITTED: ClassVar[frozenset[str]] = frozenset({"model_sha256"})

    file: str
    bytes: int
    sha256: str
    epoch: int  # the epoch that ended, or the running one of a mid-epoch checkpoint
    batch: int | None  # batches done of the running epoch; None at an epoch's end
    created: str
    metrics: dict[str, Any] = field(default_factory=dict)
    model_sha256: str | None = None  # of the epoch's bare state_dict; None where none is recorded

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The position of the checkpoint is taken from the name of its file, which cannot point out of the folder.

        Raises:
            KeyError, TypeError, ValueError: the value is not a row of a manifest.
        """
        position = layout.parse_checkpoint_name(value["file"])
        if position is None or type(value["epoch"]) is not int or type(value["bytes"]) is not int:
            raise ValueError("it is no row of a manifest")
        metrics = {
            key: v
            for key, v in dict(value.get("metrics") or {}).items()
            if v is None or (isinstance(v, str) if key in _TEXTS else schema.number(v))
        }
        return cls._of(
            value,
            sha256=str(value["sha256"]),
            epoch=position.epoch,
            batch=position.batch,
            created=str(value.get("created", "")),
            metrics=metrics,
            model_sha256=model if isinstance(model := value.get("model_sha256"), str) else None,
        )

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.batch)

    def verify(self, folder: Path) -> str | None:
        """What is wrong with the file, or None if its size and hash are as recorded."""
        path = folder / self.file
        try:
            if not files.inside(folder.resolve().parent, path):
                return f"{self.file} is a link that leads out of the root"
            size = path.stat().st_size
            if size != self.bytes:
                return f"{self.file} has {size:,} bytes instead of {self.bytes:,}"
            if files.sha256_file(path) != self.sha256:
                return f"{self.file} does not have the recorded SHA-256"
        except FileNotFoundError:
            return f"{self.file} is missing"
        except OSError as error:
            return f"{self.file} cannot be read ({error.strerror})"
        return None


@dataclass(frozen=True, slots=True)
class BestEpoch(Record):
    """The best of an experiment's own epochs."""

    epoch: int
    file: str
    metric: str = "val_acc"  # by which it was chosen
    value: float = -1.0  # less than any real value, so that the next epoch is better


@dataclass(frozen=True, slots=True)
class SealedRef(Record):
    """The sealed test images of an experiment: how many, and the hash that :func:`raysweep.data.sealed.open_sealed` checks."""

    images: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The committed checkpoints, oldest first, the best of them, and what was wrong with the file or its rows."""

    entries: Sequence[ManifestEntry] = ()
    best: BestEpoch | None = None
    problems: Sequence[str] = ()
    predictions: Mapping[int, str] = field(default_factory=dict)  # epoch in the predictions' file → SHA-256 of its rows
    sealed: SealedRef | None = None  # None: without test images, or written by an earlier version
    # SHA-256 of what the file of the validation images says; None where an earlier version wrote it
    images: str | None = None
    more: Json = field(default_factory=dict)

    @property
    def ends(self) -> list[ManifestEntry]:
        """The entries at the end of an epoch."""
        return [e for e in self.entries if e.batch is None]

    @property
    def best_file(self) -> str | None:
        return self.best.file if self.best else None

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """A damaged row does not count, and ``best`` is None if its value in the file is not possible.

        Raises:
            ValueError: the value is not a manifest.
        """
        if not isinstance(value, dict) or not isinstance(value.get("checkpoints"), list):
            raise ValueError("it has no list of checkpoints")
        entries, problems = [], []
        for row in value["checkpoints"]:
            try:
                entries.append(entry := ManifestEntry.from_json(row))
                if (row["epoch"], row.get("batch")) != entry.position:
                    problems.append(f"{layout.MANIFEST} contradicts the name of {entry.file}, which counts")
            except (KeyError, TypeError, ValueError):
                name = row.get("file") if isinstance(row, dict) else row
                problems.append(f"{layout.MANIFEST} has a damaged row ({short_repr(name)}), which does not count")
        entries.sort(key=lambda e: e.position.order)
        more = {k: v for k, v in value.items() if k not in _KEYS}
        best, predictions = _best(value.get("best"), entries), _predictions(value.get("predictions"))
        images = told if isinstance(told := value.get("images"), str) else None
        return cls(tuple(entries), best, tuple(problems), predictions, _sealed(value.get("sealed")), images, more)

    def to_json(self, experiment_id: str) -> dict[str, Any]:
        rows = [e.to_json() for e in sorted(self.entries, key=lambda e: e.position.order)]
        best = self.best.to_json() if self.best else None
        told: Json = {"predictions": {str(e): v for e, v in self.predictions.items()}} if self.predictions else {}
        told = told if self.images is None else {**told, "images": self.images}
        return {
            "format_version": 1,
            "experiment": experiment_id,
            "checkpoints": rows,
            "best": best,
            **told,
            **({"sealed": self.sealed.to_json()} if self.sealed else {}),
            **self.more,
        }


def _predictions(told: Any) -> dict[int, str]:
    """Epoch → hash; what is neither does not count."""
    rows = told.items() if isinstance(told, dict) else ()
    return {int(e): v for e, v in rows if isinstance(e, str) and e.isdecimal() and len(e) < 10 and isinstance(v, str)}


def _sealed(told: Any) -> SealedRef | None:
    """None where it is no such record."""
    known = isinstance(told, dict) and type(told.get("images")) is int and isinstance(told.get("sha256"), str)
    return SealedRef.from_json(told) if known else None


def _best(told: Any, entries: Sequence[ManifestEntry]) -> BestEpoch | None:
    """The best epoch in a manifest, if it is the end of an epoch. A missing value is taken from its row."""
    name = told.get("file") if isinstance(told, dict) else None
    if not isinstance(name, str) or layout.parse_checkpoint_name(name) != (told.get("epoch"), None):
        return None
    best = BestEpoch.from_json({**told, "metric": str(told.get("metric", "val_acc"))})
    if schema.number(told.get("value")):
        return best
    known = next((e.metrics.get(best.metric) for e in entries if e.file == name), None)
    return replace(best, value=-1.0 if known is None else known)
