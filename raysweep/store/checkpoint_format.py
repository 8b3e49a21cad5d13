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
# Version 2 has keys without which an earlier raysweep would go on from other weights; files without them stay of version 1.
# Version 3 is of networks with several labels for an image, whose outputs an earlier raysweep would take for those of one class.
STEPS: tuple[Callable[[State], State], ...] = (lambda saved: saved, lambda saved: saved)
FORMAT_VERSION = 1 + len(STEPS)
MULTI_LABEL = "multi_label"
_SINCE_2 = ("trained_state_dict", "frozen")


def versioned(state: State) -> State:
    """A checkpoint that is about to be written, with the least version that says all that it holds."""
    least = 3 if MULTI_LABEL in state else 2 if any(key in state for key in _SINCE_2) else 1
    return {"format_version": least, **state}


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
