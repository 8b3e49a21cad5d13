"""Images as users of the Python interface have them: paths, PIL images, arrays. They are drawn as those of a training."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from raysweep.data import decode, pillow
from raysweep.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Image: TypeAlias = "str | os.PathLike[str] | Picture | np.ndarray"


def each(images: Any) -> list[Any]:
    """The images of what was given: one, a sequence of them, or an array of several.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return list(images)
    if isinstance(images, (str, os.PathLike, np.ndarray)) or _is_picture(images):
        return [images]
    if isinstance(images, Sequence) or hasattr(images, "__iter__"):
        return list(images)
    raise DataError(f"images is a {type(images).__name__}: give paths, PIL images, or uint8 arrays.")


def _is_picture(value: Any) -> bool:
    from PIL import Image as pil

    return isinstance(value, pil.Image)


def named(images: Sequence[Any]) -> list[str]:
    """What each is called: its path, or its number, counted from 0."""
    return [os.fspath(v) if isinstance(v, (str, os.PathLike)) else f"#{i}" for i, v in enumerate(images)]


def drawn(
    images: Sequence[Any], size: int, channels: int, geometry: pillow.Geometry = pillow.USUAL
) -> Iterator[np.ndarray | str]:
    """Each as uint8 (size, size, channels), or a text that says why it cannot be used.

    Raises:
        DataError: an array is no image; the message says what it has to be.
    """
    with pillow.quiet():
        for number, image in enumerate(images):
            if isinstance(image, (str, os.PathLike)):
                found = decode.decode_file(Path(image), size, channels, geometry)
                yield found if isinstance(found, str) else found.pixels
            else:
                yield _of_memory(image, number, size, channels, geometry)


def _of_memory(image: Any, number: int, size: int, channels: int, geometry: pillow.Geometry) -> np.ndarray | str:
    from PIL import Image as pil

    if isinstance(image, np.ndarray):
        image = pil.fromarray(_checked(image, number))
    elif isinstance(image, pil.Image):
        image = image.copy()  # drawing turns it upright in place
    else:
        raise DataError(f"Image {number} is a {type(image).__name__}: give paths, PIL images, or uint8 arrays.")
    try:
        return pillow.draw(image, size, channels, geometry).pixels
    except (OSError, ValueError) as error:
        return pillow.reason(error)


def _checked(image: np.ndarray, number: int) -> np.ndarray:
    pixels = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    if pixels.dtype == np.uint8 and pixels.size and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        return np.ascontiguousarray(pixels)
    hint = ""
    if pixels.dtype != np.uint8:
        hint = " Of values from 0 to 1: (255 * image).round().astype('uint8')."
    elif image.ndim == 3 and image.shape[0] in (1, 3):
        hint = " Channels come last: image.transpose(1, 2, 0)."
    raise DataError(
        f"Image {number} is {image.dtype} {image.shape}: an array has to be uint8 of (height, width), (height, width, 1) or "
        f"(height, width, 3), with pixels from 0 to 255.{hint}"
    )
