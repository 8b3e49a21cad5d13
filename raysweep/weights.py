"""Sampling weights: parse, complete, inherit, compare, and the shares they cause.

A weight multiplies how often an image of a class is drawn: the chance of class c per draw is
``n_c * w_c / sum_k(n_k * w_k)``, n_c being the number of images of c in the pool. A class that is not named has 1.0.
Only the standard library is used here, so that reading verbs stay light.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from raysweep._paths import read_regular
from raysweep._text import join_names, short_repr, truncate
from raysweep.errors import WeightsError, did_you_mean

MAX_BYTES = 1_000_000  # of a file of weights


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise WeightsError(f"The weights name class {short_repr(key)} twice. Keep one of the two.")
        result[key] = value
    return result


def parse(text: str) -> dict[str, Any]:
    """Weights from a JSON object or from the path of a JSON or YAML file.

    Raises:
        WeightsError: neither JSON nor a readable file, a class named twice, or not a mapping.
        ConfigError: the same of a YAML file.
    """
    source = "--weights"
    if not text.lstrip().startswith("{"):
        source = truncate(text)
        if Path(text).suffix.lower() in (".yaml", ".yml") and os.path.exists(text):
            from raysweep.config.yaml import read_yaml

            return dict(read_yaml(text))
        text = _read_text(text)
    try:
        value = json.loads(text, object_pairs_hook=_no_doubles)
    except json.JSONDecodeError as error:
        raise WeightsError(
            f"The weights in {source} are not valid JSON ({error.msg} at character {error.pos}). "
            'Names need double quotes: {"disgust": 5.0, "happy": 0.5}.'
        ) from None
    except (RecursionError, ValueError) as error:  # nested too deep, or a number of more than 4,300 digits
        reason = "nested too deep" if isinstance(error, RecursionError) else "a number of thousands of digits"
        raise WeightsError(
            f'The weights in {source} cannot be read ({reason}). They must be an object like {{"disgust": 5.0}}.'
        ) from None
    if not isinstance(value, dict):
        raise WeightsError(
            f'The weights in {source} must be an object like {{"disgust": 5.0}}, not {short_repr(value)}.'
        )
    return value


def _read_text(path: str) -> str:
    try:
        return read_regular(path, MAX_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise WeightsError(f"The weights in {truncate(path)} cannot be read: they are no text in UTF-8.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise WeightsError(
                f"{truncate(path)!r} is neither a JSON object nor a file. Write --weights '{{\"disgust\": 5.0}}', or the path of "
                "a JSON or YAML file with one class and number per line."
            ) from None
        raise WeightsError(f"The weights in {truncate(path)} cannot be read: {error.strerror}.") from None


def check_number(name: str, value: Any) -> float:
    """One weight as a float.

    Raises:
        WeightsError: not a number, NaN, infinite or negative; the message names the class.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WeightsError(
            f"The weight of class {short_repr(name)} is {short_repr(value)}, which is not a number. Give a number ≥ 0."
        )
    try:
        number = float(value)
    except OverflowError:
        raise WeightsError(
            f"The weight of class {short_repr(name)} is {short_repr(value)}. Give a smaller one."
        ) from None
    if not math.isfinite(number):
        raise WeightsError(f"The weight of class {short_repr(name)} is {number}. Give a finite number ≥ 0.")
    if number < 0:
        raise WeightsError(
            f"The weight of class {short_repr(name)} is {number:g}, but a weight says how often a class is shown and cannot be "
            "negative. Use 0 to leave the class out."
        )
    return number


def complete(weights: Mapping[str, Any], classes: Sequence[str]) -> dict[str, float]:
    """Checked weights of every class, in the order of ``classes``; classes not named get 1.0.

    Raises:
        WeightsError: an unknown class, a bad number, or no class with a weight above zero.
    """
    known = set(classes)
    for name in weights:
        if name not in known:
            raise WeightsError(
                f"The sampling weights name class {short_repr(name)}, which the data do not have."
                f"{did_you_mean(name, classes)} The classes are: {join_names(classes)}."
            )
    result = {name: check_number(name, weights.get(name, 1.0)) for name in classes}
    if not any(result.values()):
        raise WeightsError(
            f"All sampling weights are zero ({join_names(classes)}), so no image could be drawn. "
            "Give at least one class a weight above zero."
        )
    return result


def inherit(parent: Mapping[str, float], changes: Mapping[str, Any], classes: Sequence[str]) -> dict[str, float]:
    """The parent's weights with the named classes changed, checked like :func:`complete`."""
    return complete({**{c: parent.get(c, 1.0) for c in classes}, **changes}, classes)


def shares(counts: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, float]:
    """The share of each class among the images shown, in [0, 1]: ``n_c w_c / sum(n w)``.

    Raises:
        WeightsError: every class with a weight above zero is empty.
    """
    mass = {c: Fraction(counts[c]) * Fraction(weights.get(c, 1.0)) for c in counts}
    total = sum(mass.values())
    if total == 0:
        raise WeightsError("No class with a weight above zero has any image, so no image could be drawn.")
    return {c: float(m / total) for c, m in mass.items()}


def quotas(counts: Mapping[str, int], weights: Mapping[str, float], draws: int) -> dict[str, int]:
    """How many of ``draws`` images each class gets: ``draws * n_c w_c / sum(n w)``, rounded by largest remainder.

    The sum is exactly ``draws``. Exact rational arithmetic, so no platform rounds differently; ties go to the class
    that comes first. (Hamilton's method: https://en.wikipedia.org/wiki/Largest_remainders_method)
    """
    mass = {c: Fraction(counts[c]) * Fraction(weights.get(c, 1.0)) for c in counts}
    total = sum(mass.values())
    if total == 0:
        raise WeightsError("No class with a weight above zero has any image, so no image could be drawn.")
    exact = {c: draws * m / total for c, m in mass.items()}
    result = {c: int(q) for c, q in exact.items()}
    by_remainder = sorted(exact, key=lambda c: result[c] - exact[c])  # stable: ties keep the class order
    for c in by_remainder[: draws - sum(result.values())]:
        result[c] += 1
    return result


def changes(old: Mapping[str, float], new: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """The classes whose weight differs: name → (old, new)."""
    names = list(old) + [c for c in new if c not in old]
    return {c: (old.get(c, 1.0), new.get(c, 1.0)) for c in names if old.get(c, 1.0) != new.get(c, 1.0)}


def describe(weights: Mapping[str, float], base: Mapping[str, float] | None = None) -> str:
    """A short text such as ``disgust 5, happy 0.5`` of what differs from ``base`` (default: all 1.0)."""
    parts = [
        f"{c} {w:g}" if base is None else f"{c} {base.get(c, 1.0):g}→{w:g}"
        for c, w in weights.items()
        if w != (1.0 if base is None else base.get(c, 1.0))
    ]
    return ", ".join(parts) if parts else ("all 1" if base is None else "unchanged")
