"""Weights that a user names with ``--weights``: a JSON object, or the path of a JSON or YAML file."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from raysweep._paths import read_regular
from raysweep._text import short_repr, truncate
from raysweep.errors import WeightsError

MAX_BYTES = 1_000_000


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
