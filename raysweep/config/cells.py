"""Settings in a grid. Branches with the same settings are one cell, whose control has these settings and unchanged weights.

A schedule or a policy of weights is a way to show the classes, as weights are: it belongs to a branch, not to its cell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from raysweep._text import Nested, dotted, short_repr
from raysweep.config import branch_names
from raysweep.config.load import merge, option_names
from raysweep.config.settings import written_out
from raysweep.config.treatment import LossSection
from raysweep.errors import did_you_mean

RATIO = ("sampling.schedule", "sampling.policy", "sampling.follow")  # each sets the weights of an epoch
_WHOLE = (*RATIO, "loss.weights")  # whose keys are no settings
_ALLOWED = ("training.", "loss.", "sampling.", "model.freeze", "model.unfreeze")
_ELSEWHERE = {
    "seed": "seeds",
    "training.epochs": "epochs, which all branches share, because last epochs are compared",
    "sampling.weights": "weights, or weights in a branch",
    "sampling.shares": "shares, or shares in a branch",
    "sampling.holdout": "sampling.holdout where the lineage begins (`raysweep run`)",
}
_VALUE = 24  # letters of a value in a name

Flat = Mapping[str, Any]  # dotted key → value


def flat(settings: Mapping[str, Any]) -> Nested:
    """Settings by dotted key, whether given dotted, nested or in a short form (``loss: focal``).

    >>> flat({"loss": "focal", "loss.gamma": 1.0, "training": {"learning_rate": 0.1}})
    {'loss.kind': 'focal', 'loss.gamma': 1.0, 'training.learning_rate': 0.1}
    """
    values = nested(settings)
    whole = {name: value for name in _WHOLE if (value := at(values, name)) is not None}
    return {k: v for k, v in dotted(values) if not k.startswith(_WHOLE)} | whole


def at(values: Any, key: str) -> Any:
    """The value of a dotted key in nested settings; None if it is not there."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def nested(settings: Flat) -> Nested:
    """Dotted keys as nested settings.

    >>> nested({"loss.kind": "focal", "loss.gamma": 1.0})
    {'loss': {'kind': 'focal', 'gamma': 1.0}}
    """
    result: Nested = {}
    for name, value in settings.items():
        item = value
        for part in reversed(name.split(".")):
            item = {part: item}
        result = merge(result, written_out(item))
    return result


def overrides(settings: Flat) -> Nested:
    """What a cell overrides of its parent's settings. Another loss begins with its own defaults: the options of the parent's
    mean nothing to it."""
    given = nested(settings)
    if "loss.kind" in settings:
        given["loss"] = {**LossSection.model_validate({}).model_dump(mode="json"), **given["loss"]}
    return given


def differing(settings: Flat, before: Flat) -> Nested:
    """Those settings that are not already so in ``before``."""
    return {k: v for k, v in settings.items() if k not in before or before[k] != v}


def of_cell(settings: Flat) -> Nested:
    """The settings that a branch shares with the control of its cell."""
    return {k: v for k, v in settings.items() if k not in RATIO}


def key(settings: Flat, seed: int | None = None) -> str:
    """Equal for equal settings; also for a seed where that decides what they mean, as the permutation of ``sampling.follow``."""
    text = json.dumps(dict(sorted(settings.items())), sort_keys=True, default=str)
    return f"{text} {seed}" if "sampling.follow" in settings else text


def checked(settings: Mapping[str, Any]) -> Nested:
    """Settings of a branch by dotted key.

    Raises:
        ValueError: there is no such setting, or a sweep's branches cannot differ in it.
    """
    found = flat(settings)
    for name in found:
        if name in _ELSEWHERE:
            raise ValueError(f"{name} cannot be varied under settings; use {_ELSEWHERE[name]}")
        if name not in RATIO and not _is_setting(name):
            raise ValueError(f"there is no setting {short_repr(name)}.{did_you_mean(name, option_names())}")
        if not name.startswith(_ALLOWED):
            raise ValueError(
                f"{name} cannot be varied within a sweep, whose branches are compared on the same images and start from one "
                f"network. What can be varied: {', '.join(f'{p}…' if p.endswith('.') else p for p in _ALLOWED)}"
            )
    ways = [name for name in RATIO if found.get(name)]
    if len(ways) > 1:
        raise ValueError(f"{' and '.join(ways)} each set the weights of an epoch; keep one of them")
    return found


def _is_setting(name: str) -> bool:
    """Whether it is an option, lies in one, or is a section that may be given in a short form, such as ``training.augment.mixup``."""
    return any(
        name == o or name.startswith(f"{o}.") or (name.count(".") > 1 and o.startswith(f"{name}."))
        for o in option_names()
    )


def describe(settings: Flat) -> str:
    """A name for settings, such as ``learning_rate=0.003_loss=focal``; usable as part of a folder's name.

    >>> describe({"training.learning_rate": 0.003, "loss.kind": "focal"})
    'learning_rate=0.003_loss=focal'
    >>> describe({"sampling.schedule": [{"from": 9, "weights": "balanced"}]})
    'from9=balanced'
    """
    parts: list[str] = []
    for name, value in settings.items():
        if name == "sampling.schedule":
            parts += map(_point, value or [])
        elif name in RATIO and isinstance(value, Mapping):
            own = {k: v for k, v in value.items() if k not in ("kind", "experiment")}
            parts.append(_pair(name.rpartition(".")[2], value.get("kind", value.get("experiment"))))
            parts += [_pair(k, v) for k, v in own.items()]
        else:
            parts.append(_pair(_short(name), value))
    return branch_names.fitting("_".join(part for part in parts if part))


def _short(name: str) -> str:
    """The last part of a dotted key, where that says what it is."""
    section, _, last = name.rpartition(".")
    if last == "kind":
        return section.rpartition(".")[2]
    return name if last in ("weights", "shares") else last


def _pair(name: str, value: Any) -> str:
    return f"{name}={branch_names.value(value, _VALUE)}"


def _point(point: Any) -> str:
    """A step of a schedule: ``from9=balanced``, or ``to9=balanced`` where the shares move there."""
    if not isinstance(point, Mapping):
        return ""
    shown = {**_mapping(point.get("weights")), **_mapping(point.get("shares"))}
    given = point.get("weights")
    text = given if isinstance(given, str) else branch_names.describe(shown).replace("=", "-")
    return f"{'to' if point.get('linear') else 'from'}{point.get('from')}={text}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def levels(settings: Sequence[Flat]) -> list[dict[str, str]]:
    """Of each branch: factor → level, such as ``loss=focal``. Settings that only ever stand together are one factor: nothing tells
    them apart."""
    columns: dict[tuple[str, str], tuple[bool, ...]] = {}
    for each in settings:
        for name, given in each.items():
            column = tuple(name in s and s[name] == given for s in settings)
            columns[name, key({name: given})] = column
    joined: dict[tuple[bool, ...], list[str]] = {}
    for (name, _), column in columns.items():
        joined.setdefault(column, []).append(name)
    found: list[dict[str, str]] = [{} for _ in settings]
    for column, names in joined.items():
        for mine, each, there in zip(found, settings, column, strict=True):
            if there:
                mine[" and ".join(names)] = " and ".join(describe({name: each[name]}) for name in names)
    return found
