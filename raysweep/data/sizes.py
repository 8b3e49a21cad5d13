"""What is to be said of the images' sizes where something else is refused first, so that the next command can be the last."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from raysweep.data.tree import IMAGE_SUFFIXES, is_hidden

_ENOUGH = 500  # images whose sizes are known, once two sizes are
_MOST = 5000  # images whose headers are read


def images_in(folder: Path) -> Iterator[Path]:
    """The images of a folder at any depth."""
    for root, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not is_hidden(name))
        yield from (
            Path(root, n) for n in sorted(names) if Path(n).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(n)
        )


def advice(image_size: int | None, images: Iterable[Path]) -> str:
    """The option to add where no size is given and the images are not squares of one size; else nothing."""
    side = None if image_size is not None else advised(images)
    if side is None:
        return ""
    return f" The images are not squares of one size, so add a side for all of them, too: data.image_size={side}."


def advised(images: Iterable[Path]) -> int | None:
    """The side of a square for all images; None where they are squares of one size."""
    from raysweep.data.decode import Header, advised_side, header
    from raysweep.data.listing import Item

    headers: list[Header] = []
    odd = False
    for path in itertools.islice(images, _MOST):
        found = header(Item(str(path), 0, path))
        if found is not None:
            headers.append(found)
            odd = odd or found.width != found.height or found[:2] != headers[0][:2]
        if odd and len(headers) >= _ENOUGH:
            break
    return advised_side(headers) if odd else None
