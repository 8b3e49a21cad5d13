"""What an encoded cache keeps of an image: its own bytes, or fewer that the network's size needs.

An image's own bytes are kept where they are a JPEG, PNG or WebP. Large ones, of at least twice as many pixels as the network
sees, are shrunk once to these pixels: those of JPEG and lossy WebP to a JPEG, which changes pixels a little, others to a PNG,
which changes none. Everything else becomes a PNG of the pixels that the network sees.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raysweep.data import decode, pillow
from raysweep.data.pillow import USUAL, Decoded, Geometry

SHRINK, DRAFT, CROP, FULL = "shrink", "draft", "crop", "full"  # ``data.large``
KEPT, SHRUNK, EXACT = "kept", "shrunk", "exact"
_LARGE = 2  # times as many pixels as the network sees
_QUALITY = 95
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and those of its values that exchange width and height
_LOSSY = (b"VP8 ",)  # the chunk of a lossy WebP


class Kept(NamedTuple):
    """What is kept of one image."""

    content: bytes
    size: tuple[int, int]  # its width and height, upright
    how: str  # ``kept``: its own bytes; ``shrunk``: a JPEG; ``exact``: a PNG of the pixels that the network sees
    pixels: np.ndarray | None = (
        None  # what the network sees, uint8 (side, side, channels), where it is not the image decoded whole
    )


def content_of(payload: Path | bytes | np.ndarray) -> Path | bytes | np.ndarray:
    """The bytes of a file that is read whole; what is large, or cannot be read, stays a path."""
    from raysweep.store.files import open_regular

    if not isinstance(payload, Path):
        return payload
    try:
        with open_regular(payload) as file:
            content: bytes = file.read(decode.LIGHT_BYTES + 1)
    except OSError:  # decoding will say why
        return payload
    return payload if len(content) > decode.LIGHT_BYTES else content


def keep(payload: Path | bytes | np.ndarray, found: Decoded, large: str, geometry: Geometry = USUAL) -> Kept:
    """What is kept of an image that was decoded.

    Args:
        payload: as :func:`content_of` gives it.
        found: the image decoded whole.
        large: ``data.large``. geometry: how it became a square.
    """
    if not isinstance(payload, bytes) or found.several:
        return _exact(found)
    with pillow.opened(payload) as (image, file):
        form, heavy = image.format, decode.is_heavy(image, file)
        size = image.size[::-1] if image.getexif().get(_ORIENTATION, 1) in _LYING else image.size
    if form not in ("JPEG", "MPO", "PNG", "WEBP") or heavy:
        return _exact(found)
    side, channels = found.pixels.shape[1:]
    if large == FULL or not is_large(size[0], size[1], side):
        return Kept(payload, size, KEPT)
    if large in (DRAFT, CROP):
        drawn = pillow.decode_here(payload, side, channels, geometry, draft=True).pixels
        return Kept(payload, size, KEPT, None if np.array_equal(drawn, found.pixels) else drawn)
    if form in ("JPEG", "MPO") or payload[12:16] in _LOSSY:
        smaller = _jpeg(found.pixels)
        if len(smaller) < len(payload):
            return Kept(smaller, (side, side), SHRUNK, pillow.decode_here(smaller, side, channels).pixels)
    elif len((exact := _exact(found)).content) < len(payload):
        return exact
    return Kept(payload, size, KEPT)


def is_large(width: Any, height: Any, side: int) -> Any:
    """Whether an image (or each of some) has so many more pixels than the network sees that ``data.large`` says what becomes of it."""
    return width * height >= _LARGE * side * side


def _exact(found: Decoded) -> Kept:
    side = len(found.pixels)
    return Kept(_png(found.pixels), (side, side), EXACT)


def _png(pixels: np.ndarray) -> bytes:
    return _encoded(pixels, format="PNG")


def _jpeg(pixels: np.ndarray) -> bytes:
    return _encoded(pixels, format="JPEG", quality=_QUALITY, subsampling=0)


def _encoded(pixels: np.ndarray, **options: object) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()
