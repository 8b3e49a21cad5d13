"""One image by Pillow: opened in the formats that are offered and no other, and drawn as the training sees it."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Pillow's other formats are not opened, whatever a file is called: EPS, for one, is a program that Ghostscript would run.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
_USUAL_MODES = {"L", "RGB", "LA", "RGBA"}


class Geometry(NamedTuple):
    """How an image becomes a square without transparency: ``data.fit`` and ``data.background``."""

    fit: str = "crop"
    background: str = "white"


USUAL = Geometry()
Box = tuple[int, int, int, int]  # top, left, height and width in pixels


class Decoded(NamedTuple):
    """An image as the training sees it, and what that took."""

    pixels: np.ndarray  # uint8 (side, side, channels)
    # of the image's area that was cut off to make it a square; of the square that is border; or by which one side was longer
    cut_percent: float = 0.0
    transparent: bool = False  # whether it has transparent pixels, which were put on the background
    mode: str | None = None  # Pillow's name where it is neither gray nor RGB, with or without transparency
    several: bool = False  # whether it is an animation or has several pages; the first one counts
    size: str = ""  # width × height, as it was stored


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Around decoding: Pillow's warning about large images is not for people, because large images are taken care of."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


@contextlib.contextmanager
def opened(payload: Path | bytes) -> Iterator[tuple[Any, Any]]:
    """(The image as PIL opens it, not yet decoded; the file that it is read from)."""
    from PIL import Image

    from raysweep.store.files import open_regular

    with (
        open_regular(payload) if isinstance(payload, Path) else io.BytesIO(payload) as file,
        Image.open(file, formats=tuple(FORMATS)) as image,
    ):
        yield image, file


def draw(
    image: Any, size: int, channels: int, geometry: Geometry = USUAL, draft: bool = False, box: Box | None = None
) -> Decoded:
    """The image turned upright, without transparency, in the wanted colours, made a square and resized.

    Args:
        draft: decode a JPEG that is at least twice as large as needed at a half, a quarter or an eighth of its size, which is
            faster; the pixels are then others.
        box: the part of the upright image that becomes the square, instead of what the geometry says.
    """
    from PIL import Image, ImageOps

    mode, (width, height) = image.mode, image.size
    if draft:
        times = 1.0 if box is None else min(width, height) / min(box[2:])  # the whole is larger than its part
        image.draft(None, (math.ceil(size * times), math.ceil(size * times)))
    shrunk = width / image.width
    # a second picture in a JPEG is a preview or the other eye's
    several = image.format not in ("JPEG", "MPO") and bool(getattr(image, "is_animated", False))
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    image, transparent = _on_background(_eight_bits(image), geometry.background)
    wanted = "L" if channels == 1 else "RGB"
    if image.mode != wanted:
        image = image.convert(wanted)
    if box is not None:
        top, left, tall, wide = (number / shrunk for number in box)
        right, bottom = min(left + wide, image.width), min(top + tall, image.height)
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    elif image.size != (size, size):
        image = _fitted(image, size, geometry)
    pixels = np.asarray(image, dtype=np.uint8).reshape(size, size, channels)
    cut = 100 * (1 - min(width, height) / max(width, height))
    return Decoded(pixels, cut, transparent, None if mode in _USUAL_MODES else mode, several, f"{width}×{height}")


def _fitted(image: Any, size: int, geometry: Geometry) -> Any:
    """The image as a square of so many pixels a side."""
    from PIL import Image, ImageColor, ImageOps

    if geometry.fit == "crop":
        return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    if geometry.fit == "stretch":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    longer = max(image.size)
    width, height = (max(1, round(side * size / longer)) for side in image.size)
    square = Image.new(image.mode, (size, size), ImageColor.getcolor(geometry.background, image.mode))
    square.paste(image.resize((width, height), Image.Resampling.BILINEAR), ((size - width) // 2, (size - height) // 2))
    return square


def _eight_bits(image: Any) -> Any:
    """16-bit gray reduced to its upper eight bits; PIL's own conversion would clip everything above 255 to white."""
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image)
        deep = Image.fromarray((values >> 8).astype(np.uint8))
        key = image.info.get("transparency")  # one value that means transparent
        if isinstance(key, int) and (clear := values == key).any():
            deep.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
        return deep
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits; convert it to 8 bits")
    return image


def _on_background(image: Any, background: str) -> tuple[Any, bool]:
    """(the image on the background, True) if it has transparent pixels; else (the image itself, False).

    What colour lies under a transparent pixel is chance; without this it would become the picture.
    """
    from PIL import Image

    if not image.has_transparency_data:
        return image, False
    colours = image.convert("RGBA")
    if colours.getextrema()[3][0] == 255:
        return image, False
    under = Image.new("RGB", image.size, background)
    under.paste(colours, mask=colours)
    return under, True


def reason(error: Exception) -> str:
    """Why an image cannot be decoded, as one short line."""
    if isinstance(error, MemoryError):
        return "decoding it takes more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"not an image of a kind that is read ({', '.join(FORMATS)})" if "cannot identify" in text else text


def decode_here(
    payload: Path | bytes,
    size: int,
    channels: int,
    geometry: Geometry = USUAL,
    draft: bool = False,
    box: Box | None = None,
) -> Decoded:
    """An encoded image of any size, decoded in this process; see :func:`draw`. Raises what Pillow raises."""
    with opened(payload) as (image, _):
        return draw(image, size, channels, geometry, draft, box)
