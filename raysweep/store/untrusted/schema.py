"""The rules for the content of a checkpoint, of an experiment's configuration and of a sweep; checked here, once.

A file may come from anybody, and even an undamaged file may have anything under any key. Code that reads it after these
checks can rely on them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raysweep._text import check_class, short_repr, truncate
from raysweep.errors import CheckpointError
from raysweep.store import layout

MOST_CLASSES = 10_000
_MOST = 10**9  # epochs, batches, images
_DEEP = 50
_VALUES = 20_000_000  # counted as if written out, because nested references can stand for billions of values

# A rule returns what is wrong with a value, in words that follow the value's name; or None.
Rule = Callable[[Any], str | None]


def check(state: Mapping[str, Any], path: str | Path) -> None:
    """Check every key of a checkpoint that raysweep uses.

    Raises:
        CheckpointError: a key does not have the content it must have; the message names the first such key.
    """
    problem = _fields(_CHECKPOINT)(state)
    if problem is None and "classes" in state:  # the old system wrote no classes, and None for a missing batch
        problem = _fields(_OURS)(state)
    classes, weights = state.get("classes"), state.get("sampling_weights")
    if problem is None and classes is not None and weights is not None and {*classes} != {*weights}:
        problem = ".sampling_weights does not name the same classes as classes"
    if problem is None:
        try:
            _measure(state, "", 0, {})
        except _TooMuchError as error:
            problem = str(error)
    if problem is not None:
        raise CheckpointError(
            f"{truncate(path)} does not have the content of a checkpoint: {problem[1:]}. Take another checkpoint."
        )


def of_config(value: Any) -> str | None:
    """What is wrong with the top-level keys of ``experiment_config.json``, or None."""
    problem = _fields(_CONFIG)(value)
    return problem and problem[1:]


def of_sweep(value: Any) -> str | None:
    """What is wrong with the content of ``sweep.json``, or None."""
    if not isinstance(value, dict) or not isinstance(value.get("branches"), list):
        return "there is no list of branches"
    problem = _fields(_SWEEP)(value) or next((f" branches{p}" for p in map(_BRANCH, value["branches"]) if p), None)
    return problem and problem[1:]


def of_folds(value: Any) -> str | None:
    """What is wrong with the content of ``folds.json``, or None."""
    problem = _FOLDS(value) or next((f" parts{p}" for p in map(_PART, value["parts"]) if p), None)
    return problem and problem[1:]


def of_hunt(value: Any) -> str | None:
    """What is wrong with the content of ``hunt.json``, or None."""
    problem = _HUNT(value) or next((f" rounds{p}" for p in map(_ROUND, value["rounds"]) if p), None)
    return problem and problem[1:]


class _TooMuchError(Exception):
    """A value is larger or deeper than any checkpoint is."""


def _measure(value: Any, place: str, level: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(values, levels) of a container, as if everything in it were written out. Each container is visited once.

    Args:
        place: the dotted key of the container, for the error.
        level: how deep it is itself.
        known: id of a container → its result.

    Raises:
        _TooMuchError: it has more values or levels than any checkpoint; the message gives the place.
    """
    if level <= _DEEP and id(value) not in known:
        size = height = 0
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(item, (dict, list, tuple)):
                inner = _measure(item, f"{place}.{key}" if isinstance(key, str) else place, level + 1, known)
                size, height = size + inner[0], max(height, inner[1] + 1)
            size += 1
        known[id(value)] = size, height
    size, height = known.get(id(value), (0, 1))
    if level + height > _DEEP or size > _VALUES:
        raise _TooMuchError(
            f"{truncate(place, 200)} is nested deeper than {_DEEP} levels, or has more than {_VALUES:,} values"
        )
    return size, height


# --- rules ------------------------------------------------------------------------------------------------------------


