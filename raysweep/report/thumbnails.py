"""Small pictures that stand in the text of a page, so that the page needs no other file."""

from __future__ import annotations

import base64
import io

import numpy as np

_QUALITY = 70  # of 100: a thumbnail of 48 pixels takes about 0.7 KB of text


def data_uri(image: np.ndarray, size: int) -> str:
    """A picture as the text of an ``<img src>``: WebP, which every browser of today shows.

    Args:
        image: uint8 (H, W), (H, W, 1) or (H, W, 3), as the decoded cache has it.
        size: the longer side in pixels, at most. A smaller image is not enlarged: the page does that where it is shown.
    """
    from PIL import Image

    pixels = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if max(picture.size) > size:
        picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.convert("RGB").save(out, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
