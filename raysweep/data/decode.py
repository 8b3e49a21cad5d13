"""Decode one image into uint8 pixels of the side and the channels that a data set uses."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raysweep.data.listing import Item
from raysweep.errors import DataError

_DEFAULT_SIDE = 48  # if no image has a readable header; decoding then reports an error for each of them


class Header(NamedTuple):
    """What an image's header says: its size in pixels, and whether it is gray."""

    width: int
    height: int
    gray: bool


def header(item: Item) -> Header | None:
    """The header of an image; None if the file cannot be opened, since decoding will report why."""
    try:
        if isinstance(item.payload, np.ndarray):
            return Header(item.payload.shape[1], item.payload.shape[0], item.payload.ndim == 2)
        with _opened(item) as image:
            width, height = image.size
            return Header(width, height, image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I"))
    except Exception:
        return None


def common_form(headers: Iterable[Header], image_size: int | None, channels: int | None) -> tuple[int, int]:
    """(side, channels) that all images are brought to.

    Args:
        headers: of all images that have one.
        image_size: the side that the user asks for; None takes the images' own side.
        channels: the channels that the user asks for; None takes 1 if all images are gray, else 3.

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
    sides = sorted(min(h.width, h.height) for h in found)
    advice = min(224, max(8, sides[len(sides) // 2]))
    raise DataError(
        f"The images are not squares of one size: they range from {sizes[0][0]}×{sizes[0][1]} to {sizes[-1][0]}×{sizes[-1][1]} "
        f"pixels. Set the side that all are resized to, for example data.image_size={advice}."
    )


def decode(item: Item, size: int, channels: int) -> np.ndarray | str:
    """uint8 (size, size, channels), or a text that says why the image cannot be decoded."""
    from PIL import Image, ImageOps

    try:
        if isinstance(item.payload, np.ndarray) and item.payload.shape == (size, size) and channels == 1:
            return item.payload[:, :, None]
        with _opened(item) as opened:
            image = _eight_bits(ImageOps.exif_transpose(opened), opened.format).convert("L" if channels == 1 else "RGB")
        if image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        return np.asarray(image, dtype=np.uint8).reshape(size, size, channels)
    except Exception as error:  # PIL raises many kinds of errors for a broken file
        return _reason(error)


def decode_file(path: str | Path, size: int, channels: int) -> np.ndarray | str:
    """One image file decoded exactly as the images of a training are; see :func:`decode`."""
    return decode(Item(str(path), 0, Path(path)), size, channels)


def _opened(item: Item) -> Any:
    """The image as PIL opens it, not yet decoded."""
    from PIL import Image

    if isinstance(item.payload, np.ndarray):
        return Image.fromarray(item.payload)
    return Image.open(item.payload if isinstance(item.payload, Path) else io.BytesIO(item.payload))


def _eight_bits(image: Any, form: str | None) -> Any:
    """16-bit gray reduced to its upper eight bits; PIL's own conversion would clip everything above 255 to white."""
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and form in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits; convert it to 8 bits")
    return image


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "not an image" if "cannot identify" in text else text
