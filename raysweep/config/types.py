"""The types that options are made of: numbers with limits, one-line texts, a number of workers."""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from raysweep._text import Nested, short_repr, truncate

MAX_WORKERS = 100_000
MAX_OPTIONS = 10_000  # characters of JSON
MAX_DEPTH = 20


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is required, not true or false")
    return value


def one_line(value: str) -> str:
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in value):
        raise ValueError(f"{short_repr(value)} contains control characters; it must be one line of text")
    return value


def short_json(options: Nested) -> Nested:
    """Refuse what cannot be saved as JSON, or would be huge there: lists that share others are written out in full."""
    size = 0
    try:
        for part in json.JSONEncoder(allow_nan=False).iterencode(options):
            size += len(part)
            if size > MAX_OPTIONS:
                raise ValueError(f"the options are longer than {MAX_OPTIONS:,} characters of JSON")
    except (TypeError, RecursionError) as error:
        raise ValueError(f"the options cannot be saved as JSON ({truncate(error, 120)})") from None
    level: list[Any] = [options]
    for _ in range(MAX_DEPTH):
        inner = (x.values() if isinstance(x, dict) else x for x in level if isinstance(x, (dict, list, tuple)))
        level = list(itertools.chain.from_iterable(inner))
    if level:
        raise ValueError(f"the options are nested deeper than {MAX_DEPTH}")
    return options


Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, BeforeValidator(_no_bool)]
Positive = Annotated[Int, Field(ge=1, le=10**9)]
Seed = Annotated[Int, Field(ge=0, lt=2**63)]
Text = Annotated[str, Field(max_length=4096), AfterValidator(one_line)]


def _as_text(value: Any) -> Any:
    """A whole number as text: YAML reads a class that is called 0, and the number of a column, as a number."""
    return str(value) if type(value) is int and value.bit_length() < 200 else value


def _keys_as_text(value: Any) -> Any:
    return {_as_text(key): item for key, item in value.items()} if isinstance(value, dict) else value


Name = Annotated[Text, BeforeValidator(_as_text)]
Names = Annotated[dict[Name, Name], BeforeValidator(_keys_as_text)]


def check_range(value: Sequence[Any]) -> list[int]:
    """The smallest and largest number of workers.

    Raises:
        ValueError: not two integers ≥ 1 in ascending order.
    """
    whole = [n for n in value if type(n) is int]
    if len(value) != 2 or len(whole) != 2 or not 1 <= whole[0] <= whole[1] <= MAX_WORKERS:
        raise ValueError(
            f"a range of workers is two integers from 1 to {MAX_WORKERS:,}, the smaller one first, such as [2, 8], not "
            f"{short_repr(list(value))}"
        )
    return whole


def _kind_of_workers(value: Any) -> str:
    """Which of the three forms was meant, so that an error is reported once and not for each form."""
    if isinstance(value, (list, tuple)):
        return "range"
    return "auto" if isinstance(value, str) and not value.strip().lstrip("+-").isdigit() else "number"


_Least = Annotated[int, Field(ge=1, le=MAX_WORKERS)]
Workers = Annotated[
    Annotated[Literal["auto"], Tag("auto")]
    | Annotated[Int, Field(ge=0, le=MAX_WORKERS), Tag("number")]
    | Annotated[list[_Least], Field(min_length=2, max_length=2), BeforeValidator(check_range), Tag("range")],
    Discriminator(_kind_of_workers),
]


def _kind_of_moments(value: Any) -> str:
    """Which of the three forms was meant, as for the workers."""
    return "numbers" if isinstance(value, (list, tuple)) else "word" if isinstance(value, str) else "number"


Moments = Annotated[
    Annotated[Literal["imagenet", "dataset", "half", "none"], Tag("word")]
    | Annotated[Float, Tag("number")]
    | Annotated[list[Float], Field(min_length=1, max_length=3), Tag("numbers")],
    Discriminator(_kind_of_moments),
]


class Section(BaseModel):
    """A group of options: unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=False)
