"""Versions of the checkpoint format, the key ``format_version``.

Checkpoints of an older version are brought to the present one when they are read; one of a newer version is refused. A
checkpoint without a version is one of the old system, for which see :mod:`raysweep.plan.upgrade`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from raysweep._text import truncate
from raysweep.errors import NewerFormatError

State = dict[str, Any]  # what a checkpoint holds: the documented keys, checked when it is read

# STEPS[n - 1] makes a checkpoint of version n + 1 of one of version n.
STEPS: tuple[Callable[[State], State], ...] = ()
FORMAT_VERSION = 1 + len(STEPS)


def check(saved: State, path: str | Path) -> None:
    """Refuse a checkpoint of a newer version: what it holds may mean something else.

    Raises:
        NewerFormatError: it is one; the message names both versions.
    """
    version = saved.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{truncate(path)} has version {version} of the checkpoint format, but this raysweep reads versions up to "
            f"{FORMAT_VERSION}. A newer raysweep wrote it. Update raysweep: pip install --upgrade raysweep"
        )


def upgraded(saved: State) -> State:
    """A checkpoint whose keys were checked, in the present version."""
    version = saved.get("format_version")
    for step in STEPS[version - 1 :] if type(version) is int else ():
        saved = step(saved)
    return saved
