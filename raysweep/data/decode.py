"""Decode one image into uint8 pixels of the side and the channels that a data set uses."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raysweep.data import heavy, pillow
from raysweep.data.listing import Item
from raysweep.data.pillow import USUAL, Decoded, Geometry
from raysweep.data.reading import percent
from raysweep.errors import DataError

# What is more than this is decoded apart, see raysweep.data.heavy.
LIGHT_PIXELS = 25_000_000
LIGHT_WORK = 250_000_000  # pixels times the passes in which a progressive JPEG is drawn
LIGHT_BYTES = 64_000_000  # of the encoded image
_SCAN = b"\xff\xda"  # begins each pass of a JPEG
_TILE = (322, 323)  # TIFF's tags for the size of a tile
_DEFAULT_SIDE = 48  # if no image has a readable header; decoding then reports an error for each of them


class Header(NamedTuple):
    """What an image's header says: its size in pixels, and whether it is gray."""

    width: int
    height: int
    gray: bool


def header(item: Item) -> Header | None:
    """The header of an image; None if the file cannot be opened, since decoding will report why."""
    try:
        payload = item.content
        if isinstance(payload, np.ndarray):
            return Header(payload.shape[1], payload.shape[0], payload.ndim == 2)
        with pillow.opened(payload) as (image, _):
            width, height = image.size
            return Header(width, height, image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I"))
    except Exception:
        return None


def common_form(
    headers: Iterable[Header], image_size: int | None, channels: int | None, fit: str = "crop"
) -> tuple[int, int]:
    """(side, channels) that all images are brought to.

    Args:
        headers: of all images that have one.
        image_size: the side that the user asks for; None takes the images' own side.
        channels: the channels that the user asks for; None takes 1 if all images are gray, else 3.
        fit: how images become squares, for the message.

    Raises:
        DataError: no side is given, and the images are not squares of one size.
    """
    found = list(headers)
    channels = channels or (1 if all(h.gray for h in found) else 3)
    if image_size is not None:
        return image_size, channels
    sizes = sorted({(h.width, h.height) for h in found})
    if not sizes:
        return _DEFAULT_SIDE, channels
    if len(sizes) == 1 and sizes[0][0] == sizes[0][1]:
        return sizes[0][0], channels
    raise DataError(
        f"The images are not squares of one size: they range from {sizes[0][0]}×{sizes[0][1]} to {sizes[-1][0]}×{sizes[-1][1]} "
        f"pixels. Set the side that all are resized to, for example data.image_size={advised_side(found)}."
        f"{_what_fitting_does(found, fit)}"
    )


def _what_fitting_does(headers: Sequence[Header], fit: str) -> str:
    """A sentence with a leading space on what ``data.fit`` makes of images that are not square; nothing where all are."""
    cut = [100 * (1 - min(h.width, h.height) / max(h.width, h.height)) for h in headers if h.width != h.height]
    if not cut:
        return ""
    mean, most = percent(sum(cut) / len(cut)), percent(max(cut))
    others = {
        "crop": f"{mean} of the area of each is cut off",
        "pad": f"{mean} of the square is border",
        "stretch": f"one side shrinks by {mean} against the other",
    }
    told = [f"with data.fit={way} {what}" for way, what in others.items() if way != fit]
    return f" {len(cut):,} of {len(headers):,} are not square: {others[fit]} on average, at most {most} (data.fit={fit}); {', '.join(told)}."


def advised_side(headers: Sequence[Header]) -> int:
    """A side for images of several sizes: the median of their shorter sides, within bounds."""
    sides = sorted(min(h.width, h.height) for h in headers)
    return min(224, max(8, sides[len(sides) // 2]))


def decode(item: Item, size: int, channels: int, geometry: Geometry = USUAL) -> Decoded | str:
    """The image as ``size`` × ``size`` pixels of so many channels, or a text that says why it cannot be decoded."""
    try:
        payload = item.content
        if isinstance(payload, np.ndarray):
            return _of_array(payload, size, channels, geometry)
        with pillow.opened(payload) as (image, file):
            if not is_heavy(image, file):
                return pillow.draw(image, size, channels, geometry)
        return heavy.decode(payload, size, channels, geometry)
    except Exception as error:  # PIL raises many kinds of errors for a broken file
        return pillow.reason(error)


def decode_file(path: str | Path, size: int, channels: int, geometry: Geometry = USUAL) -> Decoded | str:
    """One image file decoded exactly as the images of a training are; see :func:`decode`."""
    return decode(Item(str(path), 0, Path(path)), size, channels, geometry)


def _of_array(pixels: np.ndarray, size: int, channels: int, geometry: Geometry) -> Decoded:
    from PIL import Image

    if pixels.shape == (size, size) and channels == 1:
        return Decoded(pixels[:, :, None], size=f"{size}×{size}")
    return pillow.draw(Image.fromarray(pixels), size, channels, geometry)


def is_heavy(image: Any, file: Any) -> bool:
    """Whether decoding may take long or much memory. The image's position in the file stays the same."""
    pixels = int(image.width * image.height)
    if image.format == "TIFF":
        pixels = max(pixels, int(np.prod([image.tag_v2.get(tag, 1) for tag in _TILE])))
    position = file.tell()
    try:
        if pixels > LIGHT_PIXELS or file.seek(0, io.SEEK_END) > LIGHT_BYTES:
            return True
        if not image.info.get("progressive") and image.info.get("compression") not in ("jpeg", "tiff_jpeg"):
            return False
        file.seek(0)
        scans: int = file.read().count(_SCAN)
        return pixels * scans > LIGHT_WORK
    finally:
        file.seek(position)
