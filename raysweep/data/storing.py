"""How a cache keeps its images: as pixels, decoded once, or encoded, decoded whenever they are needed; and which of the two."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from raysweep import _machine
from raysweep.config.settings import DataSection
from raysweep.data import arrays
from raysweep.data.listing import Item, size_of
from raysweep.data.pillow import Geometry
from raysweep.store import space
from raysweep.store.space import size

AUTO, PIXELS, ENCODED = "auto", "pixels", "encoded"
_HEADER = 1000  # bytes of an encoded image besides its pixels
_USUAL = 0.4  # of the bytes of their pixels, which photographs take as JPEG of quality 95


@dataclass(frozen=True)
class Way:
    """How the images of a data set are kept. ``form``: (side, channels) of what the network sees."""

    kind: str
    form: tuple[int, int]
    large: str
    geometry: Geometry
    why: str = ""  # where it was not asked for


def geometry_of(data: DataSection) -> Geometry:
    """How the images of a data set become squares."""
    return Geometry(data.fit, data.background)


def kinds(data: DataSection) -> tuple[str, ...]:
    """Which caches of these data may be used, the preferred one first."""
    return (PIXELS, ENCODED) if data.cache == AUTO else (data.cache,)


def pixels_bytes(images: int, form: tuple[int, int]) -> int:
    """Bytes of so many images as pixels."""
    return images * form[0] * form[0] * form[1]


def encoded_bytes(items: Iterable[Item], form: tuple[int, int], shrinks: bool, part: float = 1.0) -> int:
    """Bytes that images take at most when they are kept encoded, as far as their files say.

    Args:
        part: what a shrunk image takes of its pixels' bytes.
    """
    whole = pixels_bytes(1, form)
    most = _HEADER + int(part * whole)
    sizes = (size_of(item.payload) for item in items)
    return sum(n if n <= whole or not shrinks else min(n, most) for n in sizes)


def choose(data: DataSection, items: list[Item], form: tuple[int, int], base: Path) -> Way:
    """How to keep these images; for ``data.cache=auto`` by their size, this machine's memory and the free space in ``base``.

    Pixels are faster as long as they fit, since nothing is decoded twice.
    """
    geometry = geometry_of(data)
    if data.cache != AUTO:
        return Way(data.cache, form, data.large, geometry)
    as_pixels, free, memory = pixels_bytes(len(items), form), space.free(base), memory_here()
    if free is not None and arrays.peak((as_pixels,)) > free:
        why = f"as pixels they would take {size(as_pixels)}, and {size(free)} are free there"
    elif as_pixels > memory:
        why = f"as pixels they would take {size(as_pixels)}, more than the {size(memory)} of this machine's memory"
    else:
        return Way(PIXELS, form, data.large, geometry)
    if 2 * encoded_bytes(items, form, data.large == "shrink", _USUAL) > as_pixels:  # little is won
        return Way(PIXELS, form, data.large, geometry)
    return Way(ENCODED, form, data.large, geometry, why)


def memory_here() -> int:
    """Bytes of this machine's memory, or of its container's."""
    total = _machine.memory_here()
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(file).read_text()))
        except (OSError, ValueError):  # no container, or one without a limit
            continue
    return total
