"""What the files of an experiment hold, as typed records.

``from_json`` checks a value once, when it is read (the rules are in :mod:`raysweep.store.untrusted.schema`); other code can
rely on a record. ``to_json`` returns the value to write: the keys in the order of the file, with unknown ones of a newer
version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Self, TypeVar

from raysweep.label_sets import LabelCounts
from raysweep.store.untrusted import schema

# A JSON object whose content this program only passes on.
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A JSON object: its known keys are the fields of a subclass."""

    OMITTED: ClassVar[frozenset[str]] = frozenset()  # fields that are only written if they differ from the default

    more: Json = field(default_factory=dict)  # what a newer version may have added
    # All keys of the file, in their order; None for a record that was not read from a file and has all keys.
    names: Sequence[str] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The record of an object that was already checked as a part of another one."""
        return cls._of(value)

    @classmethod
    def _of(cls, value: Json, **converted: Any) -> Self:
        own = cls._own()
        names = tuple(value)
        if own.keys() >= value.keys():  # ten thousand times in a list
            return cls(**{**value, **converted}, names=names)
        known = {k: v for k, v in value.items() if k in own}
        more = {k: v for k, v in value.items() if k not in own}
        return cls(**{**known, **converted}, more=more, names=names)

    @classmethod
    def _own(cls) -> dict[str, Any]:
        """Field → its default, in the order of the fields."""
        return _defaults(cls)  # type: ignore[arg-type]  # mypy takes the hash of instances for that of the class

    def to_json(self) -> dict[str, Any]:
        """The object to be written."""
        own = self._own()
        values = {k: getattr(self, k) for k in own}
        told = [k for k, default in own.items() if values[k] != default]
        silent = self.OMITTED.difference(told)
        order = dict.fromkeys([*(own if self.names is None else self.names), *told, *self.more])
        return {k: _plain(values[k]) if k in own else self.more[k] for k in order if k not in silent}


_R = TypeVar("_R", bound=Record)


@cache
def _defaults(cls: type) -> dict[str, Any]:
    return {
        f.name: f.default_factory() if callable(f.default_factory) else f.default
        for f in fields(cls)
        if f.name not in ("more", "names")
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class ParentRef(Record):
    """The checkpoint that an experiment or a sweep started from."""

    OMITTED: ClassVar[frozenset[str]] = frozenset({"batch", "sha256", "file"})

    experiment: str
    epoch: int | None
    batch: int | None = None  # batches done of the running epoch; 0 at an epoch's end
    sha256: str | None = None
    file: str | None = None

    @property
    def reference(self) -> str:
        """``EXPERIMENT@5``."""
        return f"{self.experiment}@{self.epoch}"


@dataclass(frozen=True, slots=True)
class BranchRef(Record):
    """Which branch of a sweep an experiment is."""

    name: str
    control: bool = False
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class CodeRef(Record):
    """The source files of a ``python:`` name. Their text is in the folder of code, but for those left out."""

    OMITTED: ClassVar[frozenset[str]] = frozenset({"left_out", "option"})

    target: str  # MODULE:NAME
    folder: str  # in which the outermost module lay
    files: Mapping[str, str]  # path within it → SHA-256
    left_out: Sequence[str] = ()  # the files whose text is not kept
    option: str | None = None  # in which the name stands; None: model.name


@dataclass(frozen=True, slots=True)
class ExperimentConfig(Record):
    """``experiment_config.json``. Folders of the old system have the names down to ``experiment_description`` only."""

    OMITTED: ClassVar[frozenset[str]] = frozenset({"code", "own_code", "reset_head", "label_sets"})

    experiment_name: str | None = None
    timestamp: str | None = None
    sampling_weights: Mapping[str, float] = field(default_factory=dict)
    model_name: str | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    num_epochs: int | None = None  # of a child: after the fork
    sample_per_class: int | None = None
    use_full_dataset: bool | None = None
    resume_from_checkpoint: str | None = None
    experiment_description: str | None = None
    classes: Sequence[str] | None = None
    class_counts: Mapping[str, int] | None = None  # images of the pool
    label_sets: str | Sequence[Any] | None = None  # where an image has several labels: see LabelCounts.to_json
    data_sha256: str | None = None
    threads: int | None = None
    world_size: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    parent: ParentRef | None = None
    fresh_optimizer: bool = False
    reset_head: bool = False  # it began with a new last layer
    sweep: str | None = None
    branch: BranchRef | None = None
    imported_from: Json | None = None
    code: CodeRef | None = None  # of the model
    own_code: tuple[CodeRef, ...] = ()  # of other options
    settings: Json | None = None  # the whole configuration; None in folders of the old system

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises ValueError with what is wrong."""
        problem = schema.of_config(value)
        if problem is not None:
            raise ValueError(problem)
        return cls._of(
            value,
            sampling_weights=value.get("sampling_weights") or {},
            versions=value.get("versions") or {},
            parent=_maybe(ParentRef, value.get("parent")),
            branch=_maybe(BranchRef, value.get("branch")),
            code=_maybe(CodeRef, value.get("code")),
            own_code=tuple(CodeRef.from_json(v) for v in value.get("own_code") or ()),
        )

    @property
    def pool(self) -> dict[str, int]:
        """Class → images of the pool. Raises TypeError, ValueError or IndexError where somebody has edited the file."""
        counts = {c: int(n) for c, n in (self.class_counts or {}).items()}
        return counts if self.label_sets is None else LabelCounts.from_json(list(counts), self.label_sets)

    @property
    def all_code(self) -> list[CodeRef]:
        """Of the model and of other options."""
        return [*([self.code] if self.code else []), *self.own_code]

    @property
    def fork(self) -> int:
        """The parent's epoch at which this experiment began; 0 without a parent."""
        return (self.parent.epoch or 0) if self.parent else 0

    def setting(self, *path: str) -> Any:
        """The value at a path of the settings; None if it is missing."""
        value: Any = self.settings
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def _maybe(kind: type[_R], value: Json | None) -> _R | None:
    return None if value is None else kind.from_json(value)


@dataclass(frozen=True, slots=True)
class LineageEvent:
    """One event of ``lineage.jsonl``. Its type is one of the names in :mod:`raysweep.store.lineage`."""

    seq: int
    time: str
    type: str
    fields: Json = field(default_factory=dict)  # by the type

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises KeyError or TypeError if the value is not an event."""
        if not isinstance(value["type"], str):
            raise TypeError("an event without a type")
        rest = {k: v for k, v in value.items() if k not in ("seq", "time", "type")}
        return cls(value.get("seq", 0), value.get("time", ""), value["type"], rest)

    def to_json(self) -> dict[str, Any]:
        return {"seq": self.seq, "time": self.time, "type": self.type, **self.fields}

    @property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Dotted key → (old, new), of a change of the configuration."""
        told = self._object("changes").items()
        return {str(k): (pair[0], pair[1]) for k, pair in told if isinstance(pair, list) and len(pair) == 2}

    @property
    def given(self) -> Json:
        """Dotted key → the value that the user gave because the old system's checkpoint does not contain it."""
        return self._object("given")

    def _object(self, name: str) -> Json:
        value = self.fields.get(name)
        return value if isinstance(value, Mapping) else {}
