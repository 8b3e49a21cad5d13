"""Options that take one of a few words, or the user's own code: ``python:MODULE:NAME``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from raysweep._text import short_repr

_FORM = re.compile(r"python:[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def target_of(value: object) -> str | None:
    """``python:MODULE:NAME`` → ``MODULE:NAME``; None for anything else.

    >>> target_of("python:mine.losses:focal"), target_of("focal")
    ('mine.losses:focal', None)
    """
    return value.removeprefix("python:") if isinstance(value, str) and value.startswith("python:") else None


@dataclass(frozen=True, init=False)
class WordOrCode:
    """Annotates a text that is one of ``words``, or the name of the user's code."""

    words: tuple[str, ...]

    def __init__(self, *words: str) -> None:
        object.__setattr__(self, "words", words)

    def check(self, value: str) -> str:
        """Raises ValueError for any other text."""
        if value in self.words or _FORM.fullmatch(value):
            return value
        if value.startswith("python:"):
            raise ValueError(
                f"{short_repr(value)} does not have the form python:MODULE:NAME, such as python:mine.code:build"
            )
        raise ValueError(
            f"{' or '.join([*map(str, self.words), 'python:MODULE:NAME'])} is needed, not {short_repr(value)}"
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        code = {"type": "string", "pattern": "^python:.+:.+$"}
        return {"anyOf": [{"enum": [*self.words]}, code]} if self.words else code


# --- names of metrics -------------------------------------------------------------------------------------------------

_METRIC = re.compile(r"[A-Za-z]\w{0,39}", re.ASCII)
_COLUMNS = "train_loss train_acc val_loss val_acc epoch lr seconds images_per_second val_macro_f1 macro_f1 balanced_accuracy worst_class"
_COLUMNS += " worst_recall order_sha256"
_OF_CLASSES = ("recall_", "f1_", "precision_", "requested_", "realised_", "distinct_")
METRICS = ("val_acc", "macro_f1", "balanced_accuracy")  # by which the best epoch can be chosen


def check_metric(name: str) -> str:
    """A metric's name, which becomes a column of the history.

    Raises:
        ValueError: it has other characters, or is that of a column that there is already.
    """
    if not _METRIC.fullmatch(name):
        raise ValueError(
            f"{short_repr(name)} is no name of a metric; take up to 40 letters, digits and _, such as g_mean"
        )
    if name in _COLUMNS.split() or name.startswith(_OF_CLASSES):
        raise ValueError(f"{name} is a column of the history already; choose another name")
    return name
