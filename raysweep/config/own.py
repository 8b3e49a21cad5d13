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
        raise ValueError(f"{', '.join(self.words)} or python:MODULE:NAME is needed, not {short_repr(value)}")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        code = {"type": "string", "pattern": "^python:.+:.+$"}
        return {"anyOf": [{"enum": [*self.words]}, code]} if self.words else code
