"""Between treatments and points of the unit cube, in which the model of a hunt is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raysweep._text import Nested
from raysweep.config import cells
from raysweep.config.grid import BranchSpec, Range
from raysweep.config.space import Space

Array = np.ndarray


@dataclass(frozen=True)
class Treatment:
    """What a branch does otherwise: ``weights`` of classes or a rule, ``shares``, ``settings`` by dotted key. Nothing: as its parent."""

    weights: str | Mapping[str, Any] = field(default_factory=dict)
    shares: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nothing(self) -> bool:
        return not (self.weights or self.shares or self.settings)

    def to_json(self) -> Nested:
        weights = self.weights if isinstance(self.weights, str) else dict(self.weights)
        return {"weights": weights, "shares": dict(self.shares), "settings": dict(self.settings)}


@dataclass(frozen=True)
class _Axis:
    """One coordinate: a range of numbers, or a list of values, each of which is the middle of a part of [0, 1]."""

    values: Sequence[Any] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False

    @classmethod
    def of(cls, given: Sequence[Any] | Range) -> _Axis:
        if not isinstance(given, Range):
            return cls(tuple(given))
        if given.choice is not None:
            return cls(tuple(given.choice))
        low, high = given.log_uniform or given.uniform or (0.0, 1.0)
        return cls((), low, high, given.log_uniform is not None)

    def value(self, at: float) -> Any:
        if self.values:
            return self.values[min(len(self.values) - 1, int(at * len(self.values)))]
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        found = low + at * (high - low)
        return float(f"{math.exp(found) if self.log else found:.3g}")

    def at(self, value: Any) -> float:
        """Where a value is; 0.5 where it is none of the list."""
        if self.values:
            return (self.values.index(value) + 0.5) / len(self.values) if value in self.values else 0.5
        if not isinstance(value, (int, float)) or (self.log and value <= 0):
            return 0.0
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        return min(1.0, max(0.0, ((math.log(value) if self.log else value) - low) / (high - low)))


class Axes:
    """The coordinates of a space: the ways to show the classes, the weights, the settings."""

    def __init__(self, space: Space, before: Treatment) -> None:
        """
        Args:
            before: the parent's weights of all classes, and its settings by dotted key.
        """
        self._ways = list(space.ways)
        self._weights = {c: _Axis.of(r) for c, r in space.weights.items()}
        self._settings = {name: _Axis.of(given) for name, given in space.settings.items()}
        # 0: by the weights; without any there is nothing to choose but the ways and what the parent does
        self._way = _Axis(tuple(range(len(self._ways) + 1))) if self._ways else None
        self._before = before

    @property
    def dimensions(self) -> int:
        return (self._way is not None) + len(self._weights) + len(self._settings)

    @property
    def parent(self) -> Array:
        """The point of the parent's own treatment, (D,)."""
        weights = self._before.weights if isinstance(self._before.weights, Mapping) else {}
        found = [self._way.at(0)] if self._way is not None else []
        found += [axis.at(weights.get(c)) for c, axis in self._weights.items()]
        found += [axis.at(self._before.settings.get(name)) for name, axis in self._settings.items()]
        return np.array(found)

    def treatment(self, point: Array) -> Treatment:
        """What a point (D,) stands for; all weights and settings of the space are named, so it means the same after every parent."""
        way, weights, settings = self._parts(point)
        own = {name: axis.value(float(at)) for (name, axis), at in zip(self._settings.items(), settings, strict=True)}
        if way:
            spec = self._ways[way - 1]
            given = spec.weights if isinstance(spec.weights, str) else dict(spec.weights)
            return Treatment(given, dict(spec.shares), {**own, **cells.flat(spec.settings)})
        return Treatment(
            {c: axis.value(float(at)) for (c, axis), at in zip(self._weights.items(), weights, strict=True)}, {}, own
        )

    def point(self, treatment: Treatment) -> Array:
        """The point (D,) of a treatment of this space."""
        parts = []
        way = next((i for i, w in enumerate(self._ways, 1) if self._is(w, treatment)), 0)
        if self._way is not None:
            parts.append(self._way.at(way))
        weights = treatment.weights if isinstance(treatment.weights, Mapping) and not way else None
        start = len(parts)
        own = self.parent[start : start + len(self._weights)].tolist()
        parts += own if weights is None else [axis.at(weights[c]) for c, axis in self._weights.items()]
        return np.array(parts + [axis.at(treatment.settings[name]) for name, axis in self._settings.items()])

    def _is(self, way: BranchSpec, treatment: Treatment) -> bool:
        shown = {k: v for k, v in treatment.settings.items() if k not in self._settings}
        return (way.weights, way.shares, cells.flat(way.settings)) == (treatment.weights, treatment.shares, shown)

    def snapped(self, points: Array) -> Array:
        """Points (C, D) where treatments really are; those that are the same treatment are one point."""
        found = [self._snapped(point) for point in points]
        _, first = np.unique(np.round(found, 9), axis=0, return_index=True)
        result: Array = np.stack([found[i] for i in sorted(first)])
        return result

    def _snapped(self, point: Array) -> Array:
        way, weights, settings = self._parts(point)
        found = [self._way.at(way)] if self._way is not None else []
        start, axes = len(found), list(self._weights.values())
        # a way of its own shows the classes without these weights
        found += self.parent[start : start + len(axes)].tolist() if way else _there(axes, weights)
        return np.array(found + _there(list(self._settings.values()), settings))

    def _parts(self, point: Array) -> tuple[int, Array, Array]:
        start = int(self._way is not None)
        way = int(self._way.value(float(point[0]))) if self._way is not None else 0
        middle = start + len(self._weights)
        return way, point[start:middle], point[middle:]


def _there(axes: Sequence[_Axis], at: Array) -> list[float]:
    return [axis.at(axis.value(float(x))) for axis, x in zip(axes, at, strict=True)]
