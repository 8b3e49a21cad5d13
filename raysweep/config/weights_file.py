"""Weights that a user names with ``--weights``.

A rule (``balanced``, ``power=0.5``), a list (``disgust=5,fear=35%``), a JSON object, or the path of a JSON or YAML file.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

from raysweep._paths import is_no_folder, read_regular
from raysweep._text import Nested, short_repr, truncate
from raysweep.errors import WeightsError, did_you_mean
from raysweep.weights import check_number
from raysweep.weights_by_rule import NAMES, is_share

MAX_BYTES = 1_000_000


def _no_doubles(pairs: list[tuple[str, Any]]) -> Nested:
    result: Nested = {}
    for key, value in pairs:
        if key in result:
            raise WeightsError(f"The weights name class {short_repr(key)} twice. Keep one of the two.")
        result[key] = value
    return result


def parse(text: str) -> str | Nested:
    """Weights from a rule's name, a list, a JSON object, or the path of a JSON or YAML file.

    >>> parse("balanced"), parse("disgust=5, fear=35%"), parse('{"disgust": 5.0}')
    ('balanced', {'disgust': 5.0, 'fear': '35%'}, {'disgust': 5.0})

    Raises:
        WeightsError: none of them, a class named twice, or not a mapping.
        ConfigError: the same of a YAML file.
    """
    source = "--weights"
    if text.strip() in NAMES and not is_no_folder(text):
        return text.strip()
    if "=" in text and not text.lstrip().startswith("{") and not is_no_folder(text):
        return _listed(text)
    if not text.lstrip().startswith("{"):
        source = truncate(text)
        if Path(text).suffix.lower() in (".yaml", ".yml") and is_no_folder(text):
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


def _listed(text: str) -> Nested:
    """Weights from ``disgust=5,fear=35%``."""
    pairs = []
    for item in text.split(","):
        name, equals, value = (part.strip() for part in item.rpartition("="))
        if not equals or not name or not value:
            raise WeightsError(
                f"--weights {short_repr(text)} cannot be read at {short_repr(item.strip())}. Write class=number, with commas between, such as "
                'disgust=5,fear=2. A class with a comma in its name needs JSON: {"a, b": 2}.'
            )
        pairs.append((name, value if is_share(value) else _number(name, value)))
    return _no_doubles(pairs)


def _number(name: str, value: str) -> float:
    try:
        return check_number(name, float(value))
    except ValueError:
        return check_number(name, value)  # raises with the class's name


def _read_text(path: str) -> str:
    try:
        return read_regular(path, MAX_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise WeightsError(f"The weights in {truncate(path)} cannot be read: they are no text in UTF-8.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise WeightsError(
                f"{truncate(path)!r} is no rule (balanced, sqrt, natural), no JSON object and no file.{did_you_mean(path, NAMES)} Write "
                "--weights disgust=5,fear=2, --weights '{\"disgust\": 5.0}', or the path of a JSON or YAML file with one class and "
                "number per line."
            ) from None
        remedy = " Name a JSON or YAML file in it." if error.errno == errno.EISDIR else ""
        raise WeightsError(f"The weights in {truncate(path)} cannot be read: {error.strerror}.{remedy}") from None
