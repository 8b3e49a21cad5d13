"""The record of how an encoded cache keeps its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raysweep._text import counted
from raysweep.data.pillow import Geometry
from raysweep.store.space import size


@dataclass(frozen=True)
class Stored:
    """The record of an encoded cache: how many images are kept in which way, and what that takes."""

    bytes: int
    pixels_bytes: int  # what the same images take as pixels
    kept: int  # by their own bytes
    shrunk: int  # by a JPEG of what the network sees
    exact: int  # by a PNG of what the network sees
    other_pixels: int  # that are not what they are when decoded whole
    large: str
    fit: str
    background: str
    why: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Stored:
        """What ``dataclasses.asdict`` has made."""
        return cls(**value)

    @property
    def geometry(self) -> Geometry:
        """How the images become squares."""
        return Geometry(self.fit, self.background)

    def line(self) -> str:
        """What people should know."""
        images = self.kept + self.shrunk + self.exact
        text = f"Kept encoded: {counted(images, 'image')} in {size(self.bytes)}"
        text += f", because {self.why}." if self.why else f"; as pixels they would take {size(self.pixels_bytes)}."
        if self.shrunk:
            text += f" {counted(self.shrunk, 'large one')} shrunk once to what the network sees, as JPEG of quality 95, which changes pixels a little."
        if self.exact:
            text += f" {counted(self.exact, 'image')} kept as PNG of what the network sees, which changes none."
        if self.other_pixels > self.shrunk:
            text += f" {counted(self.other_pixels - self.shrunk, 'large one')} decoded at a part of their size (data.large={self.large}), which"
            text += " changes pixels a little."
            text += " Random crops are cut from them as they are stored." if self.large == "crop" else ""
        return text
