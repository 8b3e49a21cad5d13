"""What is to be said of the images' sizes where something else is refused first, so that the next command can be the last."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from raysweep.data.tree import IMAGE_SUFFIXES, is_hidden

_OF_A_FOLDER = 3
_LOOKED_AT = 60  # images


def some_images(folder: Path) -> list[Path]:
    """A few images of each of the first folders in a folder."""
    found: list[Path] = []
    for root, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not is_hidden(name))
        images = [Path(root, n) for n in names if Path(n).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(n)]
        found += sorted(images)[:_OF_A_FOLDER]
        if len(found) >= _LOOKED_AT:
            break
    return found


def advice(image_size: int | None, images: Iterable[Path]) -> str:
    """The option to add where no size is given and these images are not squares of one size; else nothing."""
    if image_size is not None:
        return ""
    from raysweep.data.decode import advised_side, header
    from raysweep.data.listing import Item

    headers = [h for path in images if (h := header(Item(str(path), 0, path))) is not None]
    sizes = {(h.width, h.height) for h in headers}
    if not sizes or (len(sizes) == 1 and all(w == h for w, h in sizes)):
        return ""
    return f" The images are not squares of one size, so add a side for all of them, too: data.image_size={advised_side(headers)}."