def number(value: Any) -> bool:
    """Whether a value is a finite number (true and false are none)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _must(test: Callable[[Any], bool], what: str) -> Rule:
    return lambda value: None if test(value) else f" must be {what}, not {short_repr(value)}"


def _or_none(rule: Rule) -> Rule:
    return lambda value: None if value is None else rule(value)


def _fields(rules: Mapping[str, Rule], *needed: str) -> Rule:
    """A mapping whose keys obey these rules. Only the ``needed`` keys must exist; other keys are ignored."""

    def rule(value: Any) -> str | None:
        if not isinstance(value, dict):
            return _mapping(value)
        for key, inner in rules.items():
            problem = inner(value[key]) if key in value else " is missing" if key in needed else None
            if problem is not None:
                return f".{key}{problem}"
        return None

    return rule


def _each(name: str, inner: Rule) -> Rule:
    """A mapping from texts to values that obey a rule; ``name`` is what a message calls one of its values."""

    def rule(value: Any) -> str | None:
        if not isinstance(value, dict):
            return _mapping(value)
        for key, item in value.items():
            problem = inner(item) if isinstance(key, str) else " must have a text as its key"
            if problem is not None:
                return f" is wrong: the {name} {short_repr(key)}{problem}"
        return None

    return rule


def _list_of(inner: Rule) -> Rule:
    """A list of values that obey a rule."""

    def rule(value: Any) -> str | None:
        return _list(value) or next((p for p in map(inner, value) if p is not None), None)

    return rule


def _classes(value: Any) -> str | None:
    if not isinstance(value, list) or not all(isinstance(c, str) for c in value):
        return f" must be a list of texts, not {short_repr(value)}"
    if not 1 <= len({*value}) == len(value) <= MOST_CLASSES:
        different = f" of which {len({*value}):,} are different" if len({*value}) < len(value) else ""
        return f" must be 1 to {MOST_CLASSES:,} different names, not {len(value):,} names{different}"
    try:
        for name in value:
            check_class(name)
    except ValueError as error:
        return f" is wrong: {error}"
    return None


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _are_numbers(value: Any, *counts: int) -> bool:
    return isinstance(value, list) and len(value) in counts and all(map(number, value))


_number = _must(number, "a number")
_count = _must(lambda v: type(v) is int and 0 <= v <= _MOST, f"a whole number from 0 to {_MOST:,}")
_text = _must(lambda v: isinstance(v, str), "a text")
_mapping = _must(lambda v: isinstance(v, dict), "a mapping")
_flag = _must(lambda v: isinstance(v, bool), "true or false")
_list = _must(lambda v: isinstance(v, list), "a list")
_weight = _must(lambda v: number(v) and v >= 0, "a number ≥ 0")
_column = _must(
    lambda v: (
        isinstance(v, list) and all(x is None or (isinstance(x, (int, float)) and type(x) is not bool) for x in v)
    ),
    "a list of numbers",
)
_mean = _must(lambda v: _are_numbers(v, 1, 3) and max(map(abs, v)) <= 255, "one number per channel, at most 255")
_std = _must(lambda v: _are_numbers(v, 1, 3) and 0 < min(v) <= max(v) <= 255, "one number above zero per channel")
_shape = _must(
    lambda v: _are_numbers(v, 3) and not any(map(_count, v)) and v[2] in (1, 3), "height, width and 1 or 3 channels"
)
_meters = _must(lambda v: isinstance(v, list) and all(_are_numbers(r, 4) for r in v), "four numbers for each rank")
_rows = _must(lambda v: isinstance(v, dict) and all(isinstance(r, dict) for r in v.values()), "a mapping of mappings")
_groups = _must(
    lambda v: isinstance(v, list) and all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in v),
    "a list of mappings with params",
)

_PARENT = _fields(
    {"experiment": _text, "epoch": _or_none(_count), "batch": _or_none(_count), "sha256": _text, "file": _text},
    *("experiment", "epoch"),
)
_CODE = _fields(
    {"target": _text, "folder": _text, "files": _each("hash of", _text), "left_out": _list, "option": _or_none(_text)},
    *("target", "folder", "files"),
)
_CONFIG: dict[str, Rule] = {
    "sampling_weights": _or_none(_each("weight of class", _weight)),
    "num_epochs": _or_none(_count),
    "settings": _mapping,
    "classes": _or_none(_classes),
    "class_counts": _or_none(_each("number of class", _count)),
    "label_sets": _or_none(_must(lambda v: isinstance(v, (str, list)), "a text or a list")),
    "threads": _or_none(_count),
    "world_size": _or_none(_count),
    "data_sha256": _or_none(_text),
    "parent": _or_none(_PARENT),
    "sweep": _or_none(_text),
    "branch": _or_none(_fields({"name": _text}, "name")),
    "code": _or_none(_CODE),
    "own_code": _or_none(_list_of(_CODE)),
}
_BRANCH = _fields(
    {"name": _text, "weights": _each("weight of class", _weight), "seed": _or_none(_count)}, "name", "weights"
)
_SWEEP: dict[str, Rule] = {
    "name": _text,
    "parent": _PARENT,
    "parent_weights": _or_none(_each("weight of class", _weight)),
    "settings": _mapping,
    "grid": _mapping,
    "epochs": _or_none(_count),
    "threads": _or_none(_count),
    "workers": _or_none(_count),
    "looks": _count,
    "race": _mapping,
    "in_process": _flag,
    "trained_to": _or_none(_count),
}
_PATIENCE = _fields(
    {"metric": _text, "best_epoch": _count, "best": _number, "waited": _count, "patience": _count},
    *("metric", "best_epoch", "best", "waited", "patience"),
)
_FOLDS = _fields(
    {
        "id": _text,
        "name": _text,
        "description": _text,
        "timestamp": _text,
        "checkpoint": _PARENT,
        "parent_epochs": _count,
        "settings": _fields(
            {"data": _mapping, "training": _mapping, "scaling": _mapping}, "data", "training", "scaling"
        ),
        "grid": _mapping,
        "request": _mapping,
        "parts": _list,
    },
    *("id", "name", "description", "timestamp", "checkpoint", "parent_epochs", "settings", "grid", "request", "parts"),
)
_HUNT_FIELDS: dict[str, Rule] = {
    **dict.fromkeys(("id", "name", "description", "timestamp", "proposer"), _text),
    **dict.fromkeys(("planned", "seed", "epochs", "images", "at_once"), _count),
    **dict.fromkeys(("budget", "space", "request", "settings"), _mapping),
    "parent": _PARENT,
    "rounds": _list,
}
_HUNT = _fields({**_HUNT_FIELDS, "steps": _mapping, "end": _mapping}, *_HUNT_FIELDS)
_ROUND_FIELDS: dict[str, Rule] = {
    "number": _count,
    "start": _text,
    "trainings": _count,
    "grid": _mapping,
    "treatments": _mapping,
}
_ROUND = _fields(_ROUND_FIELDS, *_ROUND_FIELDS)
_PART = _fields({"fold": _count, "parent": _or_none(_text), "sweep": _or_none(_text)}, "fold")
_CHECKPOINT: dict[str, Rule] = {
    "format_version": _must(lambda v: type(v) is int and v > 0, "a whole number above zero"),
    "epoch": _count,
    "current_batch": _or_none(_count),
    "total_batches": _or_none(_count),
    "world_size": _count,
    "threads": _or_none(_count),
    "best_acc": _number,
    "classes": _or_none(_classes),
    "sampling_weights": _or_none(_each("weight of class", _weight)),
    "policy_decision": _or_none(
        _fields(
            {"epoch": _count, "weights": _each("weight of class", _weight), "reason": _mapping},
            "epoch",
            "weights",
            "reason",
        )
    ),
    "patience": _or_none(_PATIENCE),
    "history": _each("column", _column),
    "config": _fields(_CONFIG),
    "experiment": _or_none(_text),
    "data_sha256": _or_none(_text),
    "conditions": _or_none(_each("condition", _must(lambda v: isinstance(v, (int, float, str)), "a number or a text"))),
    "model_state_dict": _each("value of", _must(_is_tensor, "a tensor")),
    "frozen": _or_none(
        _fields(
            {
                "file": _must(lambda v: v == layout.FROZEN, layout.FROZEN),
                "sha256": _text,
                "bytes": _must(lambda v: type(v) is int and v >= 0, "a whole number"),
                "names": _list_of(_text),
            },
            *("file", "sha256", "bytes", "names"),
        )
    ),
    "trained_state_dict": _or_none(_each("value of", _must(_is_tensor, "a tensor"))),
    "own_state": _or_none(_each("state of", _fields({"target": _text, "ranks": _list}, "target", "ranks"))),
    "optimizer_state_dict": _fields({"state": _rows, "param_groups": _groups}, "state", "param_groups"),
    "rng_state": _or_none(_list),
    "preprocessing": _or_none(_fields({"mean": _mean, "std": _std, "shape": _shape}, "mean", "std")),
    "sampler_state": _or_none(_fields({"meters": _meters})),
}
_OURS: dict[str, Rule] = {"classes": _classes, "current_batch": _count, "total_batches": _count}
