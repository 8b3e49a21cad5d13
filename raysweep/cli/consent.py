"""The question whether code that somebody else may have named shall run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from raysweep._text import plain
from raysweep.display.terminal import say

if TYPE_CHECKING:
    from raysweep.display.base import Display
    from raysweep.store.trust import Trust


def consent(given: bool, display: Display | None = None) -> Trust:
    """What the user says: ``--trust``, or at a terminal the answer to a question, which is only put where it is needed.

    Args:
        given: ``--trust``.
        display: what is shown meanwhile; it stops before the question.
    """
    from raysweep.store.trust import Trust

    def ask(text: str) -> bool:
        if display is not None:
            display.close()
        say(f"{plain(text)} Experiments that raysweep 0.1 made have no such record.")
        say("Run it, and remember your answer? Type yes, or anything else to stop:")
        return sys.stdin.readline().strip().casefold() == "yes"

    return Trust(given, ask if sys.stdin.isatty() and sys.stderr.isatty() else None)
