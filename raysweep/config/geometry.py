"""The options ``data.fit`` and ``data.background``: how an image becomes a square without transparency."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from raysweep._text import short_repr

COLOURS = ("white", "black", "gray")


def _colour(value: str) -> str:
    text = value.strip().lower()
    if text not in COLOURS and not re.fullmatch(r"#[0-9a-f]{6}", text):
        raise ValueError(f"{short_repr(value)} is no colour: take {', '.join(COLOURS)} or one such as '#ff8800'")
    return text


Fit = Literal["crop", "pad", "stretch"]
Colour = Annotated[str, Field(max_length=20), AfterValidator(_colour)]
FIT: Any = Field(
    "crop",
    description="How images that are not square become so. crop: their middle is kept; pad: they are put on a border of background; stretch: "
    "their sides are scaled apart. How much that changes is counted.",
)
BACKGROUND: Any = Field(
    "white",
    description="What transparent pixels and the border of fit: pad become: white, black, gray, or a colour such as '#ff8800'.",
)
