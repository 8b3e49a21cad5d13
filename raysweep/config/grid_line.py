"""A small grid on one line of the command line: ``disgust=3,5 fear=2 loss.kind=focal seeds=0,1``."""

from __future__ import annotations

import shlex
from typing import Any

from raysweep._text import Nested, short_repr
from raysweep.config import cells
from raysweep.config import grid as grids
from raysweep.config.grid import Grid
from raysweep.config.load import option_names, parse_overrides
from raysweep.config.settings import FIRST
from raysweep.errors import ConfigError
from raysweep.weights_by_rule import NAMES

_COUNTS = ("epochs", "control_seeds")
_EXAMPLE = "such as --grid 'disgust=3,5 fear=2'"


def parse(text: str) -> Grid:
    """The grid that a line means. Each word is ``CLASS=weights``, ``SETTING=values``, the name of a rule, or ``seeds=``, ``epochs=``,
    ``control_seeds=``, ``fork=restart``; lists are separated by commas. A name with a space stands in quotation marks;
    one with a comma or equals sign needs a grid file.

    >>> parse("disgust=3,5 fear=35% balanced").weights
    {'disgust': [3.0, 5.0], 'fear': ['35%']}

    Raises:
        ConfigError: what cannot be read, or what is wrong with the grid.
    """
    values: Nested = {}
    try:
        words = shlex.split(text)
    except ValueError:
        raise ConfigError(f"--grid {short_repr(text)}: a quotation mark has no partner.") from None
    for word in words:
        _add(values, word)
    return grids.check(values, "--grid")


def _add(values: Nested, word: str) -> None:
    name, equals, text = word.partition("=")
    if not equals and word in NAMES:
        values.setdefault("branches", []).append({"name": word, "weights": word})
        return
    given = [part.strip() for part in text.split(",")]
    if not name or not equals or not all(given):
        raise ConfigError(
            f"--grid: {short_repr(word)} cannot be read. Give CLASS=WEIGHT,WEIGHT or SETTING=VALUE,VALUE or a rule ({', '.join(NAMES)}), "
            f"{_EXAMPLE}. Put a name with spaces in quotation marks: '\"small dot\"=4'."
        )
    section, key, found = _place(name, given)
    known = values.setdefault(section, {}) if key else values
    if known.get(key or section):
        raise ConfigError(f"--grid: {name} stands there twice; give its values in one list: {name}={text},…")
    known[key or section] = found


def _place(name: str, given: list[str]) -> tuple[str, str, Any]:
    """(section of the grid, key in it, value)."""
    if name in _COUNTS or name == "seeds":
        try:
            numbers = [int(part) for part in given]
        except ValueError:
            raise ConfigError(f"--grid: {name}={','.join(given)} must be whole numbers.") from None
        if name == "seeds":
            return "seeds", "", numbers
        if len(numbers) > 1:
            raise ConfigError(f"--grid: {name} takes one number, not {len(numbers)}.")
        return name, "", numbers[0]
    if name == "fork":
        return name, "schedule", ",".join(given)
    known = (o for o in option_names() if "." in name)
    if name in FIRST or any(o.startswith(f"{name}.") or name == o or name.startswith(f"{o}.") for o in known):
        return "settings", name, [cells.at(parse_overrides([f"{name}={part}"]), name) for part in given]
    return "weights", name, [_weight(part) for part in given]


def _weight(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # a share such as 35%; what is neither is an error of the grid
