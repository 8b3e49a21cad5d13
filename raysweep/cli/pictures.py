"""Write a picture where the user says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from raysweep._paths import user_path
from raysweep.errors import InputError


def write(option: str, name: str, draw: Callable[[], bytes]) -> Path:
    """Draw a PNG and write it to the file that ``option`` names.

    Raises:
        InputError: it has another suffix, or cannot be written.
    """
    target = user_path(name)
    if target.suffix.lower() != ".png":
        raise InputError(f"{option} {name}: the picture is a PNG file; give a name that ends in .png.")
    picture = draw()
    try:
        target.write_bytes(picture)
    except OSError as error:
        raise InputError(f"{option} {name}: the file cannot be written ({error.strerror}).") from None
    return target
