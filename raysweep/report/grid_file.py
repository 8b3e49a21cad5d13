"""Write a grid to a file where the user wants it."""

from __future__ import annotations

from pathlib import Path

from raysweep._paths import user_path
from raysweep._text import truncate
from raysweep.errors import InputError


def write(name: str, text: str) -> Path:
    """Write a new file, and return its path.

    Raises:
        InputError: it exists, or cannot be written.
    """
    target = user_path(name)
    try:
        with open(target, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{truncate(name)}: the file exists. Name a new one, or delete it.") from None
    except OSError as error:
        raise InputError(f"{truncate(name)}: the file cannot be written ({error.strerror}).") from None
    return target
